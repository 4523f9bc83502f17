//go:build system

package copytree_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/copytree"
	"github.com/berth-storage/berth/internal/copytree/treetest"
	"github.com/berth-storage/berth/test/vm"
)

var kinds = []struct {
	vm.FileSystem
	shares  bool
	without treetest.Part
}{{xfs, true, 0}, {btrfs, true, 0}, {ext4, false, 0}, {tmpfs, false, treetest.Attributes}} // tmpfs has those since Linux 6.6

func TestAllIsKeptOn(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.Kind, func(t *testing.T) {
			top := mounted(t, kind.FileSystem)
			from := mkdir(t, top, "from")
			treetest.Make(t, from, 600, kind.without)
			sum := treetest.Sum(t, from)
			if can, err := copytree.CanShare(open(t, from)); can != kind.shares || err != nil {
				t.Errorf("sharing blocks is %t, %v", can, err)
			}
			for _, sharing := range []copytree.Sharing{copytree.ShareIfPossible, copytree.ShareAlways, copytree.ShareNever} {
				to := mkdir(t, top, fmt.Sprint("to", sharing))
				done, err := copytree.Copy(t.Context(), open(t, from), open(t, to), copytree.Options{Sharing: sharing})
				if !kind.shares && sharing == copytree.ShareAlways {
					if !errors.Is(err, copytree.ErrCannotShare) {
						t.Errorf("it shared: %+v, %v", done, err)
					}
					continue
				}
				must(t, err)
				if treetest.Sum(t, to) != sum {
					treetest.Compare(t, from, to)
					t.Error("the sum differs")
				}
				if done.Files != 600 || (done.Shared > 300) != (kind.shares && sharing != copytree.ShareNever) || len(done.Lost) > 0 {
					t.Errorf("copied %+v", done)
				}
			}
		})
	}
}

// A tree goes from one file system to the next, and is the same at the end.
func TestAcrossFileSystems(t *testing.T) {
	at := mkdir(t, mounted(t, ext4), "tree")
	treetest.Make(t, at, 500)
	sum := treetest.Sum(t, at)
	for _, kind := range []vm.FileSystem{xfs, btrfs, ext4} {
		to := mkdir(t, mounted(t, kind), "tree")
		if done := copyTree(t, at, to, copytree.Options{}); len(done.Lost) > 0 {
			t.Errorf("on %s, copied %+v", kind.Kind, done)
		}
		if treetest.Sum(t, to) != sum {
			treetest.Compare(t, at, to)
			t.Errorf("on %s it is not the same any more", kind.Kind)
		}
		at = to
	}
}

func TestHolesOn(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.Kind, func(t *testing.T) {
			top := mounted(t, kind.FileSystem)
			for i, script := range layouts {
				checkHoles(t, mkdir(t, top, fmt.Sprint(i)), script)
			}
		})
	}
}

// Where nobody tells holes, zeros become holes in files that take up less than their size.
func TestHolesThatNobodyTells(t *testing.T) {
	top := mounted(t, ext4)
	from, to := t.TempDir(), mkdir(t, top, "to")
	must(t, unix.Mount("ramfs", from, "ramfs", 0, ""))
	defer unix.Unmount(from, unix.MNT_DETACH)
	for i, script := range [][]byte{{0, 0, 5, 0, 255, 2, 3, 255, 6}, {0, 100, 9}, {3, 255, 3}} {
		path, compare := filepath.Join(from, fmt.Sprint(i)), filepath.Join(top, fmt.Sprint(i))
		layOut(t, path, script)
		layOut(t, compare, script)
		text, err := os.ReadFile(compare)
		must(t, err)
		if all := segments(t, path); len(all) != 1 || all[0] != [2]int64{0, int64(len(text))} {
			t.Fatalf("the source tells where its holes are: data are at %v", all)
		}
	}
	copyTree(t, from, to, copytree.Options{})
	for i := range 3 {
		name := fmt.Sprint(i)
		text, err := os.ReadFile(filepath.Join(top, name))
		must(t, err)
		want(t, string(text), to, name)
		if a, b := segments(t, filepath.Join(top, name)), segments(t, filepath.Join(to, name)); fmt.Sprint(a) != fmt.Sprint(b) {
			t.Errorf("the copy has data at %v; want %v", b, a)
		}
	}
}

// A large file takes no room again, and what is written to one of the two does not change the other.
func TestSharedBlocks(t *testing.T) {
	for _, kind := range []vm.FileSystem{xfs, btrfs} {
		t.Run(kind.Kind, func(t *testing.T) {
			top := mounted(t, kind)
			from, to := mkdir(t, top, "from"), mkdir(t, top, "to")
			data := bytesOf(64 << 20)
			must(t, os.WriteFile(filepath.Join(from, "large"), data, 0o600))
			unix.Sync()
			before := free(t, top)
			done := copyTree(t, from, to, copytree.Options{Sharing: copytree.ShareAlways})
			if used := before - free(t, top); used > 4<<20 || done.Shared != 1 || done.Bytes < 64<<20 {
				t.Errorf("it took up %d bytes, and copied %+v", used, done)
			}
			write(t, "changed", from, "large")
			want(t, string(data), to, "large")
		})
	}
}

