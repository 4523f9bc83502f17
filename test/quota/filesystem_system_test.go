//go:build system

package quota

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
	"github.com/berth-storage/berth/test/vm"
)

// The file systems that limit volumes.
var (
	projectFileSystems = []vm.FileSystem{vm.XFS, vm.Ext4}
	allFileSystems     = append(projectFileSystems, vm.Btrfs)
)

const diskSize = 600 << 20

func run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := vm.Here{}.Run(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// mount makes a file system and gives where it is mounted until the test ends.
func mount(t *testing.T, fs vm.FileSystem) string {
	t.Helper()
	root := folder(t)
	if err := vm.MountNew(t.Context(), vm.Here{}, fs, root, diskSize); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(t, root) })
	if fs.Kind == vm.Btrfs.Kind {
		run(t, "btrfs", "quota", "enable", root)
	}
	return root
}

// folder makes one that every user may enter.
func folder(t *testing.T) string {
	t.Helper()
	f := t.TempDir()
	if err := os.Chmod(filepath.Dir(f), 0o755); err != nil {
		t.Fatal(err)
	}
	return f
}

// unmount takes a file system out of sight. The kernel's NFS server may use it half a
// minute longer, and the guest ends anyway.
func unmount(t *testing.T, root string) {
	t.Helper()
	undo(t, "umount", "--recursive", "--lazy", root)
}

// undo runs what ends a test, whose own context is at an end by then.
func undo(t *testing.T, args ...string) {
	t.Helper()
	if _, err := (vm.Here{}).Run(context.Background(), args...); err != nil {
		t.Error(err)
	}
}

// pool is an open pool that requires quotas.
type pool struct {
	*dir.Backend
	root string
	o    dir.Options
}

func open(t *testing.T, root string, o dir.Options) *pool {
	t.Helper()
	b, err := dir.Open(t.Context(), root, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return &pool{b, root, o}
}

func (p *pool) reopen(t *testing.T) *pool {
	t.Helper()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, p.root, p.o)
}

var required = dir.Options{Quota: dir.QuotaRequired}

func spec(t *testing.T, name string, bytes int64) volume.Spec {
	t.Helper()
	s := volumetest.Spec(t, name)
	s.Size = bytes
	return s
}

func create(t *testing.T, p *pool, s volume.Spec) volume.Volume {
	t.Helper()
	v, err := p.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func remove(t *testing.T, p *pool, n volume.Name) {
	t.Helper()
	if err := errors.Join(p.Discard(t.Context(), n), p.Purge(t.Context(), n)); err != nil {
		t.Fatal(err)
	}
}

// write writes so many MiB to a new file and syncs it: only then is it known that
// there was room.
func write(path string, mib int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	block := bytes.Repeat([]byte("berth!!\n"), 1<<17)
	for range mib {
		if _, err = f.Write(block); err != nil {
			break
		}
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// fill makes empty files until there may be no more, and gives how many it made.
func fill(folder string, most int) (int, error) {
	for i := range most {
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprint("file-", i)), nil, 0o600); err != nil {
			return i, err
		}
	}
	return most, nil
}
