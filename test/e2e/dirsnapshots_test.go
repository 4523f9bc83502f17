//go:build system

package e2e

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// Volumes that are directories, which are copied, and subvolumes, which are not: clients of the
// restored one see what the first one held, and at the end nothing is left.
func TestSnapshotsOfDirectories(t *testing.T) {
	for name, mount := range map[string]func(*site){"dirshots": (*site).tmpfs, "subvolshots": (*site).btrfs} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, name)
			mount(s)
			s.start()
			s.snapshots()
			at := func(pv *v1.PersistentVolume) string { return filepath.Join(s.options.Root, pv.Name) }
			s.claim("data", ofSize("32Mi"))
			data := s.bound("data")
			had := s.fill(at(data))
			text, err := os.ReadFile(filepath.Join(at(data), "d0", "f3"))
			s.must(err)
			s.snapshot("first", "data", "")
			s.snapshotReady("first")
			s.must(os.Remove(filepath.Join(at(data), "d0", "f3")))
			s.restore("again", "first", "48Mi")
			again := s.bound("again")
			s.claim("copy", ofSize("48Mi"), func(c *v1.PersistentVolumeClaim) {
				c.Spec.DataSource = &v1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "again"}
			})
			for what, pv := range map[string]*v1.PersistentVolume{"the restored claim": again, "its clone": s.bound("copy")} {
				if got := s.checksums(at(pv)); !maps.Equal(got, had) {
					t.Errorf("%s has %v, want %v", what, got, had)
				}
				if got, err := s.mount().ReadFile(t.Context(), pv.Spec.NFS.Path+"/d0/f3"); err != nil || !bytes.Equal(got, text) {
					t.Errorf("a client reads %d bytes of %s, want %d; %v", len(got), what, len(text), err)
				}
			}

			s.deleteClaim("data")
			s.volumeGone(data.Name)
			s.restore("late", "first", "32Mi")
			if got := s.checksums(at(s.bound("late"))); !maps.Equal(got, had) {
				t.Errorf("without the volume its snapshot gives %v, want %v", got, had)
			}
			s.kubectl("delete", "--timeout="+patience.String(), "volumesnapshot", "first")
			if got := s.checksums(at(again)); !maps.Equal(got, had) {
				t.Errorf("without its snapshot the restored claim has %v, want %v", got, had)
			}
			s.deleteAllClaims()
			s.untilNothingIsLeft(s.mount())
		})
	}
}
