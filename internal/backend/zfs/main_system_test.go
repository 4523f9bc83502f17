//go:build system

package zfs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/backend/zfs"
	"github.com/berth-storage/berth/internal/run"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/sshd"
	"github.com/berth-storage/berth/test/zfsfuse"
)

func TestMain(m *testing.M) {
	status, err := withPool(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "zfs:", err)
		status = 1
	}
	os.Exit(status)
}

const poolName = "berthtest"

func withPool(m *testing.M) (status int, err error) {
	if err := harness.OwnMounts(); err != nil {
		return 1, err
	}
	if err := sshd.OwnAccounts(); err != nil {
		return 1, err
	}
	folder, err := os.MkdirTemp("", "berth-zfs")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(folder)
	d, err := zfsfuse.Start(folder)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	if _, err := d.Create(poolName, 4<<30); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

var parents atomic.Int64

// parent makes an empty dataset for t, mounted, and destroys it with all in it when t ends.
func parent(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("%s/%d", poolName, parents.Add(1))
	zfsRun(t, "create", name)
	t.Cleanup(func() { zfsDestroy(t, "-R", "-f", name) })
	return name
}

// zfsDestroy destroys what may be busy for a moment, as it is after most changes.
func zfsDestroy(t testing.TB, args ...string) {
	t.Helper()
	for until := time.Now().Add(zfsfuse.Patience); ; time.Sleep(50 * time.Millisecond) {
		_, err := zfsfuse.Run("zfs", append([]string{"destroy"}, args...)...)
		if err == nil {
			return
		}
		if time.Now().After(until) {
			t.Errorf("what the test made stays: %v", err)
			return
		}
	}
}

// zfsRun runs zfs, and gives what it printed.
func zfsRun(t testing.TB, args ...string) string {
	t.Helper()
	out, err := zfsfuse.Run("zfs", args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// fuse has a Runner get on with zfs-fuse. As the ZFS of 2009 that it is, it renames no dataset that has
// a mounted clone: a check of references (dsl_dir_rename_check) that OpenZFS has no more.
type fuse struct{ zfs.Runner }

func (f fuse) Output(ctx context.Context, argv []string) ([]byte, error) {
	if len(argv) != 4 || argv[1] != "rename" {
		return f.Runner.Output(ctx, argv)
	}
	all, err := zfsfuse.Run("zfs", "get", "-Hp", "-r", "-o", "name,value", "origin", poolName)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(all) {
		clone, origin, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if !strings.HasPrefix(origin, argv[2]+"@") {
			continue
		}
		if _, err := zfsfuse.Run("zfs", "unmount", clone); err == nil {
			defer zfsfuse.Run("zfs", "mount", clone)
		}
	}
	// What was just unmounted is in use for a moment more, and if it is renamed too soon
	// it may stay so for half a minute.
	time.Sleep(100 * time.Millisecond)
	return f.Runner.Output(ctx, argv)
}

var here = fuse{run.Here{Limit: time.Minute}}

func open(t *testing.T, o zfs.Options) *zfs.Backend {
	t.Helper()
	if o.Runner == nil {
		o.Runner = here
	}
	b, err := zfs.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func TestContract(t *testing.T) {
	for _, c := range []struct {
		name string
		o    zfs.Options
	}{
		{"local", zfs.Options{Local: true}},
		{"by commands", zfs.Options{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Sizing = volume.SizingQuota
			pools := map[volume.Backend]zfs.Options{}
			volumetest.Suite{
				Open: func(t *testing.T) volume.Backend {
					o := c.o
					o.Dataset = parent(t)
					b := open(t, o)
					pools[b] = o
					return b
				},
				Reopen: func(t *testing.T, b volume.Backend) volume.Backend {
					b.(*zfs.Backend).Close()
					return open(t, pools[b])
				},
			}.Run(t)
		})
	}
}
