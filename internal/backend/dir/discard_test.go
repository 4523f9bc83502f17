package dir_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

// next is a volume that came to a path when the one before was deleted.
func next(t *testing.T, p *pool, name, path string) volume.Volume {
	t.Helper()
	v, err := p.Create(t.Context(), volumetest.SpecAt(t, name, path))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(v.Dir, "precious"), []byte(name), 0o600); err != nil {
		t.Fatal(err)
	}
	return v
}

func wantPrecious(t *testing.T, v volume.Volume) {
	t.Helper()
	if text, err := os.ReadFile(filepath.Join(v.Dir, "precious")); err != nil || string(text) != v.Name.String() {
		t.Errorf("the data of volume %s is %q, %v", v.Name, text, err)
	}
}

// again is what Recover does with a volume whose deletion was cut off.
func again(t *testing.T, p *pool, n volume.Name) *pool {
	t.Helper()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p = open(t, p.root)
	if err := errors.Join(p.Discard(t.Context(), n), p.Purge(t.Context(), n)); err != nil {
		t.Fatal(err)
	}
	return p
}

// Between the end of a discarded volume's directory and that of its record there may be a
// crash, and another volume at its path.
func TestDiscardAfterPurgeWasCutOffLeavesTheNextVolume(t *testing.T) {
	p := open(t, t.TempDir())
	old := next(t, p, "pvc-1", "team/data")
	if err := p.Discard(t.Context(), old.Name); err != nil {
		t.Fatal(err)
	}
	v := next(t, p, "pvc-2", "team/data")
	ctx := &countdown{Context: t.Context()}
	ctx.left.Store(3)
	if err := p.Purge(ctx, old.Name); !errors.Is(err, context.Canceled) {
		t.Fatalf("got error %v, want %v", err, context.Canceled)
	}
	if err := os.RemoveAll(filepath.Join(p.root, dir.Private, "trash", "pvc-1")); err != nil { // as Purge, if it had come to that
		t.Fatal(err)
	}
	p = again(t, p, old.Name)
	wantPrecious(t, v)
	if _, err := p.Get(t.Context(), old.Name); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("the record of the old volume: %v", err)
	}
}

// A volume whose directory was never made, or is gone, leaves its path too.
func TestDiscardWithoutADirectoryLeavesTheNextVolume(t *testing.T) {
	p := open(t, t.TempDir())
	old := next(t, p, "pvc-1", "team/data")
	if err := os.RemoveAll(old.Dir); err != nil {
		t.Fatal(err)
	}
	if err := p.Discard(t.Context(), old.Name); err != nil {
		t.Fatal(err)
	}
	v := next(t, p, "pvc-2", "team/data")
	again(t, p, old.Name)
	wantPrecious(t, v)
}

// A discard that was cut off before its move is ended by the purge at the latest.
func TestPurgeEndsADiscard(t *testing.T) {
	p := open(t, t.TempDir())
	v := next(t, p, "pvc-1", "team/data")
	records := filepath.Join(p.root, dir.Private, "volumes")
	if err := os.Rename(filepath.Join(records, "pvc-1.json"), filepath.Join(records, "pvc-1.discarded")); err != nil {
		t.Fatal(err)
	}
	if err := p.Purge(t.Context(), v.Name); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Dir(v.Dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is left: %v", err)
	}
}

// A volume that was cut off before it saw that another cluster has its path never had a
// directory there: the one that is there is not its own.
func TestDiscardOfABegunVolumeLeavesAnotherClusters(t *testing.T) {
	root := t.TempDir()
	east, west := openWith(t, root, dir.Options{Cluster: "east"}), openWith(t, root, dir.Options{Cluster: "west"})
	theirs := next(t, west, "west-1", "team/data")
	begun, err := east.Create(t.Context(), volumetest.SpecAt(t, "east-1", "team/dat0"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, dir.Folder("east"), "volumes", "east-1.json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text = []byte(strings.NewReplacer("team/dat0", "team/data", `"ready"`, `"creating"`).Replace(string(text)))
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(east.Discard(t.Context(), begun.Name), east.Purge(t.Context(), begun.Name)); err != nil {
		t.Fatal(err)
	}
	wantPrecious(t, theirs)
	if _, err := east.Get(t.Context(), begun.Name); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("its record: %v", err)
	}
}

// What a claim was to take over may have been a folder that was just being tidied away.
func TestCreateGoesOnWithoutWhatItWasToTakeOver(t *testing.T) {
	p := open(t, t.TempDir())
	s := volumetest.SpecAt(t, "pvc-1", "team")
	s.Existing = volume.ExistingReuse
	v, err := p.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	v.State, v.TookOver = volume.StateCreating, true
	if _, err := p.Update(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(v.Dir); err != nil {
		t.Fatal(err)
	}
	v, err = p.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(v.Dir); err != nil || v.TookOver || info.Mode().Perm() != 0o770 {
		t.Errorf("got %+v, %v, %v", v, info, err)
	}
}

// A folder that was made for a volume in it, and stayed because something else was there
// too, may have become a volume's, which is empty yet.
func TestTidyingLeavesEmptyVolumes(t *testing.T) {
	for _, cluster := range []string{"east", "west"} {
		t.Run(cluster, func(t *testing.T) {
			root := t.TempDir()
			east, west := openWith(t, root, dir.Options{Cluster: "east"}), openWith(t, root, dir.Options{Cluster: "west"})
			old := next(t, east, "east-1", "team/a/x")
			foreign := filepath.Join(root, "team/a/foreign")
			if err := os.WriteFile(foreign, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(east.Discard(t.Context(), old.Name), os.Remove(foreign)); err != nil {
				t.Fatal(err)
			}
			s := volumetest.SpecAt(t, cluster+"-2", "team/a")
			s.Existing = volume.ExistingReuse
			v, err := map[string]*pool{"east": east, "west": west}[cluster].Create(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			if err := east.Purge(t.Context(), old.Name); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(v.Dir); err != nil {
				t.Error(err)
			}
		})
	}
}
