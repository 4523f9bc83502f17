package dir_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/copytree/treetest"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

// snapshots is where p keeps them.
func (p *pool) snapshots() string { return filepath.Join(p.root, dir.Private, "snapshots") }

func takeSnapshot(t *testing.T, p *pool, name, of string) volume.Volume {
	t.Helper()
	v, err := p.Snapshot(t.Context(), volumetest.SnapshotSpec(t, name, of), nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func restore(t *testing.T, p *pool, name, snapshot, of string) volume.Volume {
	t.Helper()
	v, err := p.Clone(t.Context(), volumetest.RestoreSpec(t, name, snapshot, of), nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func clone(t *testing.T, p *pool, name, of string) volume.Volume {
	t.Helper()
	v, err := p.Clone(t.Context(), volumetest.CloneSpec(t, name, of), nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func remove(t *testing.T, p *pool, names ...string) {
	t.Helper()
	for _, name := range names {
		n := volumetest.Spec(t, name).Name
		if err := errors.Join(p.Discard(t.Context(), n), p.Purge(t.Context(), n)); err != nil {
			t.Fatal(err)
		}
	}
}

// sameTrees compares what is in volumes, not what they are like themselves: each has the
// owner and mode that was asked for.
func sameTrees(t *testing.T, source, v string) {
	t.Helper()
	entries, err := os.ReadDir(source)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			treetest.Compare(t, filepath.Join(source, e.Name()), filepath.Join(v, e.Name()))
		}
	}
	if a, b := treetest.Names(t, source), treetest.Names(t, v); a != b {
		t.Errorf("%d names in %s, %d in %s", a, source, b, v)
	}
}

// fill makes a tree below v with all that a copy has to keep.
func fillTree(t *testing.T, v volume.Volume, files int) {
	t.Helper()
	tree := filepath.Join(v.Dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	treetest.Make(t, tree, files)
}

func TestSnapshotsHoldEverything(t *testing.T) {
	p := open(t, t.TempDir())
	source := create(t, p, "pvc-1")
	fillTree(t, source, 500)
	v := takeSnapshot(t, p, "snap-1", "pvc-1")
	if want := filepath.Join(p.snapshots(), "snap-1"); v.Dir != want {
		t.Errorf("it lies at %s, want %s", v.Dir, want)
	}
	treetest.Compare(t, source.Dir, v.Dir) // the folder itself too
	s := volumetest.RestoreSpec(t, "pvc-2", "snap-1", "pvc-1")
	s.Owner.Mode = 0o700
	restored, err := p.Clone(t.Context(), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	sameTrees(t, source.Dir, restored.Dir)
	if info, err := os.Stat(restored.Dir); err != nil || info.Mode().Perm() != 0o700 || restored.Owner.Mode != 0o700 {
		t.Errorf("mode is %v, in the record %o; %v", info.Mode(), restored.Owner.Mode, err)
	}
	sameTrees(t, source.Dir, clone(t, p, "pvc-3", "pvc-2").Dir)
}

func TestProgressIsTold(t *testing.T) {
	p := open(t, t.TempDir())
	source := create(t, p, "pvc-1")
	if err := os.WriteFile(filepath.Join(source.Dir, "file"), make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	var progress volume.Progress
	v, err := p.Snapshot(t.Context(), volumetest.SnapshotSpec(t, "snap-1", "pvc-1"), &progress)
	if err != nil || !v.Copied {
		t.Fatalf("copied: %v; %v", v.Copied, err)
	}
	if files, bytes := progress.Copied(); files != 1 || bytes != 1000 {
		t.Errorf("told of %d files with %d bytes, want one with 1000", files, bytes)
	}
}

// A snapshot's name is no path that is taken, and what lies at that path is nothing of its.
func TestASnapshotLiesAtNobodysPath(t *testing.T) {
	root := t.TempDir()
	east, west := openFor(t, root, "east"), openFor(t, root, "west")
	create(t, east, "pvc-1")
	takeSnapshot(t, east, "data", "pvc-1")
	theirs, err := west.Create(t.Context(), volumetest.SpecAt(t, "pvc-2", "data"))
	if err != nil {
		t.Fatal(err)
	}
	takeSnapshot(t, west, "data", "pvc-2")
	ours, err := east.Create(t.Context(), volumetest.SpecAt(t, "pvc-3", "data2"))
	if err != nil {
		t.Fatal(err)
	}
	takeSnapshot(t, east, "data2", "pvc-3")
	i, err := dir.Inspect(t.Context(), root, "east", dir.QuotaAuto)
	if err != nil || len(i.Problems) > 0 || len(i.Unknown) > 0 {
		t.Errorf("problems %v, unknown %v; %v", i.Problems, i.Unknown, err)
	}
	remove(t, east, "data", "data2")
	for _, v := range []volume.Volume{theirs, ours} {
		if _, err := os.Stat(v.Dir); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(root, ".berth/clusters/west/snapshots/data")); err != nil {
		t.Error(err)
	}
}

func openFor(t *testing.T, root, cluster string) *pool {
	t.Helper()
	b, err := dir.Open(t.Context(), root, dir.Options{Cluster: cluster})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return &pool{b, root}
}

// asBegun has the record of n say that it was begun and not ended, with a part of it done
// and something that is not in its source any more.
func asBegun(t *testing.T, p *pool, v volume.Volume) {
	t.Helper()
	v.State, v.QuotaID, v.Limit, v.Copied = volume.StateCreating, 0, volume.LimitNone, false
	if _, err := p.Update(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.RemoveAll(v.Dir), os.Mkdir(v.Dir, 0o700), os.WriteFile(filepath.Join(v.Dir, "half"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestWhatWasCutOffBeginsAgain(t *testing.T) {
	p := open(t, t.TempDir())
	source := create(t, p, "pvc-1")
	if err := os.WriteFile(filepath.Join(source.Dir, "all"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	asBegun(t, p, takeSnapshot(t, p, "snap-1", "pvc-1"))
	if _, err := p.Clone(t.Context(), volumetest.RestoreSpec(t, "pvc-2", "snap-1", "pvc-1"), nil); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("restoring half a snapshot: got error %v, want %v", err, volume.ErrNotFound)
	}
	v := takeSnapshot(t, p, "snap-1", "pvc-1")
	if got := names(t, v.Dir); v.State != volume.StateSnapshot || !slices.Equal(got, []string{"all"}) {
		t.Errorf("the snapshot is %s and holds %v", v.State, got)
	}
	asBegun(t, p, restore(t, p, "pvc-2", "snap-1", "pvc-1"))
	v = restore(t, p, "pvc-2", "snap-1", "pvc-1")
	if got := names(t, v.Dir); v.State != volume.StateReady || !slices.Equal(got, []string{"all"}) {
		t.Errorf("the restored volume is %s and holds %v", v.State, got)
	}

	// Without its source nothing can be made of it, but it can be deleted.
	asBegun(t, p, v)
	remove(t, p, "snap-1")
	if _, err := p.Clone(t.Context(), volumetest.RestoreSpec(t, "pvc-2", "snap-1", "pvc-1"), nil); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("got error %v, want %v", err, volume.ErrNotFound)
	}
	remove(t, p, "pvc-2", "pvc-1")
	if got := allFiles(t, p.root); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
}

// allFiles gives what is in root but Berth's own files and folders.
func allFiles(t *testing.T, root string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, path)
		if own := strings.Count(rel, "/") < 2 && (rel == "." || strings.HasPrefix(rel, dir.Private)); !own {
			found = append(found, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// A clone is never made in the place of something, as crashes leave nothing there.
func TestACloneReplacesNothing(t *testing.T) {
	p := open(t, t.TempDir())
	create(t, p, "pvc-1")
	precious := filepath.Join(p.root, "pvc-2", "precious")
	if err := os.MkdirAll(precious, 0o755); err != nil {
		t.Fatal(err)
	}
	s := volumetest.CloneSpec(t, "pvc-2", "pvc-1")
	s.Existing = volume.ExistingReuse
	if _, err := p.Clone(t.Context(), s, nil); !errors.Is(err, volume.ErrForeign) {
		t.Errorf("got error %v, want %v", err, volume.ErrForeign)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
}

// Whoever asks for a clone never gets what is empty, or another one's.
func TestAVolumeOfAnotherContentIsNoClone(t *testing.T) {
	for _, state := range []volume.State{volume.StateCreating, volume.StateReady} {
		p := open(t, t.TempDir())
		create(t, p, "pvc-1")
		takeSnapshot(t, p, "snap-1", "pvc-1")
		for _, v := range []volume.Volume{create(t, p, "pvc-2"), restore(t, p, "pvc-3", "snap-1", "pvc-1")} {
			v.State = state
			if _, err := p.Update(t.Context(), v); err != nil {
				t.Fatal(err)
			}
			if _, err := p.Clone(t.Context(), volumetest.CloneSpec(t, v.Name.String(), "pvc-1"), nil); !errors.Is(err, volume.ErrExists) {
				t.Errorf("%s, which is %s: got error %v, want %v", v.Name, state, err, volume.ErrExists)
			}
		}
	}
}

// pause has whoever reads the file wait until goOn is called, and gives a function that
// waits until somebody does; see fcntl(2), leases.
func pause(t *testing.T, path string) (reached, goOn func()) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Fatal(err)
	}
	reached = func() {
		for {
			lease, err := unix.FcntlInt(f.Fd(), unix.F_GETLEASE, 0)
			if err != nil {
				t.Fatal(err)
			}
			if lease != unix.F_WRLCK { // it is being taken back
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	return reached, func() {
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK); err != nil {
			t.Fatal(err)
		}
	}
}

// What is purged while it is copied may be in the copy in part.
func TestACopyOfWhatIsDeletedMeanwhileIsNeverReady(t *testing.T) {
	for what, copies := range map[string]func(context.Context, *pool) error{
		"snapshot": func(ctx context.Context, p *pool) error {
			_, err := p.Snapshot(ctx, volumetest.SnapshotSpec(t, "copy", "pvc-1"), nil)
			return err
		},
		"clone": func(ctx context.Context, p *pool) error {
			_, err := p.Clone(ctx, volumetest.CloneSpec(t, "copy", "pvc-1"), nil)
			return err
		},
	} {
		for how, ends := range map[string]struct {
			end  func(*testing.T, *pool, context.CancelFunc)
			want error
		}{
			"deleted":   {func(t *testing.T, p *pool, _ context.CancelFunc) { remove(t, p, "pvc-1") }, volume.ErrNotFound},
			"cancelled": {func(_ *testing.T, _ *pool, cancel context.CancelFunc) { cancel() }, context.Canceled},
		} {
			t.Run(what+" "+how, func(t *testing.T) {
				p := open(t, t.TempDir())
				v := create(t, p, "pvc-1")
				reached, goOn := pause(t, filepath.Join(v.Dir, "leased"))
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				failed := make(chan error)
				go func() { failed <- copies(ctx, p) }()
				reached()
				ends.end(t, p, cancel)
				goOn()
				if err := <-failed; !errors.Is(err, ends.want) {
					t.Errorf("got error %v, want %v", err, ends.want)
				}
				if v, err := p.Get(t.Context(), volumetest.Spec(t, "copy").Name); err != nil || v.State != volume.StateCreating {
					t.Errorf("it is %s, %v", v.State, err)
				}
				if how == "cancelled" {
					if err := copies(t.Context(), p); err != nil {
						t.Error(err)
					}
				}
				remove(t, p, "copy")
			})
		}
	}
}

// At each step that a deletion can be cut off at, it is ended by the same calls.
func TestSnapshotsAreDeletedWhereverThatWasCutOff(t *testing.T) {
	for name, cut := range map[string]func(p *pool, record, tree, trash string) error{
		"before anything was made": func(p *pool, record, tree, _ string) error {
			text, err := os.ReadFile(record + ".json")
			text = []byte(strings.Replace(string(text), `"snapshot"`, `"creating"`, 1))
			return errors.Join(err, os.WriteFile(record+".json", text, 0o600), os.RemoveAll(tree))
		},
		"before it was moved": func(_ *pool, record, _, _ string) error { return os.Rename(record+".json", record+".discarded") },
		"when it was moved": func(_ *pool, record, tree, trash string) error {
			return errors.Join(os.Rename(record+".json", record+".discarded"), os.Rename(tree, trash))
		},
		"when it was noted so": func(_ *pool, record, tree, trash string) error {
			return errors.Join(os.Rename(record+".json", record+".trashed"), os.Rename(tree, trash))
		},
		"when it was freed": func(_ *pool, record, tree, _ string) error {
			return errors.Join(os.Rename(record+".json", record+".trashed"), os.RemoveAll(tree))
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := open(t, t.TempDir())
			create(t, p, "pvc-1")
			// A volume of another name may lie at the path that is called as the snapshot is.
			if _, err := p.Create(t.Context(), volumetest.SpecAt(t, "pvc-2", "snap-1")); err != nil {
				t.Fatal(err)
			}
			takeSnapshot(t, p, "snap-1", "pvc-1")
			private := filepath.Join(p.root, dir.Private)
			if err := cut(p, private+"/volumes/snap-1", private+"/snapshots/snap-1", private+"/trash/snap-1"); err != nil {
				t.Fatal(err)
			}
			remove(t, p, "snap-1")
			if got := names(t, p.snapshots()); len(got) > 0 {
				t.Errorf("left: %v", got)
			}
			if _, err := os.Stat(filepath.Join(p.root, "snap-1")); err != nil {
				t.Error(err)
			}
			remove(t, p, "pvc-1", "pvc-2")
			if got := allFiles(t, p.root); len(got) > 0 {
				t.Errorf("left: %v", got)
			}
		})
	}
}

func TestSnapshotsAreInspected(t *testing.T) {
	p := open(t, t.TempDir())
	create(t, p, "pvc-1")
	v := takeSnapshot(t, p, "snap-1", "pvc-1")
	unknown := filepath.Join(p.snapshots(), "nobodys")
	if err := os.Mkdir(unknown, 0o700); err != nil {
		t.Fatal(err)
	}
	i, err := dir.Inspect(t.Context(), p.root, "", dir.QuotaAuto)
	if err != nil || len(i.Problems) > 0 || !slices.Equal(i.Unknown, []string{unknown}) || len(i.Reports) != 2 {
		t.Errorf("problems %v, unknown %v, reports %v; %v", i.Problems, i.Unknown, i.Reports, err)
	}
	if err := os.RemoveAll(v.Dir); err != nil {
		t.Fatal(err)
	}
	if i, err = dir.Inspect(t.Context(), p.root, "", dir.QuotaAuto); err != nil || len(i.Problems) != 1 || !strings.Contains(i.Problems[0].Error(), "snap-1") {
		t.Errorf("of a snapshot without a directory: problems %v; %v", i.Problems, err)
	}
}

func TestRecordsOfSnapshotsAreCheckedWhenRead(t *testing.T) {
	n := volumetest.Spec(t, "snap-1").Name
	for text, valid := range map[string]bool{
		`{"version":1,"name":"snap-1","path":"snap-1","state":"snapshot","snapshotOf":"pvc-1"}`:                             true,
		`{"version":1,"name":"snap-1","path":"snap-1","state":"creating","snapshotOf":"pvc-1"}`:                             true,
		`{"version":1,"name":"snap-1","path":"snap-1","state":"snapshot"}`:                                                  false,
		`{"version":1,"name":"snap-1","path":"snap-1","state":"ready","snapshotOf":"pvc-1"}`:                                false,
		`{"version":1,"name":"snap-1","path":"snap-1","state":"archived","snapshotOf":"pvc-1","archivePath":"archived-me"}`: false,
	} {
		if _, err := dir.ParseRecord(n, []byte(text)); (err == nil) != valid {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// A random history leaves nothing.
func TestRandomCopies(t *testing.T) {
	p := open(t, t.TempDir())
	volumetest.Model(t, p, 1, 150)
	if got := allFiles(t, p.root); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
}
