package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/btrfs"
	"github.com/berth-storage/berth/internal/volume"
)

const (
	// maxDepth is how many directories a worker of removeTree holds open. A tenant may
	// nest them as deep as the disk allows, so what lies deeper is moved up first.
	maxDepth = 32
	// removeWorkers work on a tree at the same time, each on a directory of its own: in
	// one directory the kernel removes one entry after the other. On a share they begin
	// while processors are idle, because they wait for the server: if that waits for the same
	// processors, more workers are only more to switch between.
	removeWorkers = 8
	// restEvery is after how many removals on a share a worker lets Go's scheduler see it: one
	// that it has not seen for 10 ms it interrupts, and then in each of its system calls.
	restEvery = 8
)

// removeTree removes name below parent, and all that is in it, without following
// a symbolic link. It stops when ctx ends; the next call goes on. If emptied is not nil
// it is called with the directory when that is all that is left.
func removeTree(ctx context.Context, parent *os.File, name string, emptied func(top *os.File) error) error {
	onNFS, err := isNFS(parent)
	if err != nil {
		return err
	}
	r := remover{
		ctx: ctx, onNFS: onNFS, busy: make(chan struct{}, removeWorkers-1), processors: processors{read: readUptime}, emptied: emptied,
	}
	if onNFS {
		r.processors.areIdle() // from now on
	}
	err = r.remove(parent, name, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

type remover struct {
	ctx     context.Context
	onNFS   bool
	busy    chan struct{} // a token for each worker at work beside the caller
	emptied func(top *os.File) error
	top     *os.File              // the tree's own directory, once it is open
	tried   atomic.Int64          // calls of unlink
	moved   atomic.Int64          // directories that were moved up into top
	failed  atomic.Pointer[error] // of the first worker that failed; the others stop

	processors processors
}

// stopped says why nothing more is to be removed.
func (r *remover) stopped() error {
	if err := r.failed.Load(); err != nil {
		return *err
	}
	return r.ctx.Err()
}

// remove removes one entry of parent, at depth directories below the tree's parent.
func (r *remover) remove(parent *os.File, name string, depth int) error {
	isDir, err := r.unlink(parent, name)
	if isDir {
		err = r.removeDir(parent, name, depth)
	}
	return err
}

// unlink removes name if that is not a directory.
func (r *remover) unlink(parent *os.File, name string) (isDir bool, err error) {
	if r.onNFS && r.tried.Add(1)%restEvery == 0 {
		runtime.Gosched()
	}
	for try := 1; ; try++ {
		if err := r.stopped(); err != nil {
			return false, err
		}
		// Linux answers EISDIR for a directory; see unlink(2). A server that does not know
		// files from directories here (NFSv4) says that it is not empty, see lookAgain.
		switch err := unix.Unlinkat(int(parent.Fd()), name, 0); {
		case errors.Is(err, unix.EISDIR):
			return true, nil
		case errors.Is(err, unix.ENOTEMPTY) && try == 1:
			lookAgain(parent)
		default:
			return false, pathError("unlink", name, err)
		}
	}
}

// lookAgain has a client of NFS ask again for what it knows to be in d. A tenant who swaps a
// directory for a link at the right moment makes it take the one for the other,
// for as long as it keeps that; it asks again when it sees that d has changed.
func lookAgain(d *os.File) {
	now := unix.NsecToTimeval(time.Now().UnixNano())
	_ = unix.Futimes(int(d.Fd()), []unix.Timeval{now, now})
}

// removeDir removes a directory and all that is in it.
func (r *remover) removeDir(parent *os.File, name string, depth int) error {
	err := r.removeOpened(parent, name, depth)
	if !errors.Is(err, volume.ErrForeign) && !errors.Is(err, unix.ENOTDIR) {
		return err
	}
	lookAgain(parent)
	isDir, err := r.unlink(parent, name)
	if !isDir {
		return err
	}
	return r.removeOpened(parent, name, depth)
}

func (r *remover) removeOpened(parent *os.File, name string, depth int) error {
	if depth > maxDepth {
		return r.moveUp(parent, name)
	}
	d, err := openBelow(parent, name, resolve) // what is mounted there is not the volume's
	if err != nil {
		return err
	}
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
	if err != nil || !top {
		return false
	}
	if btrfs.DeleteSubvolume(parent, name) == nil {
		return true
	}
	_ = btrfs.MakeWritable(d) // or emptying it will say why not
	return false
}

// empty removes the entries of d. Directories among them are given to idle workers.
func (r *remover) empty(d *os.File, depth int) error {
	if err := r.lookAhead(d); err != nil {
		return err
	}
	if _, err := d.Seek(0, io.SeekStart); err != nil {
		return err
	}
	var others sync.WaitGroup
	defer others.Wait() // d is theirs until then
	for {
		names, err := d.Readdirnames(1024)
		if errors.Is(err, io.EOF) {
			others.Wait()
			return r.stopped()
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			isDir, err := r.unlink(d, name)
			if isDir && r.another() {
				others.Go(func() {
					defer func() { <-r.busy }()
					if err := r.removeDir(d, name, depth+1); err != nil && !errors.Is(err, unix.ENOENT) {
						r.failed.CompareAndSwap(nil, &err)
					}
				})
				continue
			}
			if isDir {
				err = r.removeDir(d, name, depth+1)
			}
			if err != nil && !errors.Is(err, unix.ENOENT) {
				r.failed.CompareAndSwap(nil, &err)
				return err
			}
		}
	}
}

// another says whether one more worker may begin. It gives back its token at its end.
func (r *remover) another() bool {
	if r.onNFS && !r.processors.areIdle() {
		return false
	}
	select {
	case r.busy <- struct{}{}:
		return true
	default:
		return false
	}
}

// lookAhead has a client of NFS know what is in d, if that is much: reading a folder tells it
// about the entries too, which it would ask for one by one else. But reading may be a change
// to the server (XFS counts it as one when it notes the time), which makes the client
// forget it all at the first removal. Read a second time a folder is not changed.
func (r *remover) lookAhead(d *os.File) error {
	const much = 64
	if !r.onNFS {
		return nil
	}
	if names, err := d.Readdirnames(much); len(names) < much {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return err
	}
	return askAgain(d)
}

// moveUp moves a directory into the tree's top, where it is met again. An empty directory
// may be replaced: all of them go.
func (r *remover) moveUp(parent *os.File, name string) error {
	for {
		to := fmt.Sprintf("deep-%d", r.moved.Add(1))
		err := unix.Renameat(int(parent.Fd()), name, int(r.top.Fd()), to)
		switch {
		case errors.Is(err, unix.EEXIST), errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.ENOTDIR):
			continue // a name that the tenant has used, or an earlier call
		}
		return pathError("rename", name, err)
	}
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: name, Err: err}
}
