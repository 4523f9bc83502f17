package copytree

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

var (
	// errGone says that a name of the source is not there any more.
	errGone     = errors.New("it is gone")
	errRestless = errors.New("it is replaced each time")
	errInIt     = errors.New("the folder to copy to lies in the one to copy from")
)

// failed says what failed, if anything has. A context that has ended says that by itself.
func (c *copier) failed(op string, f *folder, name string, err error) error {
	if ctxErr := c.ctx.Err(); err == nil || ctxErr != nil && errors.Is(err, ctxErr) {
		return err
	}
	return &Error{Op: op, Path: f.pathOf(name), Err: err}
}

// entry copies what is called name in f. A folder is only made. What is gone is left out.
func (c *copier) entry(f *folder, name string) (isFolder bool, err error) {
	for try := 1; ; try++ {
		if err := c.ctx.Err(); err != nil {
			return false, err
		}
		isFolder, err := c.tryEntry(f, name)
		switch {
		case err == nil:
			c.count(1, 0)
			return isFolder, nil
		case errors.Is(err, errGone):
			return false, nil
		case !errors.Is(err, unix.ESTALE) || try == maxTries:
			return false, err
		}
		// On a share it went while it was copied. What has its name now comes instead.
		err = unix.Unlinkat(int(f.open[target].Fd()), name, 0)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return false, c.failed("removing the copy of", f, name, err)
		}
	}
}

func (c *copier) tryEntry(f *folder, name string) (isFolder bool, err error) {
	e, err := openPath(f.open[source], name)
	if errors.Is(err, unix.ENOENT) {
		return false, errGone
	}
	if err != nil {
		return false, c.failed("opening", f, name, err)
	}
	defer e.close()
	s, err := stat(e.fd)
	if err != nil {
		return false, c.failed("looking at", f, name, err)
	}
	if s.Mode&unix.S_IFMT == unix.S_IFDIR {
		if identityOf(&s) == c.target {
			return false, c.failed("copying", f, name, errInIt)
		}
		if err := unix.Mkdirat(int(f.open[target].Fd()), name, 0o700); err != nil {
			return false, c.failed("making the folder", f, name, err)
		}
		return true, nil
	}
	if s.Nlink > 1 {
		return false, c.several(f, name, e, &s)
	}
	return false, c.file(f, name, e, &s)
}

// linked is a file with several names, of which one is in the target.
type linked struct {
	folder       *folder // of that name, which is not open if the copy is done with it
	name         string
	mode         uint16
	seen         uint32 // of its names
	size         uint64
	btime, mtime unix.StatxTimestamp
}

// same says that s is of the same file, and not of one that got the inode of that later.
// Where nobody knows when a file was born it must not have changed either.
func (l *linked) same(s *unix.Statx_t) bool {
	if l.mode&unix.S_IFMT != s.Mode&unix.S_IFMT || l.btime != s.Btime {
		return false
	}
	return s.Mask&unix.STATX_BTIME != 0 || l.mtime == s.Mtime && l.size == s.Size
}

// several copies a file that has other names, or gives its copy one more name.
func (c *copier) several(f *folder, name string, e inode, s *unix.Statx_t) error {
	c.linkMu.Lock()
	defer c.linkMu.Unlock()
	id := identityOf(s)
	l := c.linked[id]
	if l == nil || !l.same(s) {
		return c.first(f, name, e, s)
	}
	dir, err := l.folder.find(target)
	if err == nil {
		defer dir.Close()
		err = unix.Linkat(int(dir.Fd()), l.name, int(f.open[target].Fd()), name, 0)
	}
	// The target's file system allows fewer names, or the first one was a device and is lost.
	if errors.Is(err, unix.EMLINK) || errors.Is(err, unix.ENOENT) {
		return c.first(f, name, e, s)
	}
	if err != nil {
		return c.failed("linking the copy of", f, name, err)
	}
	if l.seen++; l.seen >= s.Nlink {
		delete(c.linked, id)
	}
	return nil
}

// first copies a file that has other names, which are to be links to this one.
func (c *copier) first(f *folder, name string, e inode, s *unix.Statx_t) error {
	if len(c.linked) >= c.most.links {
		return c.failed("remembering the other names of", f, name, fmt.Errorf("%w: %d files with several names", ErrTooMuch, len(c.linked)))
	}
	err := c.file(f, name, e, s)
	if err == nil {
		c.linked[identityOf(s)] = &linked{folder: f, name: name, seen: 1, mode: s.Mode, size: s.Size, btime: s.Btime, mtime: s.Mtime}
	}
	return err
}

// file copies anything but a folder.
func (c *copier) file(f *folder, name string, e inode, s *unix.Statx_t) error {
	switch s.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return c.regular(f, name, e, s)
	case unix.S_IFLNK:
		return c.symlink(f, name, e, s)
	}
	return c.special(f, name, e, s)
}

func (c *copier) regular(f *folder, name string, e inode, s *unix.Statx_t) (err error) {
	from, err := e.openFile(c.ctx)
	if err != nil {
		return c.failed("opening", f, name, err)
	}
	defer from.close()
	to, err := openIn(f.open[target], name, unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL, Mode: 0o600})
	if err != nil {
		return c.failed("making the copy of", f, name, err)
	}
	defer func() {
		// On a share this is when the server says that there is no space.
		if closed := unix.Close(to); err == nil && closed != nil {
			err = c.failed("writing the copy of", f, name, closed)
		}
	}()
	if c.onBtrfs {
		keepNoCow(from.fd, to)
	}
	if op, err := c.data(from.fd, to, s); err != nil {
		return c.failed(op, f, name, err)
	}
	return c.finish(f, name, s, &from, inode{fd: to})
}

func (c *copier) symlink(f *folder, name string, e inode, s *unix.Statx_t) error {
	text := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(e.fd, "", text)
	if err != nil {
		return c.failed("reading the link", f, name, err)
	}
	if err := unix.Symlinkat(string(text[:n]), int(f.open[target].Fd()), name); err != nil {
		return c.failed("making the link", f, name, err)
	}
	return c.finishPath(f, name, e, s)
}

// special copies a FIFO, a socket or a device.
func (c *copier) special(f *folder, name string, e inode, s *unix.Statx_t) error {
	device := int(unix.Mkdev(s.Rdev_major, s.Rdev_minor))
	err := unix.Mknodat(int(f.open[target].Fd()), name, uint32(s.Mode&unix.S_IFMT|0o600), device)
	switch kind := s.Mode & unix.S_IFMT; {
	case err == nil:
		return c.finishPath(f, name, e, s)
	case (kind == unix.S_IFCHR || kind == unix.S_IFBLK) && errors.Is(err, unix.EPERM):
		c.lose("devices", f, name, err)
		return nil
	default:
		return c.failed("making the copy of", f, name, err)
	}
}

// finishPath is finish for what is never opened to read or write it.
func (c *copier) finishPath(f *folder, name string, e inode, s *unix.Statx_t) error {
	to, err := openPath(f.open[target], name)
	if err != nil {
		return c.failed("opening the copy of", f, name, err)
	}
	defer to.close()
	return c.finish(f, name, s, &e, to)
}
