package copytree_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/copytree"
)

// Somebody swaps folders for links to the outside, and files for links, FIFOs and other
// folders, as fast as he can, while the tree is copied again and again. No copy fails or
// waits, and none has anything of the outside, which stays as it is.
func TestHostileChanger(t *testing.T) {
	const copies = 60
	top := t.TempDir()
	outside, from, spare := mkdir(t, top, "outside"), mkdir(t, top, "from"), mkdir(t, top, "spare")
	mkdir(t, outside, "inner")
	secret := []byte("a secret of somebody else")
	for _, name := range []string{"file", "0", "1", "inner/file"} {
		write(t, string(secret), outside, name)
	}
	for _, folder := range []string{"folder", "folder/inner", "folder/inner/inner"} {
		mkdir(t, from, folder)
		for i := range 20 {
			write(t, "own", from, folder, fmt.Sprint(i))
		}
		must(t, os.Link(filepath.Join(from, folder, "0"), filepath.Join(from, folder, "hard")))
	}
	write(t, "own", from, "file")
	// What takes the places of the tree's own.
	must(t,
		os.Symlink(outside, filepath.Join(spare, "link")), os.Symlink(filepath.Join(outside, "inner"), filepath.Join(spare, "link2")),
		os.Symlink(filepath.Join(outside, "file"), filepath.Join(spare, "filelink")), unix.Mkfifo(filepath.Join(spare, "fifo"), 0o600))
	// He has the folders open: what he swaps are his own files, wherever he has moved them.
	folder, inner := open(t, filepath.Join(from, "folder")), open(t, filepath.Join(from, "folder/inner"))
	swaps := []struct {
		in       *os.File
		name, by string
	}{
		{open(t, from), "folder", "link"}, {folder, "inner", "link2"}, {inner, "inner", "link2"},
		{open(t, from), "file", "filelink"}, {folder, "0", "fifo"}, {inner, "1", "filelink"}, {folder, "2", "link"},
	}
	aside := open(t, spare)
	stop := make(chan struct{})
	var changers sync.WaitGroup
	for _, swap := range swaps {
		changers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				// It fails while the other one of two that use the same link has it in the place of a folder's parent.
				_ = unix.Renameat2(int(swap.in.Fd()), swap.name, int(aside.Fd()), swap.by, unix.RENAME_EXCHANGE)
			}
		})
	}
	for i := range copies {
		to := mkdir(t, top, fmt.Sprint("copy", i))
		if _, err := copytree.Copy(t.Context(), open(t, from), open(t, to), copytree.Options{}); err != nil {
			t.Errorf("copy %d: %v", i, err)
		}
		must(t, filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			text, err := os.ReadFile(path)
			if bytes.Contains(text, secret) {
				t.Errorf("copy %d has a secret in %s", i, path)
			}
			return err
		}))
	}
	close(stop)
	changers.Wait()
	for _, name := range []string{"file", "0", "1", "inner/file"} {
		want(t, string(secret), outside, name)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 4 {
		t.Errorf("outside there are %v, %v", entries, err)
	}
}

// What is opened is what was looked at: nothing waits for the other end of a FIFO.
func TestFIFOIsNotOpened(t *testing.T) {
	top := t.TempDir()
	from, to := mkdir(t, top, "from"), mkdir(t, top, "to")
	fifo := filepath.Join(from, "fifo")
	must(t, unix.Mkfifo(fifo, 0o600))
	done := copyTree(t, from, to, copytree.Options{})
	if done.Files != 1 {
		t.Errorf("copied %+v", done)
	}
	// Nobody has had it open: it would have let a writer in.
	if fd, err := unix.Open(fifo, unix.O_WRONLY|unix.O_NONBLOCK, 0); !errors.Is(err, unix.ENXIO) {
		t.Errorf("opening the FIFO gave %d, %v", fd, err)
	}
}
