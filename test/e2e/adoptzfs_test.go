//go:build system

package e2e

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/test/harness"
)

// datasetsBefore is a site where another program has made volumes, which Berth is to take over.
type datasetsBefore struct {
	*site
	parent string
}

// newDatasetsBefore has the site's pool adopt from program, and nothing exported: zfs-fuse cannot.
func newDatasetsBefore(t *testing.T, name, program string) *datasetsBefore {
	t.Helper()
	s := newSite(t, name)
	d := &datasetsBefore{s, s.parentDataset("node: zfs-node")}
	s.options.Pool = "exporter: none\n  adopt: " + program
	s.zfs("create", d.parent)
	return d
}

// volume makes a claim, its dataset (with these arguments), some data in it, and its PersistentVolume.
func (d *datasetsBefore) volume(claim, element string, args []string, edit func(pv *v1.PersistentVolume, at string)) *v1.PersistentVolume {
	d.t.Helper()
	c, err := d.client.CoreV1().PersistentVolumeClaims(d.name).Create(d.t.Context(), harness.NewClaim(d.name, claim, d.name), metav1.CreateOptions{})
	d.must(err)
	name := "pvc-" + string(c.UID)
	if element == "" {
		element = name
	}
	dataset := d.parent + "/" + element
	d.zfs(append(slices.Clone(args), dataset)...)
	at := d.zfs("get", "-H", "-o", "value", "mountpoint", dataset)
	d.must(os.WriteFile(filepath.Join(at, "file"), []byte("data of "+claim), 0o666))
	pv := &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{}},
		Spec: v1.PersistentVolumeSpec{
			StorageClassName: d.name, AccessModes: c.Spec.AccessModes, Capacity: v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Mi")},
			PersistentVolumeReclaimPolicy: v1.PersistentVolumeReclaimDelete,
			ClaimRef:                      &v1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: d.name, Name: claim, UID: c.UID},
			PersistentVolumeSource:        v1.PersistentVolumeSource{NFS: &v1.NFSVolumeSource{Server: "nas.example.com", Path: at}},
		},
	}
	edit(pv, at)
	_, err = d.client.CoreV1().PersistentVolumes().Create(d.t.Context(), pv, metav1.CreateOptions{})
	d.must(err)
	return d.bound(claim)
}

// wantDryRun asks what would be adopted, as who has the program's environment does.
func (d *datasetsBefore) wantDryRun(want ...string) {
	d.t.Helper()
	cmd := exec.CommandContext(d.t.Context(), d.options.Binary, "adopt", "zfs-provisioner", "--dry-run")
	cmd.Env = append(os.Environ(), "ZFS_PARENT_DATASET="+d.parent, "ZFS_SERVER_HOSTNAME=nas.example.com",
		"ZFS_PROVISIONER_NAME="+d.options.Provisioner, "ZFS_KUBE_CONF="+d.options.Kubeconfig)
	output, err := cmd.CombinedOutput()
	if err == nil { // something is left alone
		d.t.Error("berth adopt succeeded")
	}
	for _, text := range want {
		if !strings.Contains(string(output), text) {
			d.t.Errorf("%q is not in:\n%s", text, output)
		}
	}
}

// takeOver starts Berth, and waits until the volumes are its own.
func (d *datasetsBefore) takeOver() *harness.Berth {
	d.t.Helper()
	b := d.start()
	d.until("volumes are adopted, and claims served", func() bool {
		return strings.Contains(b.Log(), "adopted volumes of") && strings.Contains(b.Log(), "serving claims")
	})
	return b
}

// wantFile checks that the data of a volume is what it was.
func (d *datasetsBefore) wantFile(element, claim string) {
	d.t.Helper()
	at := d.zfs("get", "-H", "-o", "value", "mountpoint", d.parent+"/"+element)
	if text, err := os.ReadFile(filepath.Join(at, "file")); err != nil || string(text) != "data of "+claim {
		d.t.Errorf("the file of %s reads %q, %v", claim, text, err)
	}
}

