//go:build system

package onhost

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/vm"
)

// nfsProvisioner are the arguments of the drop-in, as the documents have it "on the
// host".
func (s *site) nfsProvisioner(root string, more ...string) []string {
	return append([]string{
		"nfs-provisioner", "-provisioner=" + s.provisioner, "-kubeconfig=" + kubeconfig, "-run-server=false",
		"-export-root=" + root, "-server-hostname=" + s.Address, "-http-listen=" + s.Address + ":" + httpPort,
	}, more...)
}

// startKernel has the host's own server serve what its files say, as at boot.
func (s *site) startKernel() {
	s.t.Helper()
	s.sh(`exportfs -r`)
	s.must(vm.StartNFSD(s.ctx, s))
}

// The kernel's server as the documents have it, from a host that does not serve NFS yet
// to one that was rebooted, and to the end of all volumes.
func TestKernel(t *testing.T) {
	s := newSite(t, "kernel")
	const root, foreign = "/srv/kernel", "/srv/foreign *(ro,no_subtree_check,fsid=99)\n"
	s.sh(`mkdir -p "$1" /srv/foreign; printf %s "$2" >/etc/exports; sync /etc/exports /srv`, root, foreign)
	args := s.nfsProvisioner(root, "-use-ganesha=false", "-export-subnet=127.0.0.0/8,"+s.Address+"/32")
	b := s.berth(args...)
	s.until("Berth says that nobody serves NFS", func() bool {
		return b.readyz() == http.StatusServiceUnavailable && strings.Contains(b.text(), "systemctl start nfs-server")
	})
	s.startKernel()
	b.untilReady()

	kept, gone := s.claim("kept", s.name), s.claim("gone", s.name)
	if want := filepath.Join(root, kept.Name); kept.Spec.NFS.Path != want || kept.Spec.NFS.Server != s.Address {
		t.Errorf("clients mount %s:%s, want %s:%s", kept.Spec.NFS.Server, kept.Spec.NFS.Path, s.Address, want)
	}
	for _, version := range []string{"3", "4.2"} {
		dir := s.mount(kept, "vers="+version)
		s.sh(`echo written by "$2" >"$1/$2"; sync -f "$1/$2"`, dir, version)
	}
	dir := s.mount(gone, "vers=4.2")
	s.sh(`echo data >"$1/file"; sync -f "$1/file"`, dir)
	s.deleteClaim("gone", gone)
	if out, err := s.Run(s.ctx, "ls", dir); err == nil {
		t.Errorf("a deleted volume is still there: %s", out)
	}

	// The power fails. At boot the host serves what it did, also before Berth runs.
	s.must(s.Reboot(s.ctx))
	b.kill()
	s.startKernel()
	again := s.mount(kept, "vers=4.2")
	if got := s.sh(`cat "$1"/*`, again); got != "written by 3\nwritten by 4.2\n" {
		t.Errorf("after a reboot the files have %q", got)
	}
	b = s.berth(args...)
	b.untilReady()
	s.sh(`echo after >"$1/after"; sync -f "$1/after"`, again)
	s.deleteClaim("kept", kept)
	s.until("nothing is left of the volumes", func() bool {
		return s.sh(`find "$1" -path "$1/.berth" -prune -o -mindepth 1 -print; grep -h "^$1" /etc/exports.d/*.exports /var/lib/nfs/etab || :`, root) == ""
	})
	if got := s.sh(`cat /etc/exports`); got != foreign {
		t.Errorf("/etc/exports is %q", got)
	}
	if got := s.sh(`exportfs -s`); !strings.HasPrefix(got, "/srv/foreign ") || strings.Count(got, "\n") != 1 {
		t.Errorf("the host exports %q, and its own export was to be all", got)
	}
}

