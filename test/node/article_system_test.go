//go:build system

package node

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What users try first: a claim of 1 MiB, a pod that writes and one that reads, the
// claim deleted while they are there, and at the end all of it removed.
func TestFirstSteps(t *testing.T) {
	s := newSite(t, "first-steps")
	folder := s.claim("nfs")

	writer := s.pod("write-pod", "nfs", "touch /mnt/SUCCESS && exit 0 || exit 1")
	reader := s.pod("read-pod", "nfs", "test -f /mnt/SUCCESS && exit 0 || exit 1")
	for _, pod := range []*v1.Pod{writer, reader} {
		s.create(pod)
		s.ends(pod, 0)
	}
	if _, err := os.Stat(filepath.Join(folder, "SUCCESS")); err != nil {
		t.Error("what the pod has written is not in the volume's directory:", err)
	}

	s.deleteClaim("nfs")
	for _, pod := range []*v1.Pod{writer, reader} {
		s.checkTerminating("nfs", folder)
		s.must(s.DeletePod(s.ctx, pod))
		s.must(s.AwaitGone(s.ctx, pod))
	}
	s.untilNothingIsLeft()

	// Uninstalling: the class, and Berth.
	s.must(s.Client.StorageV1().StorageClasses().Delete(s.ctx, s.name, metav1.DeleteOptions{}))
	s.must(s.berth.Stop())
	if left := s.inPool(""); !slices.Equal(left, []string{".berth"}) {
		t.Errorf("%v is left in the pool, want Berth's own folder only", left)
	}
}

// checkTerminating checks that a claim in use is marked for deletion, and that its
// volume is as it was.
func (s *site) checkTerminating(claim, folder string) {
	s.t.Helper()
	c := s.claimIs(claim)
	if c == nil || c.DeletionTimestamp == nil {
		s.t.Fatalf("the claim that a pod uses is %v, want it Terminating", c)
	}
	pv, err := s.Client.CoreV1().PersistentVolumes().Get(s.ctx, c.Spec.VolumeName, metav1.GetOptions{})
	s.must(err)
	if pv.Status.Phase != v1.VolumeBound || pv.DeletionTimestamp != nil {
		s.t.Errorf("its PersistentVolume is %s, deleted at %v", pv.Status.Phase, pv.DeletionTimestamp)
	}
	if _, err := os.Stat(folder); errors.Is(err, os.ErrNotExist) {
		s.t.Error("the directory of a volume in use is gone")
	}
}

// Two pods write, and two read what both have written.
func TestTwoWritersAndTwoReaders(t *testing.T) {
	s := newSite(t, "many-pods")
	s.claim("web")
	const (
		write = "while true; do date >>/mnt/index.html; hostname >>/mnt/index.html; sleep 0.5; done"
		read  = "until grep writer-1 /mnt/index.html && grep writer-2 /mnt/index.html; do sleep 0.5; done"
	)
	readers := []*v1.Pod{s.pod("reader-1", "web", read), s.pod("reader-2", "web", read)}
	s.create(s.pod("writer-1", "web", write), s.pod("writer-2", "web", write))
	s.create(readers...)
	for _, pod := range readers {
		s.ends(pod, 0)
	}
	s.clear("web")
}