func free(t *testing.T, dir string) int64 {
	t.Helper()
	var s unix.Statfs_t
	must(t, unix.Statfs(dir, &s))
	return int64(s.Bfree) * s.Bsize
}

// Files and folders without copy on write stay so, and can share blocks.
func TestNoCopyOnWrite(t *testing.T) {
	top := mounted(t, btrfs)
	from, to := mkdir(t, top, "from"), mkdir(t, top, "to")
	write(t, "with", from, "with")
	write(t, "", from, "without")
	folder := mkdir(t, from, "folder")
	write(t, "older", folder, "older")
	run(t, "chattr", "+C", filepath.Join(from, "without"), folder)
	write(t, "text", from, "without")
	write(t, "newer", folder, "newer")
	if done := copyTree(t, from, to, copytree.Options{Sharing: copytree.ShareAlways}); done.Shared != 4 {
		t.Errorf("copied %+v", done)
	}
	treetest.Compare(t, from, to)
	flags := func(dir string) string {
		return run(t, "sh", "-ec", `cd "$1"; lsattr -d . with without folder folder/*`, "sh", dir)
	}
	if a, b := flags(from), flags(to); a != b {
		t.Errorf("the flags are\n%sand of the copy\n%s", a, b)
	}
}

func TestNoSpace(t *testing.T) {
	from := t.TempDir()
	mkdir(t, from, "folder")
	must(t, os.WriteFile(filepath.Join(from, "folder", "large"), bytesOf(32<<20), 0o600))
	small := t.TempDir()
	must(t, unix.Mount("tmpfs", small, "tmpfs", 0, "size=8m,nr_inodes=20"))
	defer unix.Unmount(small, unix.MNT_DETACH)
	quota := mounted(t, btrfs)
	run(t, "btrfs", "quota", "enable", quota)
	run(t, "btrfs", "subvolume", "create", filepath.Join(quota, "to"))
	run(t, "btrfs", "qgroup", "limit", "8m", filepath.Join(quota, "to"))
	for to, full := range map[string]error{small: unix.ENOSPC, filepath.Join(quota, "to"): unix.EDQUOT} {
		_, err := copytree.Copy(t.Context(), open(t, from), open(t, to), copytree.Options{})
		failed, ok := errors.AsType[*copytree.Error](err)
		if !ok || failed.Path != "folder/large" || !errors.Is(err, full) {
			t.Errorf("in %s it ended with %v", to, err)
		}
	}
	// No room for another file.
	many := t.TempDir()
	for i := range 30 {
		write(t, "", many, fmt.Sprint(i))
	}
	must(t, os.RemoveAll(filepath.Join(small, "folder")))
	if _, err := copytree.Copy(t.Context(), open(t, many), open(t, small), copytree.Options{}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("it ended with %v", err)
	}
}

// What is mounted in the source does not belong to it. A copy without it would not be whole.
func TestMountInTheSource(t *testing.T) {
	outside := t.TempDir()
	write(t, "secret", outside, "file")
	for name, mount := range map[string]func(at string){
		"folder": func(at string) { must(t, os.Mkdir(at, 0o755), unix.Mount(outside, at, "", unix.MS_BIND, "")) },
		"file": func(at string) {
			write(t, "", at)
			must(t, unix.Mount(filepath.Join(outside, "file"), at, "", unix.MS_BIND, ""))
		},
	} {
		from, to := t.TempDir(), t.TempDir()
		mount(filepath.Join(from, name))
		_, err := copytree.Copy(t.Context(), open(t, from), open(t, to), copytree.Options{})
		must(t, unix.Unmount(filepath.Join(from, name), 0))
		if failed, ok := errors.AsType[*copytree.Error](err); !ok || failed.Path != name || !errors.Is(err, unix.EXDEV) {
			t.Errorf("with a mounted %s it ended with %v", name, err)
		}
		if exists(to, "file") || exists(to, "folder", "file") {
			t.Errorf("what is mounted at the %s is in the copy", name)
		}
	}
}

// What the target cannot have is told, not more than once for each kind, and all else is there.
func TestWhatIsLost(t *testing.T) {
	from := mounted(t, xfs)
	treetest.Make(t, from, 120)
	bare := t.TempDir()
	must(t, unix.Mount("ramfs", bare, "ramfs", 0, ""))
	defer unix.Unmount(bare, unix.MNT_DETACH)
	done := copyTree(t, from, bare, copytree.Options{})
	lost := map[string]bool{}
	for _, l := range done.Lost {
		lost[l.What] = l.Count > 0 && exists(from, l.Path) && errors.Is(l.Err, unix.EOPNOTSUPP)
	}
	for _, what := range []string{"user.*", "trusted.*", "security.capability", "system.posix_acl_access", "system.posix_acl_default"} {
		if !lost["attributes "+what] || len(lost) != 5 {
			t.Errorf("lost were %v", done.Lost)
		}
	}
	treetest.Compare(t, from, bare, treetest.Holes, treetest.Attributes, treetest.ACLs, treetest.Trusted)
}

