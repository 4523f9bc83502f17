//go:build system

package e2e

import (
	"errors"
	"io/fs"
	"testing"
)

// Pools of a disk keep archives too: what a restored volume has is what clients read.
func TestArchivesOfADisk(t *testing.T) {
	s := newSite(t, "diskarchive")
	class := s.parameters("keep", map[string]string{"onDelete": "archive"})
	s.start()
	s.claim("data", ofClass(class))
	pv := s.bound("data")
	c := s.mount()
	s.must(c.WriteFile(t.Context(), pv.Spec.NFS.Path+"/file", []byte("old"), 0o644))
	s.deleteClaim("data")
	s.volumeGone(pv.Name)
	if _, err := s.mount().ReadFile(t.Context(), pv.Spec.NFS.Path+"/file"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an archive is exported: reading it gives error %v", err)
	}
	if got := s.archives(); len(got) != 1 || got[0].Name != pv.Name {
		t.Fatalf("berth archives list says %+v", got)
	}
	manifest := s.command(s.options.Binary, "restore", "--root", s.options.Root, "--class", class, pv.Name)
	_, err := shared.cluster.KubectlApply(t.Context(), []byte(manifest))
	s.must(err)
	s.until("the new claim has its volume", func() bool { return len(s.archives()) == 0 })
	again := s.bound("data")
	if text, err := s.mount().ReadFile(t.Context(), again.Spec.NFS.Path+"/file"); err != nil || string(text) != "old" {
		t.Errorf("a client reads %q, %v", text, err)
	}
}