// Volumes of all generations of kubernetes-zfs-provisioner go on as they were, and are
// deleted as their PersistentVolumes say. What is not certainly one of them is left alone.
func TestAdoptedDatasets(t *testing.T) {
	d := newDatasetsBefore(t, "adoptzfs", "zfs-provisioner")
	create := []string{"create", "-o", "refquota=1048576", "-o", "refreservation=1048576"}
	ours := func(pv *v1.PersistentVolume) {
		pv.Annotations["pv.kubernetes.io/provisioned-by"], pv.Annotations["kubernetes.io/createdby"] = d.options.Provisioner, "zfs-provisioner"
	}
	gentics := d.volume("gentics", "", create, func(pv *v1.PersistentVolume, _ string) { ours(pv) })
	fork := d.volume("fork", "", create, func(pv *v1.PersistentVolume, at string) {
		ours(pv)
		pv.Annotations["zfs-provisioner-id"] = "gentics.com-zfs-node"
		pv.Spec.PersistentVolumeSource = v1.PersistentVolumeSource{HostPath: &v1.HostPathVolumeSource{Path: at}}
	})
	successor := d.volume("successor", "", append(slices.Clone(create), "-o", "io.kubernetes.pv.zfs:managed_by="+d.options.Provisioner), func(pv *v1.PersistentVolume, _ string) {
		ours(pv)
		pv.Annotations["zfs.pv.kubernetes.io/zfs-dataset-path"], pv.Annotations["zfs.pv.kubernetes.io/zfs-host"] = d.parent+"/"+pv.Name, "nas.example.com"
		pv.Annotations["zfs.pv.kubernetes.io/destroy-snapshots"] = "false"
	})
	kept := d.volume("kept", "", create, func(pv *v1.PersistentVolume, _ string) {
		ours(pv)
		pv.Spec.PersistentVolumeReclaimPolicy = v1.PersistentVolumeReclaimRetain
	})
	odd := d.volume("odd", "", create, func(pv *v1.PersistentVolume, at string) {
		ours(pv)
		pv.Spec.NFS.Path = at + "/elsewhere"
	})
	d.zfs("create", d.parent+"/stray")
	before := map[string]string{}
	for _, name := range d.below(d.parent) {
		before[name] = d.zfs("get", "-Hp", "-o", "value", "refquota,refreservation,mountpoint", d.parent+name)
	}

	d.wantDryRun(gentics.Name+": to be adopted: claim "+d.name+"/gentics, 1048576 bytes, "+gentics.Name+", mounted at ", odd.Name+": left alone: pods mount ",
		"dataset stray: left alone", "4 to be adopted, 0 before, 1 left alone, 1 datasets without a PersistentVolume")
	b := d.takeOver()
	all, unknown := d.datasets(d.parent)
	var names []string
	for _, v := range all {
		names = append(names, v.Name)
	}
	want := []string{gentics.Name, fork.Name, successor.Name, kept.Name}
	slices.Sort(names)
	slices.Sort(want)
	if !slices.Equal(names, want) || len(unknown) != 2 {
		t.Errorf("the volumes are %v, want %v; beside them lie %v", names, want, unknown)
	}
	if log := b.Log(); !strings.Contains(log, odd.Name) || !strings.Contains(log, "volumes=4 before=0 leftAlone=1") {
		t.Errorf("the log does not tell of %s:\n%s", odd.Name, log)
	}
	after := map[string]string{}
	for _, name := range d.below(d.parent) {
		if name != "/.berth" {
			after[name] = d.zfs("get", "-Hp", "-o", "value", "refquota,refreservation,mountpoint", d.parent+name)
		}
	}
	if !maps.Equal(before, after) {
		t.Errorf("the datasets were\n%v\nand are\n%v", before, after)
	}

	// A snapshot keeps the successor's volume, until it is gone.
	snapshot := d.parent + "/" + successor.Name + "@monday"
	d.zfs("snapshot", snapshot)
	for _, claim := range []string{"gentics", "fork", "successor", "kept", "odd"} {
		d.deleteClaim(claim)
	}
	d.volumeGone(gentics.Name)
	d.volumeGone(fork.Name)
	d.until("an event tells of the snapshot", func() bool {
		texts, err := d.warnings(t.Context(), "default", successor.Name, "VolumeFailedDelete")
		return err == nil && slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(text, snapshot) })
	})
	d.zfs("destroy", snapshot)
	d.volumeGone(successor.Name)
	d.until("only what is kept is left", func() bool {
		left := d.below(d.parent)
		slices.Sort(left)
		rest := []string{"/.berth", "/" + kept.Name, "/" + odd.Name, "/stray"}
		slices.Sort(rest)
		return slices.Equal(left, rest)
	})
	d.wantFile(kept.Name, "kept")
	d.wantFile(odd.Name, "odd")
	d.must(b.Stop())
	// What was done once is not done again.
	b = d.start()
	d.until("claims are served", func() bool { return strings.Count(b.Log(), "serving claims") == 2 })
	if strings.Count(b.Log(), "adopted volumes of") != 1 {
		t.Errorf("a second start adopts again:\n%s", b.Log())
	}
}

