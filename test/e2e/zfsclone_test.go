//go:build system

package e2e

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// A clone holds what its source held, outlives it, and takes it along when it goes. Nobody exports
// them, because zfs-fuse has to have them unmounted when their source is put aside.
func TestClonesOfDatasets(t *testing.T) {
	s := newSite(t, "clones")
	parent := s.parentDataset("sizing: quota, node: here")
	s.options.Pool = "exporter: none"
	s.zfs("create", parent)
	s.start()
	s.claim("data", ofSize("32Mi"))
	pv := s.bound("data")
	data := make([]byte, 12<<20)
	_, err := rand.Read(data)
	s.must(err)
	s.must(os.WriteFile(filepath.Join(pv.Spec.HostPath.Path, "data"), data, 0o600))
	s.claim("copy", ofSize("32Mi"), annotated("berth.storage/clone-from", "data"))
	s.bound("copy")
	s.claim("copied", ofSize("32Mi"), func(c *v1.PersistentVolumeClaim) {
		c.Spec.DataSource = &v1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "copy"}
	})
	copies := map[string]*v1.PersistentVolume{"copy": s.bound("copy"), "copied": s.bound("copied")}
	same := func() {
		t.Helper()
		for name, pv := range copies {
			if got, err := os.ReadFile(filepath.Join(pv.Spec.HostPath.Path, "data")); err != nil || !bytes.Equal(got, data) {
				t.Errorf("of %d bytes %s has %d, error %v", len(data), name, len(got), err)
			}
		}
	}
	same()
	s.whileUnmounted(func() {
		s.deleteClaim("data")
		s.volumeGone(pv.Name)
	}, parent+"/"+copies["copy"].Name, parent+"/"+copies["copied"].Name)
	same()
	all, unknown := s.datasets(parent)
	if len(unknown) > 0 || !slices.ContainsFunc(all, func(v listed) bool { return v.Name == pv.Name && v.State == "discarded" }) {
		t.Errorf("berth volumes says %+v, and of %q that no record names it", all, unknown)
	}
	for _, name := range []string{"copied", "copy"} {
		s.deleteClaim(name)
		s.volumeGone(copies[name].Name)
	}
	s.until("only the pool is left", func() bool { return slices.Equal(s.below(parent), []string{"/.berth"}) })
}
