//go:build system

package kernel_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/test/nfs4"
	"github.com/berth-storage/berth/test/vm"
)

// Clients that have a volume of nfs-provisioner mounted go on, and when the volume is
// deleted they do not, also if its line is still in the administrator's file.
func TestHandlesOfThePredecessorStayGood(t *testing.T) {
	host(t)
	leaveNothing(t)
	folder, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(folder, "pvc-1")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "file"), []byte("data"), 0o644)); err != nil {
		t.Fatal(err)
	}
	before := vm.Sh(t, `cat /etc/exports; printf '\n%s *(rw,insecure,no_root_squash,fsid=5)\n' "$1" >>/etc/exports; exportfs -r`, dir)
	t.Cleanup(func() {
		if err := os.WriteFile("/etc/exports", []byte(before), 0o644); err != nil {
			t.Error(err)
		}
	})
	c, err := nfs4.Dial(t.Context(), address, nfs4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	handle, err := c.FileHandle(t.Context(), dir+"/file")
	if err != nil {
		t.Fatal(err)
	}
	old, err := c.StatHandle(t.Context(), handle)
	if err != nil {
		t.Fatal(err)
	}

	s := start(t, export.Export{ID: 5, FSID: export.NumberFSID(5), Dir: dir, Path: dir, Squash: export.SquashNone})
	now, err := c.StatHandle(t.Context(), handle)
	if err != nil || now.FSID != old.FSID || now.FileID != old.FileID {
		t.Errorf("the handle gives %v, %v; it was %v", now, err, old)
	}
	if err := s.Withdraw(t.Context(), export.Export{ID: 5}); err != nil {
		t.Fatal(err)
	}
	if now, err := c.StatHandle(t.Context(), handle); !errors.Is(err, nfs4.ErrStale) {
		t.Errorf("of a withdrawn volume the handle gives %v, %v; want %v", now, err, nfs4.ErrStale)
	}
}
