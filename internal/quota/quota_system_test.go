//go:build system

package quota

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/test/vm"
)

func TestMain(m *testing.M) { vm.Main(m) }

// open makes and opens a file system; dir is its top.
func open(t *testing.T, kind vm.FileSystem) (fs *FS, dir *os.File) {
	t.Helper()
	root := t.TempDir()
	if err := vm.MountNew(t.Context(), vm.Here{}, kind, root, 512<<20); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	})
	dir, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	if fs, err = Open(dir); err != nil {
		t.Fatal(err)
	}
	return fs, dir
}

func forEach(t *testing.T, test func(t *testing.T, fs *FS, dir *os.File)) {
	t.Helper()
	for _, kind := range []vm.FileSystem{vm.XFS, vm.Ext4} {
		t.Run(kind.Kind, func(t *testing.T) {
			fs, dir := open(t, kind)
			if fs.Kind() != kind.Kind {
				t.Errorf("kind is %q", fs.Kind())
			}
			test(t, fs, dir)
		})
	}
}

func wantLimit(t *testing.T, fs *FS, project uint32, want Amount) {
	t.Helper()
	_, limit, err := fs.Get(project)
	if err != nil || limit != want {
		t.Errorf("the limit of project %d is %+v, %v; want %+v", project, limit, err, want)
	}
}

// What Round says is what the file system makes of a limit.
func TestLimitsAreRounded(t *testing.T) {
	forEach(t, func(t *testing.T, fs *FS, _ *os.File) {
		for _, bytes := range []uint64{1, 511, 513, 1024, 4095, 4096, 4097, 1<<30 + 1, 1 << 50} {
			if err := fs.SetLimit(7, Amount{Bytes: bytes, Inodes: 3}); err != nil {
				t.Fatal(err)
			}
			wantLimit(t, fs, 7, Amount{Bytes: fs.Round(bytes), Inodes: 3})
		}
		if err := fs.SetLimit(7, Amount{}); err != nil {
			t.Fatal(err)
		}
		wantLimit(t, fs, 7, Amount{})
		wantLimit(t, fs, 8, Amount{})
		if err := fs.SetLimit(0, Amount{Bytes: 1}); err == nil {
			t.Error("what belongs to no project can be limited")
		}
	})
}

func TestProjectIsInherited(t *testing.T) {
	forEach(t, func(t *testing.T, fs *FS, dir *os.File) {
		folder := filepath.Join(dir.Name(), "folder")
		if err := os.Mkdir(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(folder)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := SetProject(f, 7); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(folder, "inner"), 0o755); err != nil {
			t.Fatal(err)
		}
		inner, err := os.Open(filepath.Join(folder, "inner"))
		if err != nil {
			t.Fatal(err)
		}
		defer inner.Close()
		if id, inherited, err := Project(inner); id != 7 || !inherited || err != nil {
			t.Errorf("the inner folder has project %d, inherited %t, %v", id, inherited, err)
		}
		if used, _, err := fs.Get(7); used.Inodes != 2 || err != nil {
			t.Errorf("2 folders count as %+v, %v", used, err)
		}
		if err := SetProject(f, 0); err != nil {
			t.Fatal(err)
		}
		if id, inherited, err := Project(f); id != 0 || inherited || err != nil {
			t.Errorf("the folder has project %d, inherited %t, %v", id, inherited, err)
		}
	})
}

// Kernels before 5.14 have no call that takes the directory.
func TestCallsByTheDeviceAreTheSame(t *testing.T) {
	forEach(t, func(t *testing.T, fs *FS, dir *os.File) {
		old := &FS{kind: fs.kind, unit: fs.unit, call: quotactlByDevice(mountOf(dir).source)}
		if err := old.check(); err != nil {
			t.Fatal(err)
		}
		if err := old.SetLimit(7, Amount{Bytes: 1 << 20, Inodes: 9}); err != nil {
			t.Fatal(err)
		}
		for _, fs := range []*FS{fs, old} {
			wantLimit(t, fs, 7, Amount{Bytes: 1 << 20, Inodes: 9})
			wantLimit(t, fs, 8, Amount{})
		}
		absent := &FS{kind: fs.kind, unit: fs.unit, call: quotactlByDevice("/dev/absent")}
		if err := absent.SetLimit(7, Amount{Bytes: 1}); err == nil {
			t.Error("a device that is not there takes quotas")
		}
		if _, _, err := absent.Get(7); err == nil {
			t.Error("a device that is not there has quotas")
		}
	})
}
