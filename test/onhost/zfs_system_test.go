//go:build system

package onhost

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/vm"
)

const tank, tankParent = "tank", "tank/kubernetes"

// newSiteOnZFS makes a site with a ZFS pool of the host, shared by ZFS itself, and gives Berth's
// arguments.
func newSiteOnZFS(t *testing.T, name string) (s *site, args []string) {
	t.Helper()
	s = newSite(t, name)
	s.must(vm.NewPool(s.ctx, s, tank, 1<<30))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, err := s.Run(ctx, "rm", "-f", "/etc/exports.d/zfs.exports") // where ZFS has what it shares
		if err := errors.Join(vm.RemovePool(ctx, s, tank), err); err != nil {
			t.Error(err)
		}
	})
	s.sh(`zfs create "$1"; : >/etc/exports; sync`, tankParent)
	s.must(os.WriteFile(filepath.Join(s.Shared, "zfs.yaml"), []byte(fmt.Sprintf(`
pools:
- {name: tank, provisioner: %[1]s, zfs: {dataset: %[2]s, shareOptions: "%[6]s"}}
server: {hostname: %[3]s}
http: {listen: "%[3]s:%[4]s"}
kubernetes: {kubeconfig: %[5]s}
`, s.provisioner, tankParent, s.Address, httpPort, kubeconfig, s.shareWithHost())), 0o600))
	return s, []string{"serve", "--config", "/host/zfs.yaml"}
}

// refuses waits for the end of a Berth that cannot start, and for what it says of that.
func (b *berth) refuses(want string) {
	b.s.t.Helper()
	err := <-b.ended
	b.ended <- err
	if err == nil || !strings.Contains(b.text(), want) {
		b.s.t.Fatalf("Berth ended with %v and has not said %q:\n%s", err, want, b.text())
	}
}

// volumes are the PersistentVolumes of the site's class.
func (s *site) volumes() map[string]v1.PersistentVolume {
	s.t.Helper()
	list, err := shared.client.CoreV1().PersistentVolumes().List(s.ctx, metav1.ListOptions{})
	s.must(err)
	all := map[string]v1.PersistentVolume{}
	for _, pv := range list.Items {
		if pv.Spec.StorageClassName == s.name {
			all[pv.Name] = pv
		}
	}
	return all
}

// write writes a file into a volume as its client, so that it is on the server's disk.
func (s *site) write(pv *v1.PersistentVolume, text string) {
	s.t.Helper()
	dir := s.mount(pv, "vers=4.2")
	s.sh(`echo "$2" >"$1/file"; sync "$1/file"; umount "$1"`, dir, text)
}

func (s *site) wantFile(pv *v1.PersistentVolume, want string) {
	s.t.Helper()
	dir := s.mount(pv, "vers=4.2")
	if got := strings.TrimSpace(s.sh(`cat "$1/file"; umount "$1"`, dir)); got != want {
		s.t.Errorf("volume %s reads %q, want %q", pv.Name, got, want)
	}
}

