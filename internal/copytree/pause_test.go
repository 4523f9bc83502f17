package copytree_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/copytree"
	"github.com/berth-storage/berth/internal/copytree/treetest"
)

// copyAndPause copies from, in which there is a folder called "m". When the copy is in
// there, with the folders of names before it done and none of those after it begun,
// meanwhile is called.
func copyAndPause(ctx context.Context, t *testing.T, from, to string, meanwhile func()) (copytree.Copied, error) {
	t.Helper()
	// The copy waits for a lease of ours as it would for one of an NFS server.
	f, err := os.Create(filepath.Join(from, "m", "leased"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lease(t, f, unix.F_WRLCK)
	type result struct {
		done copytree.Copied
		err  error
	}
	ended := make(chan result, 1)
	source, target := open(t, from), open(t, to)
	go func() {
		done, err := copytree.Copy(ctx, source, target, copytree.Options{})
		ended <- result{done, err}
	}()
	for {
		kind, err := unix.FcntlInt(f.Fd(), unix.F_GETLEASE, 0)
		if err != nil {
			t.Fatal(err)
		}
		if kind != unix.F_WRLCK { // it was asked to give it back
			break
		}
		select {
		case r := <-ended:
			t.Fatalf("the copy did not wait: %+v", r)
		case <-time.After(time.Millisecond):
		}
	}
	meanwhile()
	lease(t, f, unix.F_UNLCK)
	r := <-ended
	return r.done, r.err
}

func lease(t *testing.T, f *os.File, kind int) {
	t.Helper()
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, kind); err != nil {
		t.Fatal("setting a lease:", err)
	}
}

// paused makes a source with the folders a, m and z in it, and an empty target.
func paused(t *testing.T) (from, to string) {
	top := t.TempDir()
	from, to = mkdir(t, top, "from"), mkdir(t, top, "to")
	for _, name := range []string{"a", "m", "z"} {
		mkdir(t, from, name)
	}
	return from, to
}

func write(t testing.TB, text string, path ...string) string {
	t.Helper()
	p := filepath.Join(path...)
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

func want(t testing.TB, text string, path ...string) {
	t.Helper()
	if got, err := os.ReadFile(filepath.Join(path...)); err != nil || string(got) != text {
		t.Errorf("%s has %q, %v; want %q", filepath.Join(path...), got, err, text)
	}
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// change changes what is in a folder, and no time of it: the copy has those from before.
func change(t *testing.T, folder string, what func() error) {
	t.Helper()
	var s unix.Stat_t
	must(t, unix.Stat(folder, &s), what(), unix.UtimesNano(folder, []unix.Timespec{s.Atim, s.Mtim}))
}

func TestWhatVanishesIsLeftOut(t *testing.T) {
	from, to := paused(t)
	mkdir(t, from, "z", "inner")
	write(t, "text", from, "z", "inner", "file")
	write(t, "kept", from, "zz")
	done, err := copyAndPause(t.Context(), t, from, to, func() {
		change(t, from, func() error { return os.RemoveAll(filepath.Join(from, "z")) })
	})
	if err != nil || done.Files != 4 { // a, m, leased, zz
		t.Errorf("copied %+v, %v", done, err)
	}
	treetest.Compare(t, from, to)
}

// What is a folder when the names are read is something else when it is its turn.
func TestFolderIsReplaced(t *testing.T) {
	outside := t.TempDir()
	write(t, "secret", outside, "file")
	for name, replace := range map[string]func(at string) error{
		"by a link":   func(at string) error { return os.Symlink(outside, at) },
		"by a file":   func(at string) error { return os.WriteFile(at, []byte("text"), 0o600) },
		"by a FIFO":   func(at string) error { return unix.Mkfifo(at, 0o600) },
		"by a folder": func(at string) error { return errors.Join(os.Mkdir(at, 0o750), os.WriteFile(at+"/new", nil, 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			from, to := paused(t)
			write(t, "text", from, "z", "file")
			_, err := copyAndPause(t.Context(), t, from, to, func() {
				change(t, from, func() error {
					return errors.Join(os.RemoveAll(filepath.Join(from, "z")), replace(filepath.Join(from, "z")))
				})
			})
			must(t, err)
			treetest.Compare(t, from, to)
		})
	}
}

func TestHardLinksWhoseEndsChange(t *testing.T) {
	from, to := paused(t)
	// Of each pair one end is copied when the other one changes.
	for _, name := range []string{"first goes", "second goes", "second is replaced", "all is new", "changed"} {
		must(t, os.Link(write(t, "old "+name, from, "a", name), filepath.Join(from, "z", name)))
	}
	_, err := copyAndPause(t.Context(), t, from, to, func() {
		must(t, os.Remove(filepath.Join(from, "a", "first goes")), os.Remove(filepath.Join(from, "z", "second goes")))
		z := filepath.Join(from, "z", "second is replaced")
		must(t, os.Remove(z))
		must(t, os.Link(write(t, "new", z), filepath.Join(from, "z", "twice")))
		// Its inode is free, and many file systems give it to the next file at once.
		z = filepath.Join(from, "z", "all is new")
		must(t, os.Remove(z), os.Remove(filepath.Join(from, "a", "all is new")))
		must(t, os.Link(write(t, "new too", z), filepath.Join(from, "z", "also new")))
	})
	must(t, err)
	want(t, "old first goes", to, "a", "first goes")
	want(t, "old first goes", to, "z", "first goes")
	want(t, "old second goes", to, "a", "second goes")
	want(t, "old second is replaced", to, "a", "second is replaced")
	want(t, "new", to, "z", "second is replaced")
	want(t, "new", to, "z", "twice")
	want(t, "old all is new", to, "a", "all is new")
	want(t, "new too", to, "z", "all is new")
	want(t, "new too", to, "z", "also new")
	for a, b := range map[string]string{"a/changed": "z/changed", "z/second is replaced": "z/twice", "z/all is new": "z/also new"} {
		one, err := os.Stat(filepath.Join(to, a))
		must(t, err)
		two, err := os.Stat(filepath.Join(to, b))
		must(t, err)
		if !os.SameFile(one, two) {
			t.Errorf("%s and %s are not the same file", a, b)
		}
	}
	if _, err := os.Lstat(filepath.Join(to, "z", "second goes")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was removed is in the copy: %v", err)
	}
}

// A file that is written to between its names is one file still.
func TestHardLinkToFileThatIsWritten(t *testing.T) {
	from, to := paused(t)
	must(t, os.Link(write(t, "old", from, "a", "name"), filepath.Join(from, "z", "name")))
	_, err := copyAndPause(t.Context(), t, from, to, func() { write(t, "changed", from, "z", "name") })
	must(t, err)
	want(t, "old", to, "a", "name")
	want(t, "old", to, "z", "name")
}

func TestCancelWhileItWaits(t *testing.T) {
	from, to := paused(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := copyAndPause(ctx, t, from, to, cancel)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
}

// canceled is a context that ends when it was asked so many times whether it has.
type canceled struct {
	context.Context
	left int
}

func (c *canceled) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

func TestCancelBetweenBlocks(t *testing.T) {
	top := t.TempDir()
	from := mkdir(t, top, "from")
	const size = 5 << 20
	must(t, os.WriteFile(filepath.Join(from, "file"), bytesOf(size), 0o600))
	var progress counter
	for left, bytes := range []int64{0, 0, 1 << 20, 2 << 20, 3 << 20, 4 << 20} {
		before := progress.bytes.Load()
		to := t.TempDir()
		ctx := &canceled{t.Context(), left}
		done, err := copytree.Copy(ctx, open(t, from), open(t, to), copytree.Options{Sharing: copytree.ShareNever, Progress: &progress})
		if !errors.Is(err, context.Canceled) || done.Bytes != bytes || progress.bytes.Load() != before+bytes {
			t.Errorf("asked %d times, it copied %+v, %v; want %d bytes", left, done, err, bytes)
		}
	}
}

func bytesOf(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i%251 + 1)
	}
	return b
}
