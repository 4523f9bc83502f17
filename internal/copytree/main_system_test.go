//go:build system

package copytree_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/test/vm"
)

func TestMain(m *testing.M) { vm.Main(m) }

// The file systems need no quotas here. tmpfs is made by mount(2) alone.
var (
	xfs   = vm.FileSystem{Kind: "xfs"}
	btrfs = vm.FileSystem{Kind: "btrfs"}
	ext4  = vm.FileSystem{Kind: "ext4"}
	tmpfs = vm.FileSystem{Kind: "tmpfs"}
)

// mounted makes and mounts a file system.
func mounted(t testing.TB, kind vm.FileSystem) string {
	t.Helper()
	dir := t.TempDir()
	if kind.Kind == tmpfs.Kind {
		must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=300m"))
	} else {
		must(t, vm.MountNew(t.Context(), vm.Here{}, kind, dir, 8<<30))
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) }) // a test's folders may be open still
	return dir
}

// without does what in a thread that lacks capabilities. A copy of a few files
// starts no other thread.
func without(t *testing.T, what func(), capabilities ...int) {
	t.Helper()
	done := make(chan error)
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with this
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&header, &data[0]); err != nil {
			done <- err
			return
		}
		for _, c := range capabilities {
			data[c/32].Effective &^= 1 << (c % 32)
		}
		if err := unix.Capset(&header, &data[0]); err != nil {
			done <- err
			return
		}
		what()
	}()
	must(t, <-done)
}

func run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := vm.Here{}.Run(t.Context(), args...)
	must(t, err)
	return out
}

// exists says whether anything has a name.
func exists(path ...string) bool {
	_, err := os.Lstat(filepath.Join(path...))
	return err == nil
}
