//go:build system

package dir_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/copytree/treetest"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

// wantNoSubvolumes wants p to be as when it was made.
func wantNoSubvolumes(t *testing.T, p *pool) {
	t.Helper()
	if got := files(t, p.root); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
	if left := command(t, "btrfs", "subvolume", "list", p.root); left != "" {
		t.Errorf("subvolumes are left:\n%s", left)
	}
	if got := qgroups(t, p.root); len(got) > 0 {
		t.Errorf("qgroups %v are left", got)
	}
}

func TestSnapshotsOfSubvolumes(t *testing.T) {
	p := openWith(t, btrfsQuota.mount(t), dir.Options{MountVolumes: true})
	source := createOf(t, p, "pvc-1", 32<<20)
	if err := p.Mount(t.Context(), source); err != nil { // as when it is exported
		t.Fatal(err)
	}
	fillTree(t, source, 300)
	command(t, "btrfs", "subvolume", "create", filepath.Join(source.Dir, "nested")) // which nobody can by NFS
	if err := os.WriteFile(filepath.Join(source.Dir, "nested", "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	taken := takeSnapshot(t, p, "snap-1", "pvc-1")
	if taken.Copied || taken.QuotaID == 0 || taken.Limit != volume.LimitNone {
		t.Errorf("taken as %+v", taken)
	}
	if err := os.WriteFile(filepath.Join(taken.Dir, "file"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing to a snapshot: got error %v, want %v", err, unix.EROFS)
	}
	if got := names(t, filepath.Join(taken.Dir, "nested")); len(got) > 0 {
		t.Errorf("of another subvolume it has %v", got)
	}
	treetest.Compare(t, filepath.Join(source.Dir, "tree"), filepath.Join(taken.Dir, "tree"))

	s := volumetest.RestoreSpec(t, "pvc-2", "snap-1", "pvc-1")
	s.Size, s.Owner = 48<<20, volume.Owner{UID: 1234, GID: 4321, Mode: 0o2750}
	restored, err := p.Clone(t.Context(), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	if restored.Limit != dir.LimitBtrfs || restored.QuotaID == taken.QuotaID || restored.QuotaID == 0 || restored.Owner != s.Owner {
		t.Errorf("restored as %+v", restored)
	}
	var is unix.Stat_t
	if err := unix.Lstat(restored.Dir, &is); err != nil || is.Uid != 1234 || is.Gid != 4321 || is.Mode&0o7777 != 0o2750 {
		t.Errorf("it is %d:%d, mode %o; %v", is.Uid, is.Gid, is.Mode, err)
	}
	treetest.Compare(t, filepath.Join(source.Dir, "tree"), filepath.Join(restored.Dir, "tree"))
	if err := write(filepath.Join(restored.Dir, "too-much"), 49); !errors.Is(err, unix.EDQUOT) {
		t.Errorf("writing beyond the size: got error %v, want %v", err, unix.EDQUOT)
	}
	command(t, "btrfs", "subvolume", "delete", filepath.Join(source.Dir, "nested"))
	remove(t, p, "pvc-1", "pvc-2", "snap-1")
	wantNoSubvolumes(t, p)
}

// A volume may be as full as can be, and what is restored of it is not bigger.
func TestAFullSubvolumeIsRestoredToTheSameSize(t *testing.T) {
	p := open(t, btrfsQuota.mount(t))
	v := createOf(t, p, "pvc-1", 16<<20)
	if err := write(filepath.Join(v.Dir, "all"), 20); !errors.Is(err, unix.EDQUOT) {
		t.Fatalf("got error %v, want %v", err, unix.EDQUOT)
	}
	takeSnapshot(t, p, "snap-1", "pvc-1")
	s := volumetest.RestoreSpec(t, "pvc-2", "snap-1", "pvc-1")
	s.Size = 16 << 20
	restored, err := p.Clone(t.Context(), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	if u, err := p.Usage(t.Context(), restored); err != nil || u.LimitBytes != 16<<20 || restored.QuotaID == v.QuotaID || restored.Limit != dir.LimitBtrfs {
		t.Errorf("restored as %+v, with a limit of %d bytes, %v", restored, u.LimitBytes, err)
	}
	if err := write(filepath.Join(restored.Dir, "more"), 1); !errors.Is(err, unix.EDQUOT) {
		t.Errorf("writing beyond the size: got error %v, want %v", err, unix.EDQUOT)
	}
	s = volumetest.RestoreSpec(t, "pvc-3", "snap-1", "pvc-1")
	s.Size = 8 << 20
	if _, err := p.Clone(t.Context(), s, nil); !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("restored to a volume that is too small: got error %v, want %v", err, volume.ErrNoSpace)
	}
	if _, err := p.Get(t.Context(), s.Name); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("Get: got error %v, want %v", err, volume.ErrNotFound)
	}
	remove(t, p, "snap-1", "pvc-2", "pvc-1")
	wantNoSubvolumes(t, p)
}

// A volume that was made without quotas is a directory, and is copied.
func TestDirectoriesOfBtrfsAreCopied(t *testing.T) {
	root := btrfsQuota.mount(t)
	p := openWith(t, root, dir.Options{Quota: dir.QuotaOff})
	source := createOf(t, p, "pvc-1", 32<<20)
	fillTree(t, source, 300)
	p.Close()
	p = openWith(t, root, dir.Options{Quota: dir.QuotaRequired})
	taken := takeSnapshot(t, p, "snap-1", "pvc-1")
	if !taken.Copied || taken.QuotaID != 0 {
		t.Errorf("taken as %+v", taken)
	}
	s := volumetest.RestoreSpec(t, "pvc-2", "snap-1", "pvc-1")
	s.Size = 32 << 20
	restored, err := p.Clone(t.Context(), s, nil)
	if err != nil || restored.Limit != dir.LimitBtrfs {
		t.Fatalf("restored with the limit %q, %v", restored.Limit, err)
	}
	sameTrees(t, source.Dir, restored.Dir)
	p.Close()
	p = openWith(t, root, dir.Options{Quota: dir.QuotaOff})
	unlimited := clone(t, p, "pvc-3", "pvc-2")
	if unlimited.Limit != volume.LimitNone {
		t.Errorf("it has the limit %q", unlimited.Limit)
	}
	sameTrees(t, source.Dir, unlimited.Dir)
	remove(t, p, "pvc-2", "snap-1", "pvc-1", "pvc-3")
	wantNoSubvolumes(t, p)
}

// As crashes leave it: the subvolume is there, and its record does not know it.
func TestSubvolumesThatWereCutOffBeginAgainOrGo(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *pool){
		"again": func(t *testing.T, p *pool) {
			if got := names(t, takeSnapshot(t, p, "snap-1", "pvc-1").Dir); !slices.Equal(got, []string{"now"}) {
				t.Errorf("the snapshot holds %v", got)
			}
			if got := names(t, restore(t, p, "pvc-2", "snap-1", "pvc-1").Dir); !slices.Equal(got, []string{"now"}) {
				t.Errorf("the restored volume holds %v", got)
			}
		},
		"gone": func(*testing.T, *pool) {},
	} {
		t.Run(name, func(t *testing.T) {
			p := open(t, btrfsQuota.mount(t))
			source := createOf(t, p, "pvc-1", 32<<20)
			if err := os.WriteFile(filepath.Join(source.Dir, "then"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			taken := takeSnapshot(t, p, "snap-1", "pvc-1")
			for _, v := range []volume.Volume{restore(t, p, "pvc-2", "snap-1", "pvc-1"), taken} {
				v.State, v.QuotaID, v.Limit = volume.StateCreating, 0, volume.LimitNone
				if _, err := p.Update(t.Context(), v); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Rename(filepath.Join(source.Dir, "then"), filepath.Join(source.Dir, "now")); err != nil {
				t.Fatal(err)
			}
			end(t, p)
			remove(t, p, "pvc-1", "snap-1", "pvc-2")
			wantNoSubvolumes(t, p)
		})
	}
}

// The capability is needed to delete a subvolume, not to empty it.
func TestASnapshotIsPurgedWithoutTheCapability(t *testing.T) {
	root := btrfsQuota.mount(t)
	p := open(t, root)
	fillTree(t, createOf(t, p, "pvc-1", 32<<20), 200)
	takeSnapshot(t, p, "snap-1", "pvc-1")
	asBegun := takeSnapshot(t, p, "snap-2", "pvc-1") // and is read-only where it is
	asBegun.State = volume.StateCreating
	if _, err := p.Update(t.Context(), asBegun); err != nil {
		t.Fatal(err)
	}
	command(t, "btrfs", "quota", "disable", root)
	p.Close()
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this
		failed <- func() error {
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var data [2]unix.CapUserData
			if err := unix.Capget(&header, &data[0]); err != nil {
				return err
			}
			data[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
			if err := unix.Capset(&header, &data[0]); err != nil {
				return err
			}
			parent, err := os.Open(filepath.Join(root, dir.Private, "snapshots"))
			if err != nil {
				return err
			}
			defer parent.Close()
			return errors.Join(dir.RemoveTree(t.Context(), parent, "snap-1"), dir.RemoveTree(t.Context(), parent, "snap-2"))
		}()
	}()
	if err := <-failed; err != nil {
		t.Error(err)
	}
	if got := names(t, p.snapshots()); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
}

// wantCopyOrNothing says whether there is room for a copy of pvc-1. If there is none, nothing of
// it may stay behind: neither what fills the pool, nor what looks like a copy.
func wantCopyOrNothing(t *testing.T, p *pool, name string, before []string, copies func() error) bool {
	t.Helper()
	err := copies()
	if err == nil {
		return true
	}
	if !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("got error %v, want %v", err, volume.ErrNoSpace)
	}
	if left := files(t, p.root); !slices.Equal(left, before) {
		t.Errorf("left %v, want %v; after: %v", left, before, err)
	}
	if _, err := p.Get(t.Context(), volumetest.Spec(t, name).Name); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("Get: got error %v, want %v", err, volume.ErrNotFound)
	}
	return false
}

// It would be tried again and again, and each time nobody could write.
func TestACopyThatDoesNotFitLeavesOthersRoom(t *testing.T) {
	p := open(t, mount(t, "-t", "tmpfs", "-o", "size=340m", "tmpfs"))
	v := create(t, p, "pvc-1")
	if err := os.WriteFile(filepath.Join(v.Dir, "file"), bytes.Repeat([]byte("berth"), 40<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	before := files(t, p.root)
	least, done := uint64(1<<62), make(chan error)
	go func() {
		_, err := p.Snapshot(t.Context(), volumetest.SnapshotSpec(t, "snap-1", "pvc-1"), nil)
		done <- err
	}()
	for {
		var fs unix.Statfs_t
		if err := unix.Statfs(p.root, &fs); err != nil {
			t.Fatal(err)
		}
		least = min(least, fs.Bavail*uint64(fs.Bsize))
		select {
		case err := <-done:
			if !errors.Is(err, volume.ErrNoSpace) || !strings.Contains(err.Error(), "left to those who write") {
				t.Errorf("got error %v", err)
			}
			if least < 1<<10 {
				t.Errorf("there were %d bytes left", least)
			}
			if left := files(t, p.root); !slices.Equal(left, before) {
				t.Errorf("left %v, want %v", left, before)
			}
			return
		default:
		}
	}
}

func TestCopiesWithoutSpaceLeaveNothing(t *testing.T) {
	for what, copies := range map[string]func(*pool) error{
		"snapshot": func(p *pool) error {
			_, err := p.Snapshot(t.Context(), volumetest.SnapshotSpec(t, "copy", "pvc-1"), nil)
			return err
		},
		"clone": func(p *pool) error {
			_, err := p.Clone(t.Context(), volumetest.CloneSpec(t, "copy", "pvc-1"), nil)
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			small := fileSystem{name: "ext4", mkfs: []string{"mkfs.ext4", "-q", "-m", "0", "-b", "1024"}, bytes: 4 << 20}
			p := open(t, small.mount(t))
			v := create(t, p, "pvc-1")
			for i := range 10 {
				if err := os.WriteFile(filepath.Join(v.Dir, fmt.Sprint(i)), make([]byte, 10<<10), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			before := files(t, p.root)
			filler, err := os.Create(filepath.Join(p.root, "filler"))
			if err != nil {
				t.Fatal(err)
			}
			defer filler.Close()
			size := fill(t, filler)
			do := func() error { return copies(p) }
			if wantCopyOrNothing(t, p, "copy", before, do) {
				t.Error("it succeeded on a full file system")
			}
			for tries := 0; !wantCopyOrNothing(t, p, "copy", before, do) && tries < 200; tries++ {
				size -= 1024
				if err := errors.Join(filler.Truncate(size), filler.Sync()); err != nil {
					t.Fatal(err)
				}
			}
			c, err := p.Get(t.Context(), volumetest.Spec(t, "copy").Name)
			if err != nil {
				t.Fatal(err)
			}
			if got := names(t, c.Dir); len(got) != 10 {
				t.Errorf("the copy holds %v", got)
			}
		})
	}
}

// Nor is a subvolume or a qgroup left that no record names.
func TestKilledAtRandomWithSubvolumes(t *testing.T) {
	root := btrfsQuota.mount(t)
	killAtRandom(t, root, 8)
	i, err := dir.Inspect(t.Context(), root, "east", dir.QuotaRequired)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, r := range i.Reports {
		if r.QuotaID == 0 {
			t.Errorf("%s is no subvolume", r.Name)
		}
		want = append(want, fmt.Sprint("0/", r.QuotaID))
	}
	got := qgroups(t, root)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("there are the qgroups %v, of records %v", got, want)
	}
	if n := strings.Count(command(t, "btrfs", "subvolume", "list", root), "\n"); n != len(want) {
		t.Errorf("%d subvolumes, %d records", n, len(want))
	}
}

func TestRandomSnapshots(t *testing.T) {
	for _, f := range []struct {
		fileSystem
		steps int
	}{{btrfsQuota, 400}, {btrfs, 200}} {
		t.Run(f.String(), func(t *testing.T) {
			p := open(t, f.mount(t))
			volumetest.Model(t, p, 1, f.steps)
			if got := files(t, p.root); len(got) > 0 {
				t.Errorf("left: %v", got)
			}
			if f.quota {
				wantNoSubvolumes(t, p)
			}
		})
	}
}

// A big tree with everything in it, through a snapshot and a restored volume.
func TestABigTreeIsRestored(t *testing.T) {
	big := fileSystem{name: "btrfs", mkfs: []string{"mkfs.btrfs", "-q"}, bytes: 6 << 30} // which packs small files
	p := open(t, big.mount(t))
	source := create(t, p, "pvc-1")
	fillTree(t, source, 100_000)
	takeSnapshot(t, p, "snap-1", "pvc-1")
	restored := restore(t, p, "pvc-2", "snap-1", "pvc-1")
	sameTrees(t, source.Dir, restored.Dir)
	if n := treetest.Names(t, restored.Dir); n < 100_000 {
		t.Errorf("%d names", n)
	}
}
