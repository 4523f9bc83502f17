package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/btrfs"
)

// maxDepth is how many directories removeTree holds open. A tenant may nest them
// as deep as the disk allows, so what lies deeper is moved up first.
const maxDepth = 64

// removeTree removes name below parent, and all that is in it, without following
// a symbolic link. It stops when ctx ends; the next call goes on. If emptied is not nil
// it is called with the directory when that is all that is left.
func removeTree(ctx context.Context, parent *os.File, name string, emptied func(top *os.File) error) error {
	r := remover{ctx: ctx, emptied: emptied}
	err := r.remove(parent, name, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

type remover struct {
	ctx     context.Context
	emptied func(top *os.File) error
	top     *os.File // the tree's own directory, once it is open
	moved   int      // directories that were moved up into top
}

// remove removes one entry of parent, at depth directories below the tree's parent.
func (r *remover) remove(parent *os.File, name string, depth int) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	// Linux answers EISDIR for a directory; see unlink(2).
	err := unix.Unlinkat(int(parent.Fd()), name, 0)
	if !errors.Is(err, unix.EISDIR) {
		return pathError("unlink", name, err)
	}
	if depth > maxDepth {
		return r.moveUp(parent, name)
	}
	fd, err := unix.Openat(int(parent.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return pathError("open", name, err)
	}
	d := os.NewFile(uintptr(fd), name)
	defer d.Close()
	if depth == 0 {
		r.top = d
	}
	if removeSubvolume(parent, name, d) {
		return nil
	}
	for {
		if err := r.empty(d, depth); err != nil {
			return err
		}
		if depth == 0 && r.emptied != nil {
			if err := r.emptied(d); err != nil {
				return err
			}
		}
		err := unix.Unlinkat(int(parent.Fd()), name, unix.AT_REMOVEDIR)
		// Not empty: something was moved up into it, or read past while entries went.
		if !errors.Is(err, unix.ENOTEMPTY) {
			return pathError("rmdir", name, err)
		}
	}
}

// removeSubvolume removes d, which is called name in parent, in one go if it is a
// subvolume of btrfs. One that others lie in has to be emptied first, which is also the
// way without the capability for this.
func removeSubvolume(parent *os.File, name string, d *os.File) bool {
	_, top, err := btrfs.SubvolumeID(d)
	return err == nil && top && btrfs.DeleteSubvolume(parent, name) == nil
}

// empty removes the entries of d.
func (r *remover) empty(d *os.File, depth int) error {
	if _, err := d.Seek(0, io.SeekStart); err != nil {
		return err
	}
	for {
		names, err := d.Readdirnames(1024)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := r.remove(d, name, depth+1); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
	}
}

// moveUp moves a directory into the tree's top, where it is met again.
func (r *remover) moveUp(parent *os.File, name string) error {
	for {
		r.moved++
		err := unix.Renameat2(int(parent.Fd()), name, int(r.top.Fd()), fmt.Sprintf("deep-%d", r.moved), unix.RENAME_NOREPLACE)
		if !errors.Is(err, unix.EEXIST) { // a name that the tenant has used, or an earlier call
			return pathError("rename", name, err)
		}
	}
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: name, Err: err}
}
