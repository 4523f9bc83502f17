package dir_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

// openPart opens one cluster's part of a share.
func openPart(t *testing.T, root string, o dir.Options) (*dir.Backend, error) {
	t.Helper()
	b, err := dir.Open(t.Context(), root, o)
	if err == nil {
		t.Cleanup(func() { b.Close() })
	}
	return b, err
}

// What was made before Berth was allowed to know its cluster stays its own: live
// volumes, and archives wherever they lie.
func TestUnnamedPartGetsItsName(t *testing.T) {
	root := t.TempDir()
	b, err := openPart(t, root, dir.Options{Cluster: dir.Unnamed})
	if err != nil {
		t.Fatal(err)
	}
	identity := b.Identity()
	live, archived := volumetest.Spec(t, "pvc-live"), volumetest.Spec(t, "pvc-archived")
	for _, s := range []volume.Spec{live, archived} {
		v, err := b.Create(t.Context(), s)
		if err := errors.Join(err, os.WriteFile(filepath.Join(v.Dir, "file"), []byte("data"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Archive(t.Context(), archived.Name, func(volume.RelPath) error { return nil }); err != nil {
		t.Fatal(err)
	}
	mine := dir.Options{Cluster: "cluster-1", Ours: func(n volume.Name) bool { return n == live.Name }}

	// Not under the feet of who is at work there.
	var locked *dir.LockedError
	if _, err := openPart(t, root, mine); !errors.As(err, &locked) {
		t.Errorf("while it is open: got error %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	// Not what is another cluster's.
	for cluster, ours := range map[string]func(volume.Name) bool{"cluster-2": func(volume.Name) bool { return false }, "cluster-3": nil} {
		other, err := openPart(t, root, dir.Options{Cluster: cluster, Ours: ours})
		if err != nil || other.Identity() == identity {
			t.Errorf("%s got it, %v", cluster, err)
		}
	}
	for range 2 { // and once more, as at each start
		if b, err = openPart(t, root, mine); err != nil {
			t.Fatal(err)
		}
		if b.Identity() != identity || b.New() {
			t.Errorf("it is another pool: %s, was %s", b.Identity(), identity)
		}
		if _, err := b.Get(t.Context(), live.Name); err != nil {
			t.Errorf("the live volume: %v", err)
		}
		v, err := b.Get(t.Context(), archived.Name)
		if err != nil {
			t.Fatalf("the archived volume: %v", err)
		}
		if text, err := os.ReadFile(filepath.Join(root, v.ArchivePath, "file")); err != nil || string(text) != "data" {
			t.Errorf("the archive at %s: %q, %v", v.ArchivePath, text, err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(filepath.Join(root, ".berth/clusters/unknown")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the part without a name: %v", err)
	}
}

// A cluster that has a part of its own gets no second one.
func TestUnnamedPartStaysIfTheClusterHasOne(t *testing.T) {
	root := t.TempDir()
	all := func(volume.Name) bool { return true }
	mine, err := openPart(t, root, dir.Options{Cluster: "cluster-1", Ours: all})
	if err != nil {
		t.Fatal(err)
	}
	identity := mine.Identity()
	unnamed, err := openPart(t, root, dir.Options{Cluster: dir.Unnamed, Ours: all})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unnamed.Create(t.Context(), volumetest.Spec(t, "pvc-1")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(mine.Close(), unnamed.Close()); err != nil {
		t.Fatal(err)
	}
	again, err := openPart(t, root, dir.Options{Cluster: "cluster-1", Ours: all})
	if err != nil || again.Identity() != identity {
		t.Errorf("the pool is %s, was %s: %v", again.Identity(), identity, err)
	}
}

// Two clusters on one share do not both adopt a directory, or one in the other's.
func TestAdoptingWhatIsAnotherClusters(t *testing.T) {
	root := t.TempDir()
	theirs, err := openPart(t, root, dir.Options{Cluster: "cluster-1"})
	if err != nil {
		t.Fatal(err)
	}
	ours, err := openPart(t, root, dir.Options{Cluster: "cluster-2"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "team/app/inside"), 0o755); err != nil {
		t.Fatal(err)
	}
	at := func(name, path string) volume.Volume {
		t.Helper()
		v := foreign(t, name)
		if v.Path, err = volume.ParseRelPath(path); err != nil {
			t.Fatal(err)
		}
		return v
	}
	if _, err := theirs.Adopt(t.Context(), at("pvc-1", "team/app")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"team", "team/app", "team/app/inside"} {
		v := at("pvc-2", path)
		if _, err := ours.Adopt(t.Context(), v); !errors.Is(err, volume.ErrForeign) {
			t.Errorf("%s: got error %v, want %v", path, err, volume.ErrForeign)
		}
		if _, err := ours.Get(t.Context(), v.Name); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("%s: there is a record: %v", path, err)
		}
	}
}
