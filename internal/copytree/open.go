package copytree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// resolve is how every name is resolved, in the source and in the target.
const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// again does what until no signal interrupts it.
func again(what func() error) error {
	for {
		if err := what(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// movedTries is how often a name is looked up until EXDEV says that there is a mount. The kernel
// also says it, and EAGAIN, of what is moved elsewhere while it is looked up.
const movedTries = 20

// openIn opens what has a path below dir.
func openIn(dir *os.File, path string, how unix.OpenHow) (fd int, err error) {
	how.Flags |= unix.O_NOFOLLOW | unix.O_CLOEXEC
	how.Resolve = resolve
	for try := 1; ; {
		fd, err = unix.Openat2(int(dir.Fd()), path, &how)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		case !errors.Is(err, unix.EXDEV):
			return fd, err
		case try == movedTries:
			return fd, fmt.Errorf("another file system is mounted there: %w", err)
		default:
			try++
		}
	}
}

// openFolder opens a directory to read it, without a change of its access time if this
// process may do so.
func openFolder(in *os.File, name string) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOATIME}
	fd, err := openIn(in, name, how)
	if errors.Is(err, unix.EPERM) {
		how.Flags &^= unix.O_NOATIME
		fd, err = openIn(in, name, how)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path.Join(in.Name(), name)), nil
}

// openPath opens anything without doing anything to it: that neither waits for the other
// end of a FIFO nor wakes a device.
func openPath(in *os.File, name string) (inode, error) {
	fd, err := openIn(in, name, unix.OpenHow{Flags: unix.O_PATH})
	return inode{fd: fd, path: true}, err
}

// inode is an open file of any kind. One that is open as a path only is reached by
// its link in /proc, which leads to the very file that is open, whatever kind it is
// (proc_pid_fd(5)), and without a look at any name.
type inode struct {
	fd   int
	path bool
}

func (i inode) close() error { return unix.Close(i.fd) }

func (i inode) proc() string { return "/proc/self/fd/" + strconv.Itoa(i.fd) }

// leaseWait is the time between two tries to open a file with a lease on it.
const leaseWait = 20 * time.Millisecond

// openFile opens a regular file that is open as a path to read it. If somebody has a lease
// on it (an NFS server may have, for a client that has a delegation), the kernel takes
// that back, which takes at most /proc/sys/fs/lease-break-time seconds.
func (i inode) openFile(ctx context.Context) (inode, error) {
	flags := unix.O_RDONLY | unix.O_NOATIME | unix.O_NONBLOCK | unix.O_CLOEXEC
	for {
		fd, err := unix.Open(i.proc(), flags, 0)
		switch {
		case errors.Is(err, unix.EPERM) && flags&unix.O_NOATIME != 0:
			flags &^= unix.O_NOATIME
		case errors.Is(err, unix.EAGAIN):
			select {
			case <-ctx.Done():
				return inode{}, ctx.Err()
			case <-time.After(leaseWait):
			}
		case errors.Is(err, unix.EINTR):
		default:
			return inode{fd: fd}, err
		}
	}
}

// stat asks for the time of birth too, and a server rather than what a client of NFS remembers:
// a file may be longer by now.
func stat(fd int) (s unix.Statx_t, err error) {
	err = again(func() error {
		return unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_NO_AUTOMOUNT|unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &s)
	})
	return s, err
}

// identity tells an inode from all others that exist at the same time.
type identity struct {
	major, minor uint32 // subvolumes of btrfs have their own
	ino          uint64
}

func identityOf(s *unix.Statx_t) identity { return identity{s.Dev_major, s.Dev_minor, s.Ino} }