// Clients of a volume that nfs-provisioner exported by the kernel go on, when Berth
// has taken its place and the server is started again.
func TestKernelAfterNFSProvisioner(t *testing.T) {
	s := newSite(t, "moved")
	const root, identity = "/srv/moved", "4c7c0f7e-3a2f-4a51-8a65-2ee4f0f9f1aa"
	claim, err := shared.client.CoreV1().PersistentVolumeClaims(s.name).Create(s.ctx, harness.NewClaim(s.name, "old", s.name), metav1.CreateOptions{})
	s.must(err)
	name := "pvc-" + string(claim.UID)
	dir := filepath.Join(root, name)
	line := fmt.Sprintf("\n%s *(rw,insecure,no_root_squash,fsid=7)\n", dir)
	s.sh(`mkdir -p "$1"; chmod 777 "$1"; printf %s "$2" >"$3/nfs-provisioner.identity"; printf %s "$4" >/etc/exports`, dir, identity, root, line)
	s.startKernel()
	s.sh(`exportfs -r`)
	_, err = shared.client.CoreV1().PersistentVolumes().Create(s.ctx, &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{
			"kubernetes.io/createdby": "nfs-dynamic-provisioner", "pv.kubernetes.io/provisioned-by": s.provisioner,
			"EXPORT_block": line, "Export_Id": "7", "Project_block": "", "Project_Id": "0", "Provisioner_Id": identity,
		}},
		Spec: v1.PersistentVolumeSpec{
			StorageClassName: s.name, AccessModes: claim.Spec.AccessModes, PersistentVolumeReclaimPolicy: v1.PersistentVolumeReclaimDelete,
			Capacity:               v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Mi")},
			ClaimRef:               &v1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: s.name, Name: "old", UID: claim.UID},
			PersistentVolumeSource: v1.PersistentVolumeSource{NFS: &v1.NFSVolumeSource{Server: s.Address, Path: dir}},
		},
	}, metav1.CreateOptions{})
	s.must(err)
	pv := s.bound("old")
	mounted := map[string]string{"3": s.mount(pv, "vers=3,nolock"), "4.2": s.mount(pv, "vers=4.2")}
	for version, dir := range mounted {
		s.sh(`echo before >"$1/$2"; sync -f "$1/$2"`, dir, version)
	}

	s.berth(s.nfsProvisioner(root, "-use-ganesha=false")...).untilReady()
	s.sh(`: >/etc/exports; rpc.nfsd 0; exportfs -au; exportfs -f`)
	s.startKernel()
	for version, dir := range mounted {
		if got := s.sh(`cat "$1/$2"; echo after >>"$1/$2"; sync -f "$1/$2"; cat "$1/$2"`, dir, version); got != "before\nbefore\nafter\n" {
			t.Errorf("vers=%s: the file reads %q", version, got)
		}
	}
	s.claim("new", s.name)
	s.deleteClaim("old", pv)
	if left := s.sh(`ls "$1"`, root); strings.Contains(left, name) {
		t.Errorf("left in the pool: %s", left)
	}
}

// startGanesha starts the host's NFS-Ganesha, on the host's system bus with the policy
// of Debian's package.
func (s *site) startGanesha(port int, include string) {
	s.t.Helper()
	config := fmt.Sprintf(`NFS_CORE_PARAM { NFS_Protocols = 4; NFS_Port = %d; Enable_NLM = false; Enable_RQUOTA = false; }
NFSv4 { Graceless = true; RecoveryBackend = fs; }
EXPORT { Export_Id = 1; Path = /srv/foreign; Pseudo = /srv/foreign; Access_Type = RW; FSAL { Name = VFS; } }
`, port) + include
	s.must(os.WriteFile(filepath.Join(s.Shared, "ganesha.conf"), []byte(config), 0o644))
	s.sh(`mkdir -p /srv/foreign /var/lib/nfs/ganesha /run/ganesha /run/dbus
[ -S /run/dbus/system_bus_socket ] || dbus-daemon --system --fork
ganesha.nfsd -f /host/ganesha.conf -L /var/log/ganesha.log -p /run/ganesha.pid`)
}

// ganeshaEndsWithTheTest is for before anything is mounted of it.
func (s *site) ganeshaEndsWithTheTest() {
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.stopGanesha(ctx); err != nil {
			s.t.Error(err)
		}
	})
}

// stopGanesha kills the host's Ganesha, if it runs.
func (s *site) stopGanesha(ctx context.Context) error {
	_, err := s.Run(ctx, "sh", "-ec", `[ -e /run/ganesha.pid ] || exit 0
p=$(cat /run/ganesha.pid)
kill -9 "$p"
while [ -e "/proc/$p" ]; do sleep 0.05; done
rm /run/ganesha.pid`)
	return err
}

