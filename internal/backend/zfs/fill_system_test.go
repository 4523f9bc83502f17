//go:build system

package zfs_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-storage/berth/internal/backend/zfs"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

func TestACopyThatDoesNotFitLeavesNothing(t *testing.T) {
	b := open(t, zfs.Options{Dataset: parent(t), Local: true, Sizing: volume.SizingQuota})
	from := t.TempDir()
	noise := make([]byte, 4<<20)
	for i := range noise {
		noise[i] = byte(i*i>>8 ^ i)
	}
	if err := os.WriteFile(filepath.Join(from, "large"), noise, 0o600); err != nil {
		t.Fatal(err)
	}
	tree, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	s := volumetest.CopySpec(t, "pvc-2")
	s.Size = 1 << 20
	c := volume.Content{Tree: tree, Still: func(context.Context) error { return nil }}
	if v, err := b.Fill(t.Context(), s, c, nil); !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("got %+v, error %v, want %v", v, err, volume.ErrNoSpace)
	}
	if v, err := b.Get(t.Context(), s.Name); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("left: %+v, %v", v, err)
	}
	s.Size = 64 << 20
	if _, err := b.Fill(t.Context(), s, c, nil); err != nil {
		t.Error(err)
	}
}

// Whoever has the volume can make a folder where ZFS shows its snapshots, if it shows none.
func TestATenantsFolderIsNotTakenForASnapshot(t *testing.T) {
	b := open(t, zfs.Options{Dataset: parent(t), Local: true})
	v, err := b.Create(t.Context(), volumetest.Spec(t, "pvc-1"))
	if err != nil {
		t.Fatal(err)
	}
	taken, err := b.Snapshot(t.Context(), volumetest.SnapshotSpec(t, "snap-1", "pvc-1"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if d, err := b.OpenTree(t.Context(), taken); !errors.Is(err, volume.ErrUnsupported) { // zfs-fuse shows none
			t.Errorf("opened %v, error %v", d, err)
		}
		if err := os.MkdirAll(filepath.Join(v.Dir, ".zfs", "snapshot", "snap-1"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNothingIsCopiedFromAnotherHost(t *testing.T) {
	b := open(t, zfs.Options{Dataset: parent(t)})
	v, err := b.Create(t.Context(), volumetest.Spec(t, "pvc-1"))
	if err != nil {
		t.Fatal(err)
	}
	if d, err := b.OpenTree(t.Context(), v); !errors.Is(err, volume.ErrUnsupported) {
		t.Errorf("opened %v, error %v", d, err)
	}
}
