//go:build system

package hostile

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-storage/berth/test/vm"
)

func TestMain(m *testing.M) {
	if plan := os.Getenv(stormVariable); plan != "" {
		os.Exit(storm(context.Background(), plan))
	}
	vm.Main(m)
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// sh runs a shell script.
func sh(t *testing.T, script string, args ...string) {
	t.Helper()
	if _, err := (vm.Here{}).Run(t.Context(), append([]string{"sh", "-ec", script, "sh"}, args...)...); err != nil {
		t.Fatal(err)
	}
}

// share is a file system that the kernel's server exports, and mounts of it.
type share struct{ disk string }

// newShare makes a share. It and its mounts are gone with the test.
func newShare(t *testing.T) share {
	t.Helper()
	must(t, vm.StartNFSD(t.Context(), vm.Here{}))
	disk, err := os.MkdirTemp("/srv", "disk-") //nolint:usetesting // its parents have to be open to all
	must(t, err)
	must(t, vm.MountNew(t.Context(), vm.Here{}, vm.XFS, disk, 1<<30))
	sh(t, `chmod 755 "$1"; exportfs -o rw,no_root_squash,no_subtree_check,fsid="$(basename "$1" | cksum | cut -d' ' -f1)" 127.0.0.1:"$1"`, disk)
	t.Cleanup(func() {
		// The server keeps open, for as long as nobody else wants it, what clients that
		// were killed had open: the file system goes when the guest does.
		script := `exportfs -u 127.0.0.1:"$1"; exportfs -f; umount -l "$1"; rmdir "$1"`
		if _, err := (vm.Here{}).Run(context.Background(), "sh", "-ec", script, "sh", disk); err != nil {
			t.Error(err)
		}
	})
	return share{disk}
}

// mount mounts the share, as a host of its own would: no two mounts have caches together.
func (s share) mount(t *testing.T, version string) string {
	t.Helper()
	at := filepath.Join("/mnt", filepath.Base(t.TempDir()), version)
	sh(t, `mkdir -p "$2"; mount -t nfs -o vers="$3",softerr,nosharecache,lookupcache=positive 127.0.0.1:"$1" "$2"`, s.disk, at, version)
	t.Cleanup(func() {
		if _, err := (vm.Here{}).Run(context.Background(), "umount", at); err != nil {
			t.Error(err)
		}
	})
	return at
}
