//go:build system

package dir_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

// fileSystem is one that these tests make and mount.
type fileSystem struct {
	name  string
	mkfs  []string // its program; none for one without a device
	bytes int64    // of the device
	quota bool     // with quotas, of btrfs
}

var (
	tmpfs = fileSystem{name: "tmpfs"}
	ext4  = fileSystem{name: "ext4", mkfs: []string{"mkfs.ext4", "-q", "-m", "0"}, bytes: 16 << 20}
	btrfs = fileSystem{name: "btrfs", mkfs: []string{"mkfs.btrfs", "-q"}, bytes: 128 << 20} // 109 MiB is the least
	// The file systems of the host's kernel that limit volumes; test/quota has the others.
	btrfsQuota = fileSystem{name: "btrfs", mkfs: []string{"mkfs.btrfs", "-q"}, bytes: 256 << 20, quota: true}
)

func (f fileSystem) String() string {
	if f.quota {
		return f.name + "-quota"
	}
	return f.name
}

func command(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// mount makes a file system and gives where it is mounted until the test ends.
func (f fileSystem) mount(t *testing.T) string {
	t.Helper()
	if f.mkfs == nil {
		return mount(t, "-t", f.name, f.name)
	}
	image := filepath.Join(t.TempDir(), f.name)
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, f.bytes); err != nil {
		t.Fatal(err)
	}
	command(t, append(f.mkfs, image)...)
	mounted := mount(t, "-o", "loop", "-t", f.name, image)
	if f.quota {
		command(t, "btrfs", "quota", "enable", mounted)
	}
	return mounted
}

// mount mounts what args say. A loop device of it goes with the mount.
func mount(t *testing.T, args ...string) string {
	t.Helper()
	target := t.TempDir()
	command(t, append(append([]string{"mount"}, args...), target)...)
	t.Cleanup(func() {
		if err := unix.Unmount(target, 0); err != nil {
			t.Errorf("unmounting %s: %v; it is detached instead", target, err)
			if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
				t.Errorf("detaching %s: %v", target, err)
			}
		}
	})
	return target
}

func TestContractOnRealFileSystems(t *testing.T) {
	for _, f := range []fileSystem{tmpfs, ext4, btrfs, btrfsQuota} {
		t.Run(f.String(), func(t *testing.T) {
			mounted, roots := f.mount(t), 0
			runContract(t, func(t *testing.T) string {
				roots++
				root := filepath.Join(mounted, fmt.Sprint("root-", roots))
				if err := os.Mkdir(root, 0o755); err != nil {
					t.Fatal(err)
				}
				return root
			})
		})
	}
}

func TestOwnerAndModeAreReallySet(t *testing.T) {
	old := syscall.Umask(0o077)
	t.Cleanup(func() { syscall.Umask(old) })
	for _, f := range []fileSystem{tmpfs, ext4, btrfs, btrfsQuota} {
		t.Run(f.String(), func(t *testing.T) {
			p := open(t, f.mount(t))
			for i, want := range []volume.Owner{
				{UID: 1234, GID: 4321, Mode: 0o2770}, {UID: 0, GID: 0, Mode: 0o777}, {UID: 1<<32 - 2, GID: 1<<32 - 2, Mode: 0o7777}, {UID: 1, GID: 1, Mode: 0},
			} {
				s := volumetest.Spec(t, fmt.Sprint("pvc-", i))
				s.Owner = want
				v, err := p.Create(t.Context(), s)
				if err != nil {
					t.Fatal(err)
				}
				var got unix.Stat_t
				if err := unix.Lstat(v.Dir, &got); err != nil {
					t.Fatal(err)
				}
				if got.Uid != want.UID || got.Gid != want.GID || got.Mode != unix.S_IFDIR|want.Mode {
					t.Errorf("owner %d:%d, mode %o; want %d:%d, %o", got.Uid, got.Gid, got.Mode, want.UID, want.GID, unix.S_IFDIR|want.Mode)
				}
			}
		})
	}
}

