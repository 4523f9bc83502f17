package dir_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/volume"
)

func inspect(t *testing.T, root string) dir.Inspection {
	t.Helper()
	i, err := dir.Inspect(t.Context(), root, "", dir.QuotaAuto)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// A pool in which everything is that can be there, and that another process has open.
func TestInspect(t *testing.T) {
	p := open(t, t.TempDir())
	ready, lost, discarded := create(t, p, "pvc-ready"), create(t, p, "pvc-lost"), create(t, p, "pvc-discarded")
	if err := p.Discard(t.Context(), discarded.Name); err != nil {
		t.Fatal(err)
	}
	create(t, p, "pvc-damaged")
	records := filepath.Join(p.root, ".berth/volumes")
	if err := errors.Join(
		os.Remove(lost.Dir),
		os.WriteFile(filepath.Join(records, "pvc-damaged.json"), []byte("{"), 0o600),
		os.WriteFile(filepath.Join(records, "notes.txt"), nil, 0o600),
		os.WriteFile(filepath.Join(records, "pvc-new.json.tmp"), nil, 0o600), // being written
		os.Mkdir(filepath.Join(p.root, "lost+found"), 0o700),
		os.Mkdir(filepath.Join(p.root, "pvc-foreign"), 0o700),
		os.WriteFile(filepath.Join(p.root, "vfs.conf"), nil, 0o600),
		os.Mkdir(filepath.Join(p.root, ".berth/trash/pvc-gone"), 0o700),
	); err != nil {
		t.Fatal(err)
	}
	before := tree(t, p.root)

	got := inspect(t, p.root)
	if got.Identity != p.Identity() || got.Advisory == nil {
		t.Errorf("identity %q, advisory: %v", got.Identity, got.Advisory)
	}
	states := map[string]volume.State{}
	for _, r := range got.Reports {
		states[r.Name.String()] = r.State
		if r.Usage != nil || r.Dir != filepath.Join(p.root, r.Name.String()) {
			t.Errorf("report %+v", r)
		}
	}
	if len(states) != 3 || states[ready.Name.String()] != volume.StateReady || states["pvc-discarded"] != volume.StateDiscarded {
		t.Errorf("volumes are %v", states)
	}
	for i, want := range []string{"notes.txt", "pvc-damaged", "pvc-lost: its directory"} {
		if len(got.Problems) != 3 || !strings.Contains(got.Problems[i].Error(), want) {
			t.Errorf("problems are %q, want %q as number %d", got.Problems, want, i)
		}
	}
	want := []string{filepath.Join(p.root, ".berth/trash/pvc-gone"), filepath.Join(p.root, "pvc-foreign"), filepath.Join(p.root, "vfs.conf")}
	if !slices.Equal(got.Unknown, want) {
		t.Errorf("unknown are %q, want %q", got.Unknown, want)
	}
	if after := tree(t, p.root); !slices.Equal(before, after) {
		t.Errorf("Inspect has changed the pool from %q to %q", before, after)
	}
}

// tree lists all below root.
func tree(t *testing.T, root string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestInspectOfWhatIsNoPool(t *testing.T) {
	root := t.TempDir()
	if _, err := dir.Inspect(t.Context(), root, "", dir.QuotaAuto); !errors.Is(err, volume.ErrForeign) {
		t.Errorf("got error %v, want %v", err, volume.ErrForeign)
	}
	if got := tree(t, root); len(got) != 1 {
		t.Errorf("there is %q", got)
	}
	if _, err := dir.Inspect(t.Context(), filepath.Join(root, "absent"), "", dir.QuotaAuto); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got error %v, want %v", err, fs.ErrNotExist)
	}
}

// What lies in the folders of volumes is looked at, and what another cluster has there
// is not nobody's.
func TestInspectOfNestedPaths(t *testing.T) {
	both := clusters(t, "east", "west")
	p := both[0]
	createAt(t, p, "pvc-1", "ns/deep/a")
	createAt(t, p, "pvc-2", "ns/old")
	archive(t, p, "pvc-2")
	createAt(t, both[1], "pvc-1", "ns/theirs")
	createAt(t, both[1], "pvc-2", "alone/theirs")
	foreign := filepath.Join(p.root, "ns/deep/foreign")
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	i, err := dir.Inspect(t.Context(), p.root, "east", dir.QuotaAuto)
	if err != nil {
		t.Fatal(err)
	}
	if len(i.Reports) != 2 || len(i.Problems) != 0 {
		t.Errorf("got %+v, %v", i.Reports, i.Problems)
	}
	if !slices.Equal(i.Unknown, []string{foreign}) {
		t.Errorf("unknown are %q, want %q", i.Unknown, foreign)
	}
}