// The power of a ZFS host fails while claims are made, written to and deleted. It comes back with the pool not
// imported, then imported, then with no more mounted than the parent: Berth says what is missing, and
// serves all volumes as soon as it can. What was begun is finished, and nothing is lost or left.
func TestDatasetsThroughAPowerCut(t *testing.T) {
	const many = 4
	s, args := newSiteOnZFS(t, "powercut")
	s.startKernel()
	b := s.berth(args...)
	b.untilReady()
	claims := shared.client.CoreV1().PersistentVolumeClaims(s.name)
	kept, gone := map[string]*v1.PersistentVolume{}, map[string]*v1.PersistentVolume{}
	s.must(harness.CreateClaims(s.ctx, shared.client, s.name, "kept", s.name, 2))
	s.must(harness.CreateClaims(s.ctx, shared.client, s.name, "gone", s.name, many))
	for i := range 2 {
		name := fmt.Sprint("kept-", i)
		kept[name] = s.bound(name)
		s.write(kept[name], "data of "+name)
	}
	for i := range many {
		name := fmt.Sprint("gone-", i)
		gone[name] = s.bound(name)
	}

	s.must(harness.CreateClaims(s.ctx, shared.client, s.name, "late", s.name, many))
	for name := range gone {
		s.must(claims.Delete(s.ctx, name, metav1.DeleteOptions{}))
	}
	writing := s.mount(kept["kept-0"], "vers=4.2")
	s.sh(`(while date >>"$1/log" && sync "$1/log"; do :; done) >/dev/null 2>&1 &`, writing)
	s.until("some claims are served, and some volumes gone", func() bool {
		made, left := 0, 0
		for _, pv := range s.volumes() {
			switch name := pv.Spec.ClaimRef.Name; {
			case gone[name] != nil:
				left++
			case kept[name] == nil:
				made++
			}
		}
		return made > 0 && left < many
	})
	s.must(s.Reboot(s.ctx))
	b.kill()

	s.berth(args...).refuses("zpool import " + tank)
	s.sh(`zpool import -c /etc/zfs/zpool.cache -a -N`)
	s.berth(args...).refuses("zfs mount " + tankParent)
	if left := s.sh(`find "/$1" -mindepth 1`, tank); left != "" {
		t.Errorf("where the pool is not mounted yet there is %s", left)
	}
	s.sh(`zfs mount "$1"; zfs mount "$2"`, tank, tankParent)
	s.startKernel()
	b = s.berth(args...)
	s.until("all volumes are shared again", func() bool { return strings.Contains(b.text(), "serving claims") })

	for name, pv := range kept {
		s.wantFile(pv, "data of "+name)
	}
	if log := s.sh(`cat "$1/log"`, s.mount(kept["kept-0"], "vers=4.2")); !strings.HasSuffix(log, "\n") {
		t.Errorf("what was written until the end reads %q", log)
	}
	live := map[string]bool{}
	for _, pv := range kept {
		live[pv.Name] = true
	}
	for i := range many {
		pv := s.bound(fmt.Sprint("late-", i))
		live[pv.Name] = true
		s.write(pv, pv.Name)
		s.wantFile(pv, pv.Name)
	}
	s.until("the deletions are finished", func() bool {
		return maps.EqualFunc(s.volumes(), live, func(v1.PersistentVolume, bool) bool { return true })
	})
	want := []string{tankParent, tankParent + "/.berth"}
	for name := range live {
		want = append(want, tankParent+"/"+name)
	}
	slices.Sort(want)
	s.until("there are the datasets of the volumes that are left, and no others", func() bool {
		got := strings.Fields(s.sh(`zfs list -rHo name -t all "$1"`, tankParent))
		slices.Sort(got)
		return slices.Equal(got, want)
	})
	s.must(claims.DeleteCollection(s.ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	s.until("the pool is empty", func() bool {
		return len(s.volumes()) == 0 && s.sh(`zfs list -rHo name -t all "$1"`, tankParent) == tankParent+"\n"+tankParent+"/.berth\n"
	})
}

// suspend has ZFS suspend a pool whose disk is a file in a file system of its own, by leaving no room there: what
// ZFS writes then fails. It gives a function that mends that.
func (s *site) suspend(pool string) (mend func()) {
	s.t.Helper()
	s.sh(`cat /dev/zero >"/mnt/$1/filler" 2>/dev/null || :
cat /dev/urandom 2>/dev/null >"/$1/provoke" & echo $! >"/run/$1.pid"
zpool sync "$1" >/dev/null 2>&1 &`, pool)
	s.until(pool+" is suspended", func() bool { return s.sh(`cat "/proc/spl/kstat/zfs/$1/state"`, pool) == "SUSPENDED\n" })
	return func() {
		s.sh(`kill "$(cat "/run/$1.pid")"; rm "/mnt/$1/filler"; zpool clear "$1"`, pool)
	}
}

// A pool whose disks do not answer keeps nobody waiting: neither claims of another pool of the same Berth, nor
// probes, nor its end. When it is mended, what was asked for is done.
func TestSuspendedPool(t *testing.T) {
	const lame = "lame"
	s, args := newSiteOnZFS(t, "suspended")
	s.sh(`mkdir -p "/mnt/$1"; mount -t tmpfs -o size=160m none "/mnt/$1"; truncate -s 1G "/mnt/$1/disk"
zpool create "$1" "/mnt/$1/disk"; zfs create "$1/kubernetes"`, lame)
	mend := sync.OnceFunc(func() {})
	t.Cleanup(func() {
		s.ctx = context.WithoutCancel(s.ctx)
		mend()
		s.sh(`zpool destroy -f "$1"; umount "/mnt/$1"`, lame)
	})
	file := filepath.Join(s.Shared, "zfs.yaml")
	config, err := os.ReadFile(file)
	s.must(err)
	more := fmt.Sprintf("\npools:\n- {name: lame, provisioner: %s, exporter: none, zfs: {dataset: lame/kubernetes, volumeType: hostPath, node: host}}", s.provisioner)
	s.must(os.WriteFile(file, []byte(strings.Replace(string(config), "\npools:", more, 1)), 0o600))
	for _, pool := range []string{tank, lame} {
		s.class("suspended-"+pool, map[string]string{"pool": pool})
	}
	s.startKernel()
	b := s.berth(args...)
	b.untilReady()
	s.claim("before", "suspended-lame")

	mend = sync.OnceFunc(s.suspend(lame))
	s.until("Berth says that the pool is not available", func() bool {
		_, text := b.probe()
		return strings.Contains(text, "pool lame is not available")
	})
	claims := shared.client.CoreV1().PersistentVolumeClaims(s.name)
	_, err = claims.Create(s.ctx, harness.NewClaim(s.name, "waits", "suspended-lame"), metav1.CreateOptions{})
	s.must(err)
	s.until("the claim's events say what to do", func() bool {
		events, err := shared.client.CoreV1().Events(s.name).List(s.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=waits"})
		s.must(err)
		return slices.ContainsFunc(events.Items, func(e v1.Event) bool { return strings.Contains(e.Message, "zpool clear lame") })
	})
	s.deleteClaim("served", s.claim("served", "suspended-"+tank))
	s.sh(`kill -TERM $(pidof berth)`)
	b.ended <- <-b.ended // although what was begun there has not ended

	s.berth(args...).refuses("zpool clear " + lame)
	mend()
	b = s.berth(args...)
	b.untilReady()
	s.bound("waits")
	for _, name := range []string{"before", "waits"} {
		s.deleteClaim(name, s.bound(name))
	}
}

// oldDataset makes a claim with a volume as kubernetes-zfs-provisioner made them, shared with this host.
func (s *site) oldDataset(claim string, reclaim v1.PersistentVolumeReclaimPolicy) *v1.PersistentVolume {
	s.t.Helper()
	c, err := shared.client.CoreV1().PersistentVolumeClaims(s.name).Create(s.ctx, harness.NewClaim(s.name, claim, s.name), metav1.CreateOptions{})
	s.must(err)
	name := "pvc-" + string(c.UID)
	s.sh(`zfs create -o refquota=8M -o refreservation=8M -o sharenfs="$2" "$1"`, tankParent+"/"+name, s.shareWithHost())
	_, err = shared.client.CoreV1().PersistentVolumes().Create(s.ctx, &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{
			"pv.kubernetes.io/provisioned-by": s.provisioner, "kubernetes.io/createdby": "zfs-provisioner",
		}},
		Spec: v1.PersistentVolumeSpec{
			StorageClassName: s.name, AccessModes: c.Spec.AccessModes, PersistentVolumeReclaimPolicy: reclaim,
			Capacity:               v1.ResourceList{v1.ResourceStorage: resource.MustParse("8Mi")},
			ClaimRef:               &v1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: s.name, Name: claim, UID: c.UID},
			PersistentVolumeSource: v1.PersistentVolumeSource{NFS: &v1.NFSVolumeSource{Server: s.Address, Path: "/" + tankParent + "/" + name}},
		},
	}, metav1.CreateOptions{})
	s.must(err)
	return s.bound(claim)
}

