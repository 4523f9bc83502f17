package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Of the folder where nfs-utils keeps its state (exportfs(8), FILES).
const (
	tableName     = "etab"
	tableLockName = ".etab.lock"
	// exportfs takes this lock before it reads any file and holds it to its end; it
	// is in this folder also if the state is kept elsewhere.
	exportfsLock = "/var/lib/nfs/export-lock"

	lockPatience = 30 * time.Second // exportfs may look up the names of hosts
	lockPoll     = 5 * time.Millisecond
)

// table is the server's table of exports. Its methods are for who holds its lock.
type table struct {
	folder   string
	exportfs string // the lock of exportfs
}

func (t table) path() string { return filepath.Join(t.folder, tableName) }

// lock keeps exportfs and mountd from the table and from the files that it is made
// of. Locks are tried, not waited for in the kernel, so that ctx can end the wait.
func (t table) lock(ctx context.Context) (release func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lockPatience, fmt.Errorf("another exportfs has held its lock for %s", lockPatience))
	defer cancel()
	first, err := lockFile(ctx, t.exportfs)
	if err != nil {
		return nil, err
	}
	second, err := lockFile(ctx, filepath.Join(t.folder, tableLockName))
	if err != nil {
		return nil, errors.Join(err, first.Close())
	}
	// To close a file that was only locked cannot fail, and releases the lock.
	return func() { _ = errors.Join(second.Close(), first.Close()) }, nil
}

// lockFile takes a lock that excludes those of fcntl(2) and lockf(3), and other
// goroutines too: one of an open file description.
func lockFile(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	whole := unix.Flock_t{Type: unix.F_WRLCK}
	for {
		err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &whole)
		switch {
		case err == nil:
			return f, nil
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EINTR):
			return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("locking %s: %w", path, context.Cause(ctx)), f.Close())
		case <-time.After(lockPoll):
		}
	}
}

// replace writes the table anew: d without some parts and with lines added. mountd
// reads it anew when its inode is another. It need not reach the disk: it is made
// from the files of exports at the next boot.
func (t table) replace(d document, without []span, added []line) error {
	temporary := t.path() + ".berth" // one that a crash leaves behind is overwritten
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	err = errors.Join(d.writeWithout(f, without, added), f.Close())
	if err == nil {
		err = os.Rename(temporary, t.path())
	}
	return err
}

// version tells whether a file was written since.
type version struct {
	inode   uint64
	size    int64
	changed time.Time
}

// versionOf is the zero version for a file that is not there.
func versionOf(path string) (version, error) {
	var s unix.Stat_t
	err := unix.Stat(path, &s)
	if errors.Is(err, unix.ENOENT) {
		return version{}, nil
	}
	if err != nil {
		return version{}, fmt.Errorf("stat %s: %w", path, err)
	}
	return version{s.Ino, s.Size, time.Unix(s.Mtim.Unix())}, nil
}
