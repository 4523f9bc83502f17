//go:build system

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// With the predecessors this left the directory and the export behind.
func TestVolumeDeletedBeforeItsClaim(t *testing.T) {
	s := newSite(t, "reversed")
	s.start()
	pv := s.bind("data")
	c := s.mount()
	s.must(c.WriteFile(t.Context(), pv.Spec.NFS.Path+"/file", []byte("data"), 0o644))

	s.must(s.client.CoreV1().PersistentVolumes().Delete(t.Context(), pv.Name, metav1.DeleteOptions{}))
	// Kubernetes keeps a volume that a claim uses, and so does Berth its data.
	if got, err := c.ReadFile(t.Context(), pv.Spec.NFS.Path+"/file"); err != nil || string(got) != "data" {
		t.Errorf("the file of a volume that is still claimed reads %q, %v", got, err)
	}
	s.deleteClaim("data")
	s.untilNothingIsLeft(c)
}

// A PersistentVolume that names another instance, with the provisioner's name on
// it, is that instance's to delete.
func TestVolumeOfAnotherInstanceIsLeftAlone(t *testing.T) {
	s := newSite(t, "foreign")
	s.start()
	const name = "pvc-11111111-2222-4333-8444-555555555555"
	s.foreignVolume(name, map[string]string{
		"berth.storage/instance": "66666666-7777-4888-9999-aaaaaaaaaaaa",
		"berth.storage/volume":   "local/" + name,
	})
	read := func() *v1.PersistentVolume {
		pv, err := s.client.CoreV1().PersistentVolumes().Get(t.Context(), name, metav1.GetOptions{})
		s.must(err)
		return pv
	}
	s.until("somebody has to delete the volume", func() bool { return read().Status.Phase == v1.VolumeReleased })
	before := read()
	s.comeAndGo("ours") // in which time that one was looked at
	if after := read(); after.ResourceVersion != before.ResourceVersion {
		t.Errorf("the PersistentVolume was touched: it is %v, it was %v", after, before)
	}
}

// foreignVolume makes a PersistentVolume of this site's provisioner whose claim
// is gone, as one that is to be deleted. Its annotations are not Berth's work.
func (s *site) foreignVolume(name string, annotations map[string]string) {
	s.t.Helper()
	pv := &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations, Finalizers: []string{finalizer}},
		Spec: v1.PersistentVolumeSpec{
			StorageClassName:              s.name,
			AccessModes:                   []v1.PersistentVolumeAccessMode{v1.ReadWriteMany},
			Capacity:                      v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Mi")},
			PersistentVolumeReclaimPolicy: v1.PersistentVolumeReclaimDelete,
			ClaimRef:                      &v1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: s.name, Name: "gone", UID: types.UID(strings.TrimPrefix(name, "pvc-"))},
			PersistentVolumeSource:        v1.PersistentVolumeSource{NFS: &v1.NFSVolumeSource{Server: "127.0.0.1", Path: exportPath + "/" + name}},
		},
	}
	pv.Annotations["pv.kubernetes.io/provisioned-by"] = s.options.Provisioner
	_, err := s.client.CoreV1().PersistentVolumes().Create(s.t.Context(), pv, metav1.CreateOptions{})
	s.must(err)
	s.t.Cleanup(func() { // nobody else deletes it
		ctx := context.WithoutCancel(s.t.Context())
		if err := s.client.CoreV1().PersistentVolumes().Delete(ctx, name, metav1.DeleteOptions{}); err == nil {
			s.patchVolume(ctx, name, `{"metadata": {"finalizers": null}}`)
		}
	})
}

func (s *site) patchVolume(ctx context.Context, name, patch string) {
	s.t.Helper()
	_, err := s.client.CoreV1().PersistentVolumes().Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	s.must(err)
}

// Who may edit PersistentVolumes must not be able to have any volume deleted.
func TestEditedVolumeDeletesNothing(t *testing.T) {
	s := newSite(t, "edited")
	s.start()
	edited, other := s.bind("edited"), s.bind("other")
	c := s.mount()
	s.patchVolume(t.Context(), edited.Name, fmt.Sprintf(`{"metadata": {"annotations": {"berth.storage/volume": "local/%s"}}}`, other.Name))
	s.deleteClaim("edited")
	s.untilEvent("default", edited.Name, "VolumeFailedDelete", other.Name, "nothing is deleted", "berth.storage/volume")
	want := []string{edited.Name, other.Name}
	slices.Sort(want)
	if have := s.contents(); !slices.Equal(have.volumes, want) || !slices.Equal(have.records, want) || !slices.Equal(s.exports(c), want) {
		t.Errorf("something was deleted: %v, exports %v", have, s.exports(c))
	}

	// The event says how to go on.
	s.patchVolume(t.Context(), edited.Name, fmt.Sprintf(`{"metadata": {"annotations": {"berth.storage/volume": "local/%s"}}}`, edited.Name))
	s.volumeGone(edited.Name)
	s.untilPurged(edited.Name)
	s.checkOneToOne(c, 1)
}

// What no record names is somebody's, wherever it lies and whatever it is called.
func TestWhatNoRecordNamesSurvives(t *testing.T) {
	s := newSite(t, "strangers")
	s.options.Config = "kubernetes: {kubeconfig: " + s.kubeconfig + ", scavengeAfter: 1s}\n"
	const orphan = "pvc-11111111-2222-4333-8444-666666666666"
	strangers := []string{"README", "music/song", orphan + "/precious"}
	for _, file := range strangers {
		file = filepath.Join(s.options.Root, file)
		s.must(os.MkdirAll(filepath.Dir(file), 0o755))
		s.must(os.WriteFile(file, []byte("mine"), 0o600))
	}
	b := s.start()
	identity, err := os.ReadFile(filepath.Join(s.options.Root, ".berth", "identity"))
	s.must(err)
	// Even a PersistentVolume of this instance is no proof without a record.
	s.foreignVolume(orphan, map[string]string{
		"berth.storage/instance": strings.TrimSpace(string(identity)), "berth.storage/volume": "local/" + orphan,
	})
	s.volumeGone(orphan)
	s.comeAndGo("once")
	s.must(b.Stop())
	s.start()
	s.comeAndGo("again")
	for _, file := range strangers {
		if text, err := os.ReadFile(filepath.Join(s.options.Root, file)); err != nil || string(text) != "mine" {
			t.Errorf("%s reads %q, %v", file, text, err)
		}
	}
}
