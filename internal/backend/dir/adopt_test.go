package dir_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

// foreign is a volume of another program, as it is to be recorded.
func foreign(t *testing.T, name string) volume.Volume {
	t.Helper()
	v := volume.New(volumetest.Spec(t, name), time.Now())
	v.Published, v.Origin = true, "nfs-provisioner"
	return v
}

func TestAdoptedVolumeIsOneOfBerths(t *testing.T) {
	p := open(t, t.TempDir())
	v := foreign(t, "pvc-1")
	path := filepath.Join(p.root, "pvc-1")
	if err := errors.Join(os.Mkdir(path, 0o751), os.WriteFile(filepath.Join(path, "file"), []byte("data"), 0o600)); err != nil {
		t.Fatal(err)
	}
	got, err := p.Adopt(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	if got.State != volume.StateReady || got.Owner.Mode != 0o751 || got.Dir != path || got.Rev != 1 {
		t.Errorf("adopted %+v", got)
	}
	if text, err := os.ReadFile(filepath.Join(path, "file")); err != nil || string(text) != "data" {
		t.Errorf("its file reads %q, %v", text, err)
	}
	if _, err := p.Adopt(t.Context(), v); !errors.Is(err, volume.ErrExists) {
		t.Errorf("adopting it again: got error %v, want %v", err, volume.ErrExists)
	}
	if err := errors.Join(p.Discard(t.Context(), v.Name), p.Purge(t.Context(), v.Name)); err != nil {
		t.Errorf("deleting it: %v", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after it was deleted: %v", err)
	}
}

func TestWhatIsNoDirectoryIsNotAdopted(t *testing.T) {
	outside := t.TempDir()
	for what, c := range map[string]struct {
		put  func(path string) error
		want error
	}{
		"nothing":             {func(string) error { return nil }, volume.ErrNotFound},
		"a file":              {func(path string) error { return os.WriteFile(path, nil, 0o600) }, volume.ErrForeign},
		"a link out":          {func(path string) error { return os.Symlink(outside, path) }, volume.ErrForeign},
		"a link to the root":  {func(path string) error { return os.Symlink(".", path) }, volume.ErrForeign},
		"a link to a sibling": {func(path string) error { return os.Symlink("other", path) }, volume.ErrForeign},
	} {
		t.Run(what, func(t *testing.T) {
			p := open(t, t.TempDir())
			if err := errors.Join(os.Mkdir(filepath.Join(p.root, "other"), 0o700), c.put(filepath.Join(p.root, "pvc-1"))); err != nil {
				t.Fatal(err)
			}
			v := foreign(t, "pvc-1")
			if _, err := p.Look(t.Context(), v.Path); !errors.Is(err, c.want) {
				t.Errorf("Look: got error %v, want %v", err, c.want)
			}
			if _, err := p.Adopt(t.Context(), v); !errors.Is(err, c.want) {
				t.Errorf("Adopt: got error %v, want %v", err, c.want)
			}
			if _, err := p.Get(t.Context(), v.Name); !errors.Is(err, volume.ErrNotFound) {
				t.Errorf("it has a record: %v", err)
			}
		})
	}
}

func TestFolders(t *testing.T) {
	p := open(t, t.TempDir())
	for _, name := range []string{"b", "a", "lost+found", ".hidden"} {
		if err := os.Mkdir(filepath.Join(p.root, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(filepath.Join(p.root, "file"), nil, 0o600), os.Symlink("a", filepath.Join(p.root, "link"))); err != nil {
		t.Fatal(err)
	}
	got, err := p.Folders(t.Context())
	if want := []string{".hidden", "a", "b"}; !slices.Equal(got, want) || err != nil {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
}

func TestAViewMakesNothing(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "pvc-1"), 0o700); err != nil {
		t.Fatal(err)
	}
	view, err := dir.OpenView(root, "")
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	for v, err := range view.List(t.Context()) {
		t.Errorf("a root that is no pool has volume %s, %v", v.Name, err)
	}
	if _, err := view.Look(t.Context(), foreign(t, "pvc-1").Path); err != nil {
		t.Error(err)
	}
	if got, err := view.Folders(t.Context()); !slices.Equal(got, []string{"pvc-1"}) || err != nil {
		t.Errorf("folders %v, %v", got, err)
	}
	if entries, err := os.ReadDir(root); len(entries) != 1 || err != nil {
		t.Errorf("in the root are %v, %v", entries, err)
	}
	if _, err := dir.OpenView(filepath.Join(root, "missing"), ""); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing root: %v", err)
	}
}

func TestAViewOfAPoolThatIsOpen(t *testing.T) {
	p := open(t, t.TempDir())
	want, err := p.Create(t.Context(), volumetest.Spec(t, "pvc-1"))
	if err != nil {
		t.Fatal(err)
	}
	view, err := dir.OpenView(p.root, "")
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	n := 0
	for v, err := range view.List(t.Context()) {
		if n++; err != nil || v != want {
			t.Errorf("listed %+v, %v; want %+v", v, err, want)
		}
	}
	if n != 1 {
		t.Errorf("%d volumes, want 1", n)
	}
}

func TestTheAccountOfAnAdoption(t *testing.T) {
	root := t.TempDir()
	p := open(t, root)
	if a, err := p.Adoption(); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("before: %+v, %v; want %v", a, err, volume.ErrNotFound)
	}
	want := dir.Adoption{
		From: "nfs-provisioner", Identity: "id", Finished: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Adopted: 3, Left: 1, LastID: 77, DeviceFSIDs: true,
	}
	if err := p.SetAdoption(want); err != nil {
		t.Fatal(err)
	}
	got, err := p.Adoption()
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
	if err := os.WriteFile(filepath.Join(root, ".berth", "adopted.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if a, err := p.Adoption(); err == nil || errors.Is(err, volume.ErrNotFound) {
		t.Errorf("a damaged one gives %+v, %v", a, err)
	}
}
