package vm

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/berth-storage/berth/test/vm/openzfs"
)

// OpenZFS returns the path of the archive from which guests get OpenZFS. It is made if it
// is not in the cache, which takes several minutes and is told on log.
func OpenZFS(ctx context.Context, log io.Writer) (string, error) {
	version, err := moduleVersion()
	if err != nil {
		return "", err
	}
	return openzfs.Archive(ctx, openzfs.Kernel{Program: kernel, Modules: filepath.Join(modulesDir, version)}, log)
}

// installZFS installs OpenZFS in a guest that has just started from the image.
func (g *Guest) installZFS(ctx context.Context) error {
	archive, err := os.Open(g.openzfs)
	if err != nil {
		return err
	}
	defer archive.Close()
	if err := g.Exec(ctx, Command{Args: []string{"tar", "-C", "/", "--keep-directory-symlink", "-xf", "-"}, Stdin: archive}); err != nil {
		return fmt.Errorf("installing OpenZFS: %w", err)
	}
	// It is to be there after a reboot, too.
	if _, err := g.Run(ctx, "sync"); err != nil {
		return fmt.Errorf("installing OpenZFS: %w", err)
	}
	return g.loadZFS(ctx)
}

func (g *Guest) loadZFS(ctx context.Context) error {
	if _, err := g.Run(ctx, "modprobe", "zfs"); err != nil {
		return fmt.Errorf("loading OpenZFS: %w", err)
	}
	return nil
}

// NewPool makes a ZFS pool of so many bytes in a file, mounted at /NAME. ZFS wants at least
// 64 MiB; only what is written to is used. RemovePool removes it.
func NewPool(ctx context.Context, r Runner, name string, size int64) error {
	const script = `truncate -s "$1" "$2"; zpool create "$3" "$2"`
	if _, err := r.Run(ctx, "sh", "-ec", script, "sh", fmt.Sprint(size), poolFile(name), name); err != nil {
		return fmt.Errorf("making a ZFS pool: %w", err)
	}
	return nil
}

// tank is the guest's pool for NewParent, which goes with the guest.
const tank = "tank"

var (
	makeTank = sync.OnceValue(func() error { return NewPool(context.Background(), Here{}, tank, 4<<30) })
	parents  atomic.Int32
)

// NewParent makes a dataset for a pool of Berth's on this guest.
func NewParent(t *testing.T) string {
	t.Helper()
	if err := makeTank(); err != nil {
		t.Fatal(err)
	}
	parent := fmt.Sprintf("%s/pool%d", tank, parents.Add(1))
	Sh(t, `zfs create "$1"`, parent)
	return parent
}

// RemovePool removes a pool of NewPool with all that is in it.
func RemovePool(ctx context.Context, r Runner, name string) error {
	// The kernel's NFS server lets go of what clients have used when nobody has changed the
	// exports for a few seconds.
	const script = `for i in $(seq 20); do if error=$(zpool destroy -f "$1" 2>&1); then exit 0; fi; sleep 5; done; echo "$error" >&2; exit 1`
	if _, err := r.Run(ctx, "sh", "-c", script, "sh", name); err != nil {
		return fmt.Errorf("removing a ZFS pool: %w", err)
	}
	if _, err := r.Run(ctx, "rm", poolFile(name)); err != nil {
		return fmt.Errorf("removing a ZFS pool: %w", err)
	}
	return nil
}

func poolFile(name string) string { return "/var/tmp/" + name + ".zpool" }

// ImportPools has the guest have the pools of before its reboot, mounted and shared, as
// the units of Debian's zfsutils-linux do it at boot.
func ImportPools(ctx context.Context, r Runner) error {
	for _, args := range [][]string{
		{"zpool", "import", "-c", "/etc/zfs/zpool.cache", "-a", "-N"}, {"zfs", "mount", "-a"}, {"zfs", "share", "-a"},
	} {
		if _, err := r.Run(ctx, args...); err != nil {
			return fmt.Errorf("importing the guest's ZFS pools: %w", err)
		}
	}
	return nil
}
