//go:build system

package zfs

import (
	"context"
	"errors"
	"testing"

	"github.com/berth-storage/berth/internal/backend/zfs"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
	"github.com/berth-storage/berth/test/vm"
)

// The contract of backends, on OpenZFS of this host.
func TestContract(t *testing.T) {
	parents := map[volume.Backend]string{}
	start := func(t *testing.T, parent string) volume.Backend {
		b := open(t, zfs.Options{Dataset: parent, Sizing: volume.SizingQuota})
		parents[b] = parent
		return b
	}
	volumetest.Suite{
		Open: func(t *testing.T) volume.Backend { return start(t, vm.NewParent(t)) },
		Reopen: func(t *testing.T, b volume.Backend) volume.Backend {
			if err := b.(*zfs.Backend).Close(); err != nil {
				t.Fatal(err)
			}
			return start(t, parents[b])
		},
	}.Run(t)
}

// Clones of clones are freed in any order, here as on zfs-fuse, where there are more steps: a command of zfs
// takes a tenth of a second to start in the guest.
func TestRandomClones(t *testing.T) {
	for on, steps := range map[zfs.OnClones]int{zfs.OnClonesWait: 100, zfs.OnClonesPromote: 50} {
		t.Run(string(on), func(t *testing.T) {
			parent := vm.NewParent(t)
			b := open(t, zfs.Options{Dataset: parent, OnClones: on, Sizing: volume.SizingQuota})
			volumetest.Model(t, b, 2, steps)
			if left := vm.Sh(t, `zfs list -rHo name -t all "$1"`, parent); left != parent+"\n"+parent+"/.berth\n" {
				t.Errorf("what is left:\n%s", left)
			}
		})
	}
}

// To another pool goes what is in the snapshot, as ZFS shows it, and not what the volume holds by now.
func TestCopyOfASnapshot(t *testing.T) {
	b := open(t, zfs.Options{Dataset: vm.NewParent(t), Sizing: volume.SizingQuota})
	source, err := b.Create(t.Context(), volumetest.Spec(t, "pvc-1"))
	if err != nil {
		t.Fatal(err)
	}
	vm.Sh(t, `mkdir "$1/d"; echo old >"$1/d/file"`, source.Dir)
	taken, err := b.Snapshot(t.Context(), volumetest.SnapshotSpec(t, "snap-1", "pvc-1"), nil)
	if err != nil {
		t.Fatal(err)
	}
	vm.Sh(t, `echo new >"$1/d/file"; echo new >"$1/another"`, source.Dir)
	tree, err := b.OpenTree(t.Context(), taken)
	if err != nil {
		t.Fatal(err)
	}
	still := func(context.Context) error { return nil }
	copied, err := b.Fill(t.Context(), volumetest.CopySpec(t, "pvc-2"), volume.Content{Tree: tree, Still: still}, nil)
	if err := errors.Join(err, tree.Close()); err != nil {
		t.Fatal(err)
	}
	if got := vm.Sh(t, `cd "$1"; find . -type f; cat d/file`, copied.Dir); got != "./d/file\nold\n" {
		t.Errorf("the copy holds\n%s", got)
	}
	// That it was looked at does not keep it.
	if err := b.Discard(t.Context(), taken.Name); err != nil {
		t.Error(err)
	}
	if v, err := b.Get(t.Context(), taken.Name); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("it is left as %+v, %v", v, err)
	}
}
