//go:build system

package quota

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/quota"
)

// asUser does what without the capability by which ext4 knows who may write beyond
// limits.
func asUser(t *testing.T, what func() error) error {
	t.Helper()
	return without(t, []int{unix.CAP_SYS_RESOURCE}, what)
}

// without does what in a thread that lacks capabilities.
func without(t *testing.T, capabilities []int, what func() error) error {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this
		done <- func() error {
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var data [2]unix.CapUserData
			if err := unix.Capget(&header, &data[0]); err != nil {
				return err
			}
			for _, c := range capabilities {
				data[c/32].Effective &^= 1 << (c % 32)
			}
			if err := unix.Capset(&header, &data[0]); err != nil {
				return err
			}
			return what()
		}()
	}()
	return <-done
}

// tag gives a directory a project, as an administrator would.
func tag(t *testing.T, dir string, project uint32) {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := quota.SetProject(d, project); err != nil {
		t.Fatal(err)
	}
}

func projectOf(t *testing.T, dir string) uint32 {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	id, _, err := quota.Project(d)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
