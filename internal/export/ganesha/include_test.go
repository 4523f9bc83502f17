package ganesha

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/export"
)

func newExport(t *testing.T, folder string, id export.ID, name string) export.Export {
	t.Helper()
	dir := filepath.Join(folder, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return export.Export{ID: id, FSID: export.NewFSID(name), Dir: dir, Path: "/pool/" + name, Squash: export.SquashNone}
}

func openFile(t *testing.T, path string) *exportsFile {
	t.Helper()
	f, err := openExportsFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// The next run finds in the file what this one has put there.
func TestExportsFile(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "exports.conf")
	f := openFile(t, path)
	if text, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(text), "# ") {
		t.Errorf("the first file is %q, %v", text, err) // Ganesha would not start without it
	}
	one, two, three := newExport(t, folder, 1, "one"), newExport(t, folder, 2, "tw o"), newExport(t, folder, 3, "three")
	absent := three
	absent.Dir += "-absent"
	before, err := f.set([]export.Export{one, absent, two})
	if err == nil || !strings.Contains(err.Error(), absent.Dir) || len(before) != 0 {
		t.Errorf("set: %v, error %v", before, err)
	}
	if err := errors.Join(f.add(three), f.remove(one.ID)); err != nil {
		t.Error(err)
	}
	hostile := one
	hostile.Dir = `/tmp"; Squash = None; #`
	for _, bad := range []export.Export{hostile, absent} {
		bad.ID = two.ID
		if err := f.add(bad); !errors.Is(err, export.ErrRefused) {
			t.Errorf("%s: got error %v, want %v", bad.Dir, err, export.ErrRefused)
		}
	}

	before, err = openFile(t, path).set([]export.Export{one})
	if diff := cmp.Diff(map[export.ID]string{2: two.Dir, 3: three.Dir}, before); diff != "" || err != nil {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
	if diff := cmp.Diff(map[export.ID]string{1: one.Dir}, openFile(t, path).dirs); diff != "" {
		t.Error(diff)
	}
}

// What cannot be written is not taken for written.
func TestExportsFileOnAFullDisk(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "exports.conf")
	one, two := newExport(t, folder, 1, "one"), newExport(t, folder, 2, "two")
	f := openFile(t, path)
	if err := f.add(one); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path+".new", 0o755); err != nil { // in the place of the temporary file
		t.Fatal(err)
	}
	two.ID = one.ID
	if err := f.add(two); !errors.Is(err, export.ErrUnavailable) {
		t.Errorf("add: got error %v, want %v", err, export.ErrUnavailable)
	}
	if err := f.remove(one.ID); err == nil {
		t.Error("remove: no error")
	}
	if err := os.Remove(path + ".new"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[export.ID]string{1: one.Dir}, openFile(t, path).dirs); diff != "" {
		t.Error(diff)
	}
	if err := f.remove(one.ID); err != nil {
		t.Error(err)
	}
	if got := openFile(t, path).dirs; len(got) != 0 {
		t.Errorf("the file has %v", got)
	}
}