// openshift-pvmanager's volumes are deleted by Berth as that program did: by its own policy and
// annotations, and a source that has a clone when that is gone.
func TestAdoptedDatasetsOfPVManager(t *testing.T) {
	d := newDatasetsBefore(t, "adoptpvmanager", "openshift-pvmanager")
	const uuid = "6b2f9c1e-0a4d-4b7e-9d55-3c8a0f1e2d0%d"
	element := func(n int) string { return fmt.Sprintf(uuid, n) }
	number := 0
	volume := func(claim, policy string, args ...string) *v1.PersistentVolume {
		number++
		n := number
		return d.volume(claim, element(n), args, func(pv *v1.PersistentVolume, _ string) {
			pv.Name = d.name + "-" + claim
			pv.Spec.StorageClassName = ""
			pv.Spec.PersistentVolumeReclaimPolicy = v1.PersistentVolumeReclaimRetain
			pv.Annotations = map[string]string{
				"managed-by": "pvmanager.wimsey.us", "pvmanager.wimsey.us/volume-uuid": element(n), "pvmanager.wimsey.us/nfs-path": d.parent + "/" + element(n),
			}
			if policy != "" {
				pv.Annotations["pvmanager.wimsey.us/reclaim-policy"] = policy
			}
			d.zfs("set", "pvmanager:pvref="+pv.Name, d.parent+"/"+element(n))
		})
	}
	source := volume("source", "", "create", "-o", "quota=33554432")
	snapshot := d.parent + "/" + element(1) + "@pvmanager-copy-20200102030405006"
	d.zfs("snapshot", snapshot)
	clone := volume("copy", "Delete", "clone", "-o", "quota=33554432", snapshot)
	kept := volume("kept", "Retain", "create", "-o", "quota=33554432")

	b := d.takeOver()
	policies := map[string]v1.PersistentVolumeReclaimPolicy{
		source.Name: v1.PersistentVolumeReclaimDelete, clone.Name: v1.PersistentVolumeReclaimDelete, kept.Name: v1.PersistentVolumeReclaimRetain,
	}
	for name, want := range policies {
		pv, err := d.client.CoreV1().PersistentVolumes().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || pv.Spec.PersistentVolumeReclaimPolicy != want || pv.Annotations["pv.kubernetes.io/provisioned-by"] != d.options.Provisioner {
			t.Errorf("PersistentVolume %s is %+v, %v; want the policy %s", name, pv, err, want)
		}
	}
	d.whileUnmounted(func() {
		d.deleteClaim("source")
		d.deleteClaim("kept")
		d.volumeGone(source.Name)
	}, d.parent+"/"+element(2))
	d.wantFile(element(2), "copy")
	// Its bytes are those of the clone too.
	d.until("the source is put aside", func() bool { return slices.Contains(d.below(d.parent), "/.berth/"+source.Name) })
	d.deleteClaim("copy")
	d.volumeGone(clone.Name)
	d.until("only what is kept is left", func() bool { return slices.Equal(d.below(d.parent), []string{"/.berth", "/" + element(3)}) })
	d.wantFile(element(3), "kept")
	d.must(b.Stop())
}
