//go:build system

package quota

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/copytree/treetest"
	"github.com/berth-storage/berth/internal/quota"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
	"github.com/berth-storage/berth/test/vm"
)

// wantProject wants all below folder that can bear a project to bear this one.
func wantProject(t *testing.T, folder string, want uint64) {
	t.Helper()
	err := filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		if err == nil && (e.IsDir() || e.Type().IsRegular()) {
			if got := projectOf(t, path); uint64(got) != want {
				t.Errorf("%s has project %d, want %d", path, got, want)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func inodesOf(t *testing.T, limits *quota.FS, project uint64) uint64 {
	t.Helper()
	used, _, err := limits.Get(uint32(project))
	if err != nil {
		t.Fatal(err)
	}
	return used.Inodes
}

func takeSnapshot(t *testing.T, p *pool, name, of string) volume.Volume {
	t.Helper()
	v, err := p.Snapshot(t.Context(), volumetest.SnapshotSpec(t, name, of), nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func restoreSpec(t *testing.T, name, snapshot, of string, bytes int64) volume.Spec {
	t.Helper()
	s := volumetest.RestoreSpec(t, name, snapshot, of)
	s.Size = bytes
	return s
}

// A snapshot counts for nobody, and what is restored of it for the new volume alone.
func TestCopiesAreCountedWhereTheyBelong(t *testing.T) {
	onProjects(t, func(t *testing.T, root string) {
		p, limits := open(t, root, required), limitsOf(t, root)
		source := create(t, p, spec(t, "pvc-1", 64<<20))
		tree := filepath.Join(source.Dir, "tree")
		if err := os.Mkdir(tree, 0o755); err != nil {
			t.Fatal(err)
		}
		treetest.Make(t, tree, 300)
		before := inodesOf(t, limits, source.QuotaID)
		taken := takeSnapshot(t, p, "snap-1", "pvc-1")
		if !taken.Copied || taken.QuotaID != 0 {
			t.Errorf("taken as %+v", taken)
		}
		restored, err := p.Clone(t.Context(), restoreSpec(t, "pvc-2", "snap-1", "pvc-1", 128<<20), nil)
		if err != nil {
			t.Fatal(err)
		}
		if restored.QuotaID == source.QuotaID || restored.QuotaID == 0 || restored.Limit != source.Limit {
			t.Errorf("restored as %+v", restored)
		}
		for _, v := range []volume.Volume{taken, restored} {
			treetest.Compare(t, tree, filepath.Join(v.Dir, "tree"))
			wantProject(t, v.Dir, v.QuotaID)
		}
		if a, b := inodesOf(t, limits, source.QuotaID), inodesOf(t, limits, restored.QuotaID); a != before || b != before {
			t.Errorf("of %d inodes %d count for the source and %d for the restored volume", before, a, b)
		}
		wantLimit(t, limits, uint32(restored.QuotaID), quota.Amount{Bytes: 128 << 20})
		if err := asUser(t, func() error { return write(filepath.Join(restored.Dir, "too-much"), 129) }); !errors.Is(err, unix.EDQUOT) && !errors.Is(err, unix.ENOSPC) {
			t.Errorf("writing beyond the size: got error %v", err)
		}
		for _, v := range []volume.Volume{source, taken, restored} {
			remove(t, p, v.Name)
		}
		wantLimit(t, limits, uint32(restored.QuotaID), quota.Amount{})
	})
}

// Neither too many bytes nor too many files get into a volume, and nothing of it stays.
func TestWhatDoesNotFitIsNotRestored(t *testing.T) {
	onProjects(t, func(t *testing.T, root string) {
		p, limits := open(t, root, required), limitsOf(t, root)
		source := create(t, p, spec(t, "pvc-1", 64<<20))
		if err := write(filepath.Join(source.Dir, "file"), 8); err != nil {
			t.Fatal(err)
		}
		if n, err := fill(source.Dir, 100); err != nil {
			t.Fatalf("%d files: %v", n, err)
		}
		takeSnapshot(t, p, "snap-1", "pvc-1")
		small, few := restoreSpec(t, "pvc-2", "snap-1", "pvc-1", 4<<20), restoreSpec(t, "pvc-2", "snap-1", "pvc-1", 64<<20)
		few.Inodes = 50
		for _, s := range []volume.Spec{small, few} {
			if _, err := p.Clone(t.Context(), s, nil); !errors.Is(err, volume.ErrNoSpace) {
				t.Errorf("got error %v, want %v", err, volume.ErrNoSpace)
			}
			if _, err := p.Get(t.Context(), s.Name); !errors.Is(err, volume.ErrNotFound) {
				t.Errorf("Get: got error %v, want %v", err, volume.ErrNotFound)
			}
			if _, err := os.Lstat(filepath.Join(root, "pvc-2")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the directory: %v", err)
			}
		}
		for i := range uint32(8) { // nor does a limit
			wantLimit(t, limits, uint32(source.QuotaID)+1+i, quota.Amount{})
		}
		enough := few
		enough.Inodes = 200
		if _, err := p.Clone(t.Context(), enough, nil); err != nil {
			t.Error(err)
		}
	})
}

// A half copy bears the project of its record, is removed with it, and made again.
func TestAHalfCopyIsMadeAgainInItsProject(t *testing.T) {
	onProjects(t, func(t *testing.T, root string) {
		p := open(t, root, required)
		source := create(t, p, spec(t, "pvc-1", 64<<20))
		if err := write(filepath.Join(source.Dir, "file"), 1); err != nil {
			t.Fatal(err)
		}
		s := volumetest.CloneSpec(t, "pvc-2", "pvc-1")
		s.Size = 64 << 20
		half, err := p.Clone(t.Context(), s, nil)
		if err != nil {
			t.Fatal(err)
		}
		half.State, half.Limit = volume.StateCreating, volume.LimitNone
		if _, err := p.Update(t.Context(), half); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(half.Dir, "file"), filepath.Join(half.Dir, "half")); err != nil {
			t.Fatal(err)
		}
		p = p.reopen(t)
		whole, err := p.Clone(t.Context(), s, nil)
		if err != nil {
			t.Fatal(err)
		}
		wantProject(t, whole.Dir, whole.QuotaID)
		if _, err := os.Lstat(filepath.Join(whole.Dir, "half")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the half copy: %v", err)
		}
		if whole.Limit != source.Limit {
			t.Errorf("its limit is %q, want %q", whole.Limit, source.Limit)
		}
		remove(t, p, whole.Name)
		remove(t, p, source.Name)
	})
}

// XFS copies without copying: the pool has hardly less room then.
func TestCopiesOnXFSShareTheirBlocks(t *testing.T) {
	root := mount(t, vm.XFS)
	p := open(t, root, required)
	source := create(t, p, spec(t, "pvc-1", 256<<20))
	if err := write(filepath.Join(source.Dir, "file"), 100); err != nil {
		t.Fatal(err)
	}
	before, err := p.Capacity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	takeSnapshot(t, p, "snap-1", "pvc-1")
	if _, err := p.Clone(t.Context(), restoreSpec(t, "pvc-2", "snap-1", "pvc-1", 256<<20), nil); err != nil {
		t.Fatal(err)
	}
	after, err := p.Capacity(t.Context())
	if err != nil || before.Available-after.Available > 10<<20 {
		t.Errorf("two copies of 100 MiB take up %d bytes; %v", before.Available-after.Available, err)
	}
}

func TestRandomSnapshots(t *testing.T) {
	for _, fs := range allFileSystems {
		t.Run(fs.Kind, func(t *testing.T) { volumetest.Model(t, open(t, mount(t, fs), required), 1, 100) })
	}
}