func TestFileHandles(t *testing.T) {
	for _, f := range []fileSystem{tmpfs, ext4, btrfs, btrfsQuota} {
		t.Run(f.String(), func(t *testing.T) {
			if err := dir.CheckFileHandles(f.mount(t)); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("overlay", func(t *testing.T) {
		below := tmpfs.mount(t)
		for _, folder := range []string{"lower", "upper", "work"} {
			if err := os.Mkdir(filepath.Join(below, folder), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		root := mount(t, "-t", "overlay", "-o", fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", below), "overlay")
		if err := dir.CheckFileHandles(root); err == nil || !strings.Contains(err.Error(), root) || !strings.Contains(err.Error(), "mount a volume there") {
			t.Errorf("got error %v, want one that says what to do", err)
		}
	})
}

// files gives the paths of all that is in root but what Open makes.
func files(t *testing.T, root string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		path = strings.TrimPrefix(strings.TrimPrefix(path, root), "/")
		switch first, _, _ := strings.Cut(path, "/"); {
		case slices.Contains([]string{"", "lost+found", ".berth", ".berth/archive", ".berth/identity", ".berth/lock", ".berth/parents", ".berth/snapshots", ".berth/trash", ".berth/volumes"}, path):
		case first != "filler":
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// wantCreateOrNothing says whether there is room for a volume. If there is none,
// nothing of it may stay behind: it could not be told from one that is wanted.
func wantCreateOrNothing(t *testing.T, p *pool) bool {
	t.Helper()
	s := volumetest.Spec(t, "pvc-1")
	_, err := p.Create(t.Context(), s)
	if err == nil {
		return true
	}
	if !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("got error %v, want %v", err, volume.ErrNoSpace)
	}
	if left := files(t, p.root); len(left) > 0 {
		t.Errorf("Create left behind %v after: %v", left, err)
	}
	if _, err := p.Get(t.Context(), s.Name); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("Get: got error %v, want %v", err, volume.ErrNotFound)
	}
	return false
}

// TestCreateWithoutSpaceLeavesNothing fills a file system and frees it block by
// block, so that Create fails at each of its steps.
func TestCreateWithoutSpaceLeavesNothing(t *testing.T) {
	small := fileSystem{name: "ext4", mkfs: []string{"mkfs.ext4", "-q", "-m", "0", "-b", "1024"}, bytes: 4 << 20}
	p := open(t, small.mount(t))
	filler, err := os.Create(filepath.Join(p.root, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	size := fill(t, filler)
	if wantCreateOrNothing(t, p) {
		t.Error("Create succeeded on a full file system")
	}
	for tries := 0; !wantCreateOrNothing(t, p) && tries < 100; tries++ {
		size -= 1024
		if err := errors.Join(filler.Truncate(size), filler.Sync()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(p.root, "pvc-1")); err != nil {
		t.Error(err)
	}
}

// fill writes to f until nothing more fits, and gives its size then.
func fill(t *testing.T, f *os.File) int64 {
	t.Helper()
	for wrote := true; wrote; {
		wrote = false
		for _, bytes := range []int{1 << 20, 1 << 10} {
			for block := make([]byte, bytes); ; wrote = true {
				if _, err := f.Write(block); errors.Is(err, unix.ENOSPC) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
			}
		}
		// What was held ready for the file system's own use becomes free with that.
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// The same with files in the place of bytes.
func TestCreateWithoutInodesLeavesNothing(t *testing.T) {
	small := fileSystem{name: "ext4", mkfs: []string{"mkfs.ext4", "-q", "-m", "0", "-N", "32"}, bytes: 4 << 20}
	p := open(t, small.mount(t))
	folder := filepath.Join(p.root, "filler")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	made := 0
	for ; ; made++ {
		err := os.WriteFile(filepath.Join(folder, fmt.Sprint(made)), nil, 0o600)
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for ; !wantCreateOrNothing(t, p); made-- {
		if err := os.Remove(filepath.Join(folder, fmt.Sprint(made-1))); err != nil {
			t.Fatal(err)
		}
	}
}

// Who fills the pool must be able to make room in it.
func TestVolumesOnAFullFileSystemCanBeDeleted(t *testing.T) {
	for name, newRoot := range map[string]func(*testing.T) string{
		"tmpfs": func(t *testing.T) string { return mount(t, "-t", "tmpfs", "-o", "size=4m", "tmpfs") },
		"ext4":  ext4.mount,
		"btrfs": btrfs.mount,
	} {
		t.Run(name, func(t *testing.T) {
			p := open(t, newRoot(t))
			other := create(t, p, "pvc-other")
			v := create(t, p, "pvc-1")
			filler, err := os.Create(filepath.Join(v.Dir, "filler"))
			if err != nil {
				t.Fatal(err)
			}
			fill(t, filler)
			if err := filler.Close(); err != nil {
				t.Fatal(err)
			}
			if err := p.Discard(t.Context(), v.Name); err != nil {
				t.Fatal(err)
			}
			if got, err := p.Get(t.Context(), v.Name); err != nil || got.State != volume.StateDiscarded {
				t.Errorf("the record says %q, %v; want %q", got.State, err, volume.StateDiscarded)
			}
			if err := p.Purge(t.Context(), v.Name); err != nil {
				t.Error(err)
			}
			if got, want := files(t, p.root), []string{".berth/volumes/pvc-other.json", "pvc-other"}; !slices.Equal(got, want) {
				t.Errorf("there is %v, want %v", got, want)
			}
			if _, err := os.Stat(other.Dir); err != nil {
				t.Error(err)
			}
		})
	}
}

// What is mounted in a volume is not the tenant's, and not the volume's.
func TestPurgeDoesNotCrossMounts(t *testing.T) {
	p := open(t, t.TempDir())
	v := create(t, p, "pvc-1")
	other := tmpfs.mount(t)
	precious := filepath.Join(other, "precious")
	at := filepath.Join(v.Dir, "folder")
	if err := errors.Join(os.WriteFile(precious, nil, 0o600), os.Mkdir(at, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(other, at, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := p.Discard(t.Context(), v.Name); err != nil {
		t.Fatal(err)
	}
	if err := p.Purge(t.Context(), v.Name); !errors.Is(err, volume.ErrForeign) {
		t.Errorf("got error %v, want %v", err, volume.ErrForeign)
	}
	if err := unix.Unmount(filepath.Join(p.root, dir.Private, "trash", "pvc-1", "folder"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
	if err := p.Purge(t.Context(), v.Name); err != nil {
		t.Error(err)
	}
}
