package copytree_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/copytree"
	"github.com/berth-storage/berth/internal/copytree/treetest"
)

// at makes and opens a folder in an open one.
func at(t *testing.T, in int, name string) int {
	t.Helper()
	must(t, unix.Mkdirat(in, name, 0o750))
	fd, err := unix.Openat(in, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	return fd
}

// Folders are nested deeper than a path is long, and than files may be open. Beside
// each lies another one, and a file whose second name is at the very bottom.
func TestDeepTree(t *testing.T) {
	const depth = 400
	top := t.TempDir()
	from, to := mkdir(t, top, "from"), mkdir(t, top, "to")
	in := int(open(t, from).Fd())
	var all []int
	for i := range depth {
		next := at(t, in, fmt.Sprintf("%03d%s", i, strings.Repeat("d", i%200)))
		unix.Close(at(t, in, "beside"))
		must(t, unix.Mknodat(in, "file", unix.S_IFREG|0o640, 0))
		all = append(all, next)
		in = next
	}
	for i, folder := range all[:depth-1] {
		must(t, unix.Linkat(folder, "file", in, fmt.Sprint(i), 0))
	}
	for _, folder := range all {
		unix.Close(folder)
	}

	source, target := open(t, from), open(t, to)
	opened, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	var before unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &before))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(len(opened) + 100), Max: before.Max}))
	_, err = copytree.Copy(t.Context(), source, target, copytree.Options{})
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &before))
	must(t, err)
	treetest.Compare(t, from, to)
	now, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	if len(now) > len(opened) {
		t.Errorf("%d files are open, %d were before", len(now), len(opened))
	}
}

func TestTargetHasToBeEmpty(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	write(t, "text", from, "file")
	write(t, "text", to, "other")
	if _, err := copytree.Copy(t.Context(), open(t, from), open(t, to), copytree.Options{}); !errors.Is(err, copytree.ErrNotEmpty) {
		t.Errorf("it ended with %v", err)
	}
	if _, err := copytree.Copy(t.Context(), open(t, from), open(t, from), copytree.Options{}); !errors.Is(err, copytree.ErrNotEmpty) {
		t.Errorf("onto itself it ended with %v", err)
	}
}

func TestTargetInTheSource(t *testing.T) {
	from := t.TempDir()
	to := mkdir(t, mkdir(t, from, "folder"), "to")
	_, err := copytree.Copy(t.Context(), open(t, from), open(t, to), copytree.Options{})
	if failed, ok := errors.AsType[*copytree.Error](err); !ok || failed.Path != "folder/to" {
		t.Errorf("it ended with %v", err)
	}
}

// The folder to copy to may have ACLs that what is made in it inherits. The copy has none.
func TestNothingIsInherited(t *testing.T) {
	top := t.TempDir()
	with, from := mkdir(t, top, "with"), mkdir(t, top, "from")
	treetest.Make(t, with, 120)
	to := ""
	must(t, filepath.Walk(with, func(path string, _ os.FileInfo, err error) error {
		if strings.HasPrefix(filepath.Base(path), "aclfolder") {
			to = mkdir(t, path, "to")
		}
		return err
	}))
	if to == "" {
		t.Fatal("there is no folder with a default ACL")
	}
	mkdir(t, from, "folder")
	write(t, "text", from, "folder", "file")
	write(t, "text", from, "file")
	copyTree(t, from, to, copytree.Options{})
	treetest.Compare(t, from, to)
}

// Copying changes no time in the source, and a link of the copy has the times that
// were the original's before it was read.
func TestTimes(t *testing.T) {
	top := t.TempDir()
	from, to := mkdir(t, top, "from"), mkdir(t, top, "to")
	write(t, "text", from, "file")
	must(t, os.Symlink("file", filepath.Join(from, "link")))
	times := []unix.Timespec{{Sec: 1_000_000_000, Nsec: 123_456_789}, {Sec: 1_100_000_000, Nsec: 987_654_321}}
	for _, name := range []string{"file", "link", "."} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(from, name), times, unix.AT_SYMLINK_NOFOLLOW))
	}
	copyTree(t, from, to, copytree.Options{})
	for _, path := range []string{from + "/file", from, to + "/file", to + "/link", to} {
		var s unix.Stat_t
		must(t, unix.Lstat(path, &s))
		if s.Atim != times[0] || s.Mtim != times[1] {
			t.Errorf("%s has %v and %v", path, s.Atim, s.Mtim)
		}
	}
}

func TestProgressCountsData(t *testing.T) {
	top := t.TempDir()
	from := mkdir(t, top, "from")
	const data = 3 << 20
	f, err := os.Create(filepath.Join(from, "sparse"))
	must(t, err)
	_, err = f.WriteAt(bytesOf(data), 8<<20)
	must(t, err, f.Truncate(1<<42), f.Close())
	write(t, "12345", from, "small")
	for _, sharing := range []copytree.Sharing{copytree.ShareIfPossible, copytree.ShareNever} {
		var progress counter
		done := copyTree(t, from, t.TempDir(), copytree.Options{Sharing: sharing, Progress: &progress})
		if done.Files != 2 || done.Bytes < data+5 || done.Bytes > data+5000 {
			t.Errorf("copied %+v", done)
		}
		if progress.files.Load() != done.Files || progress.bytes.Load() != done.Bytes {
			t.Errorf("the progress is %d files, %d bytes; copied were %+v", progress.files.Load(), progress.bytes.Load(), done)
		}
	}
}

// counter counts what is copied.
type counter struct{ files, bytes atomic.Int64 }

func (c *counter) Add(files, bytes int64) {
	c.files.Add(files)
	c.bytes.Add(bytes)
}

func TestErrorNamesThePath(t *testing.T) {
	name := "line\n" + strings.Repeat("long", 200)
	err := error(&copytree.Error{Op: "writing the copy of", Path: name, Err: unix.ENOSPC})
	if text := err.Error(); !strings.HasPrefix(text, `writing the copy of "line\nlong`) || len(text) > 400 || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("the message is %s", text)
	}
}