// The systemd unit need not leave Berth all capabilities.
func TestWithoutCapabilities(t *testing.T) {
	top := mounted(t, xfs)
	from, to := mkdir(t, top, "from"), mkdir(t, top, "to")
	must(t, unix.Mknod(filepath.Join(from, "device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))), unix.Mkfifo(filepath.Join(from, "fifo"), 0o600))
	must(t, os.Link(filepath.Join(from, "device"), filepath.Join(from, "device2")))
	must(t, unix.Setxattr(write(t, "text", from, "program"), "security.capability", []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0))
	group := write(t, "text", from, "group")
	must(t, os.Chown(group, 0, 1234), unix.Chmod(group, unix.S_ISGID|0o755))
	without(t, func() {
		done, err := copytree.Copy(t.Context(), open(t, from), open(t, to), copytree.Options{})
		if err != nil || fmt.Sprint(done.Lost) != `[attributes security.capability of 1 files, the first is "program": operation not permitted `+
			`devices of 2 files, the first is "device": operation not permitted `+
			`setuid or setgid bits of 1 files, the first is "group": operation not permitted]` {
			t.Errorf("copied %+v, %v", done, err)
		}
	}, unix.CAP_MKNOD, unix.CAP_SETFCAP, unix.CAP_FSETID)
	if exists(to, "device") || !exists(to, "fifo") {
		t.Error("there is a device, or no FIFO")
	}
	want(t, "text", to, "program")
}

// Every file has a label on a host with SELinux. Containers may not give any, and not every file system has them.
func TestLabelsOfTheHostAreNoLoss(t *testing.T) {
	top := mounted(t, tmpfs)
	from, to, bare := mkdir(t, top, "from"), mkdir(t, top, "to"), t.TempDir()
	must(t, unix.Mount("ramfs", bare, "ramfs", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(bare, unix.MNT_DETACH)) })
	const name, label = "security.selinux", "system_u:object_r:container_file_t:s0\x00"
	must(t, unix.Setxattr(write(t, "text", from, "file"), name, []byte(label), 0))
	got := make([]byte, 100)
	for where, wanted := range map[string]string{to: label, bare: ""} {
		if done := copyTree(t, from, where, copytree.Options{}); len(done.Lost) > 0 {
			t.Errorf("lost %v", done.Lost)
		}
		want(t, "text", where, "file")
		if n, err := unix.Getxattr(filepath.Join(where, "file"), name, got); string(got[:max(n, 0)]) != wanted {
			t.Errorf("the label is %q, want %q: %v", got[:max(n, 0)], wanted, err)
		}
	}
}

func TestFileThatCannotBeRead(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	folder := mkdir(t, from, "folder")
	must(t, os.Chown(write(t, "text", folder, "foreign"), 4711, 4711), os.Chmod(filepath.Join(folder, "foreign"), 0o600))
	without(t, func() {
		_, err := copytree.Copy(t.Context(), open(t, from), open(t, to), copytree.Options{})
		if failed, ok := errors.AsType[*copytree.Error](err); !ok || failed.Path != "folder/foreign" || !errors.Is(err, unix.EACCES) {
			t.Errorf("it ended with %v", err)
		}
	}, unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH)
}

// ext4 allows 65,000 names of a file: more become names of a second copy.
func TestMoreNamesThanTheTargetAllows(t *testing.T) {
	const names = 65_100
	from, to := mounted(t, xfs), mkdir(t, mounted(t, ext4), "to")
	first := write(t, "text", from, "file")
	for i := range names - 1 {
		must(t, os.Link(first, filepath.Join(from, fmt.Sprint(i))))
	}
	copyTree(t, from, to, copytree.Options{})
	inodes := map[uint64]int{}
	entries, err := os.ReadDir(to)
	must(t, err)
	for _, e := range entries {
		var s unix.Stat_t
		must(t, unix.Lstat(filepath.Join(to, e.Name()), &s))
		inodes[s.Ino]++
	}
	if len(entries) != names || len(inodes) != 2 {
		t.Errorf("%d names of %v", len(entries), inodes)
	}
}

// BenchmarkShared copies a tree of 5,000 names that shares its blocks, in turns with cp -a.
func BenchmarkShared(b *testing.B) {
	top := mounted(b, xfs)
	from := mkdir(b, top, "from")
	treetest.Make(b, from, 5000)
	ratio(b, top, from, copytree.ShareAlways, "--reflink=always")
}