func (s *site) shareWithHost() string { return "rw=@" + s.Address + "/32,no_root_squash" }

// What kubernetes-zfs-provisioner has shared clients read and write while Berth adopts it, and after that. It
// stays shared as it was, and is deleted or retained as its PersistentVolume says.
func TestSharedDatasetsAreAdopted(t *testing.T) {
	s, _ := newSiteOnZFS(t, "adopted")
	s.startKernel()
	deleted, retained := s.oldDataset("deleted", v1.PersistentVolumeReclaimDelete), s.oldDataset("retained", v1.PersistentVolumeReclaimRetain)
	mounted := map[string]string{"3": s.mount(deleted, "vers=3,nolock,soft"), "4.2": s.mount(retained, "vers=4.2,soft")}
	for _, dir := range mounted {
		s.sh(`(while [ ! -e /run/enough ]; do date >>"$1/log" && sync "$1/log" && cat "$1/log" || exec touch "/run/failed.${1##*/}"; sleep 0.1; done) >/dev/null 2>&1 &`, dir)
	}
	t.Cleanup(func() { // also if the test fails, because they keep the pool busy
		s.ctx = context.WithoutCancel(s.ctx)
		s.sh(`touch /run/enough`)
	})
	wantProgress := func() {
		t.Helper()
		for version, dir := range mounted {
			lines := func() string {
				return s.sh(`if [ -e "/run/failed.${1##*/}" ]; then echo failed; else cat "$1/log" 2>/dev/null | wc -l; fi`, dir)
			}
			before := lines()
			s.until("a client writes on by NFS version "+version, func() bool { return lines() != before })
			if lines() == "failed\n" {
				t.Fatalf("a client by NFS version %s could not write on", version)
			}
		}
	}
	wantProgress()
	b := s.start("env", "ZFS_PARENT_DATASET="+tankParent, "ZFS_PROVISIONER_NAME="+s.provisioner, "ZFS_KUBE_CONF="+kubeconfig,
		"ZFS_SHARE_OPTIONS=rw=@192.0.2.0/24", "ZFS_SERVER_HOSTNAME="+s.Address, "ZFS_METRICS_ADDR="+s.Address, "ZFS_METRICS_PORT="+httpPort,
		berthBinary, "zfs-provisioner")
	b.untilReady()
	s.until("the volumes are adopted", func() bool { return strings.Contains(b.text(), "volumes=2 before=0 leftAlone=0") })
	wantProgress()
	for _, pv := range []*v1.PersistentVolume{deleted, retained} {
		dataset := tankParent + "/" + pv.Name
		if got := s.sh(`zfs get -Ho value sharenfs "$1"`, dataset); got != s.shareWithHost()+"\n" {
			t.Errorf("%s is shared as %s", dataset, got)
		}
	}
	fresh := s.claim("fresh", s.name)
	if got := s.sh(`zfs get -Ho value sharenfs "$1"`, tankParent+"/"+fresh.Name); got != "rw=@192.0.2.0/24\n" {
		t.Errorf("a new dataset is shared as %s", got)
	}
	wantProgress()
	s.sh(`touch /run/enough`)

	s.must(shared.client.CoreV1().PersistentVolumeClaims(s.name).Delete(s.ctx, "retained", metav1.DeleteOptions{}))
	s.deleteClaim("deleted", deleted)
	s.deleteClaim("fresh", fresh)
	s.until("the deleted volumes are gone, and the retained one is there", func() bool {
		return s.sh(`zfs list -rHo name -t all "$1"`, tankParent) == tankParent+"\n"+tankParent+"/.berth\n"+tankParent+"/"+retained.Name+"\n"
	})
	if out, err := s.Run(s.ctx, "ls", mounted["3"]); err == nil {
		t.Errorf("a deleted volume is still there: %s", out)
	}
	if log := s.sh(`cat "$1/log"`, "/"+tankParent+"/"+retained.Name); log == "" {
		t.Error("nothing is left in the retained volume")
	}
}