// An NFS-Ganesha that somebody else runs.
func TestExternalGanesha(t *testing.T) {
	s := newSite(t, "external")
	const root, port = "/srv/external", 3049
	s.sh(`mkdir -p "$1"`, root)
	b := s.berth(s.nfsProvisioner(root, fmt.Sprintf("-nfs-port=%d", port))...)
	s.until("Berth says that no Ganesha runs", func() bool {
		return b.readyz() == http.StatusServiceUnavailable && strings.Contains(b.text(), "systemctl start dbus nfs-ganesha")
	})
	include := `%include "` + root + `/.berth/ganesha/exports.conf"` + "\n"
	s.ganeshaEndsWithTheTest()
	s.startGanesha(port, include)
	b.untilReady()
	pv := s.claim("data", s.name)
	options := fmt.Sprintf("vers=4.2,port=%d", port)
	dir := s.mount(pv, options)
	s.sh(`echo before >"$1/file"; sync -f "$1/file"`, dir)
	for range 2 {
		s.must(s.stopGanesha(s.ctx))
		s.startGanesha(port, include)
		s.sh(`echo after >>"$1/file"; sync -f "$1/file"`, dir)
	}
	if got := s.sh(`cat "$1/$2/file"`, root, pv.Name); got != "before\nafter\nafter\n" {
		t.Errorf("the file reads %q", got)
	}
	b.untilReady()
	if other := s.claim("other", s.name); other.Name == pv.Name {
		t.Error("two claims have one volume")
	}
	s.deleteClaim("data", pv)
	if out, err := s.Run(s.ctx, "ls", dir); err == nil {
		t.Errorf("a deleted volume is still there: %s", out)
	}
	if got := s.sh(`dbus-send --system --print-reply --dest=org.ganesha.nfsd /org/ganesha/nfsd/ExportMgr org.ganesha.nfsd.exportmgr.DisplayExport uint16:1`); !strings.Contains(got, "/srv/foreign") {
		t.Errorf("the export of somebody else is now %s", got)
	}
}

// One Berth, one provisioner name, a pool by each of the host's servers.
func TestBothInOne(t *testing.T) {
	s := newSite(t, "both")
	const port = 3049
	s.sh(`mkdir -p /srv/one /srv/two; : >/etc/exports`)
	s.startKernel()
	s.ganeshaEndsWithTheTest()
	s.startGanesha(port, "")
	s.must(os.WriteFile(filepath.Join(s.Shared, "berth.yaml"), []byte(fmt.Sprintf(`
pools:
- {name: one, provisioner: %[1]s, dir: {root: /srv/one}, exporter: kernel}
- {name: two, provisioner: %[1]s, dir: {root: /srv/two}, exporter: ganesha}
ganesha: {external: true, port: %[2]d}
server: {hostname: %[3]s}
http: {listen: "%[3]s:%[4]s"}
kubernetes: {kubeconfig: %[5]s}
`, s.provisioner, port, s.Address, httpPort, kubeconfig)), 0o600))
	b := s.berth("serve", "--config", "/host/berth.yaml")
	b.untilReady()
	for pool, options := range map[string]string{"one": "vers=4.2", "two": fmt.Sprintf("vers=4.2,port=%d", port)} {
		s.class("both-"+pool, map[string]string{"pool": pool})
		pv := s.claim(pool, "both-"+pool)
		dir := s.mount(pv, options)
		s.sh(`echo "$2" >"$1/file"; sync -f "$1/file"`, dir, pool)
		if got := s.sh(`cat "/srv/$1/$2/file"`, pool, pv.Name); got != pool+"\n" {
			t.Errorf("pool %s: on disk there is %q", pool, got)
		}
		s.sh(`umount "$1"`, dir) // as long as its server is there
		s.deleteClaim(pool, pv)
	}
	// What the host does not serve, Berth is not ready for, and says which it is.
	s.must(s.stopGanesha(s.ctx))
	s.until("Berth is not ready", func() bool { return b.readyz() == http.StatusServiceUnavailable })
	if b.readyz() == http.StatusOK {
		t.Error(errors.New("ready without Ganesha"))
	}
}
