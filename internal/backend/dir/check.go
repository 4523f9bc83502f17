package dir

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLost says that a root is not the open one any more, or not this process's alone: it
// has to be opened anew.
var ErrLost = errors.New("the root was lost")

// Check asks the file system whether the root is there and still this process's. It is
// for roots on a network, and hangs if that does. ErrLost if the root or its lock are gone.
func (b *Backend) Check() error {
	var s unix.Statx_t
	err := unix.Statx(int(b.rootDir.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC, unix.STATX_NLINK, &s) // from no cache
	switch {
	case errors.Is(err, unix.ESTALE):
		return fmt.Errorf("%w: %s is stale", ErrLost, b.path)
	case err != nil:
		return fmt.Errorf("asking for %s: %w", b.path, err)
	case s.Nlink == 0:
		// Our own lock keeps what was removed there for us.
		return fmt.Errorf("%w: %s was removed", ErrLost, b.path)
	}
	// A server that was away for long may have given the lock to somebody else. To take
	// one that is held changes nothing; see flock(2).
	switch err := flock(b.lock); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return fmt.Errorf("%w: %s is now in use by %s", ErrLost, b.path, readHolder(b.private))
	case errors.Is(err, unix.EIO), errors.Is(err, unix.ESTALE), errors.Is(err, unix.EBADF):
		return fmt.Errorf("%w: the lock of %s: %w", ErrLost, b.path, err)
	case err != nil:
		return fmt.Errorf("asking for the lock of %s: %w", b.path, err)
	}
	return b.checkHolder()
}

// checkHolder notices that the lock, which is held, was somebody else's meanwhile: who has
// made and deleted volumes that this process knows nothing of, and has ended since. Everybody who
// takes the lock writes into it. One that was removed keeps nobody away.
func (b *Backend) checkHolder() error {
	text, err := b.private.ReadFile(lockFile)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESTALE):
		return fmt.Errorf("%w: the lock of %s was removed", ErrLost, b.path)
	case err != nil:
		return fmt.Errorf("reading the lock of %s: %w", b.path, err)
	case b.holder != nil && !bytes.Equal(text, b.holder):
		return fmt.Errorf("%w: %s was meanwhile in use by %s", ErrLost, b.path, parseHolder(text))
	}
	return nil
}

// Abandon lets go of the lock of a root that hangs; nothing else of b may be used then.
// It is for the end of a process: a lock that is still held is given back by the kernel
// then, and the client of NFSv4 waits for the server with that, whatever signals come.
// Here a thread waits, which ends with the process.
func (b *Backend) Abandon() {
	fd := fmt.Sprintf("/proc/self/fd/%d", b.lock.Fd())
	held, err := os.Readlink(fd)
	if err != nil {
		return // it is closed
	}
	go func() { _ = b.lock.Close() }() // nobody is left to tell
	// The number is free as soon as the thread has begun to wait.
	for now := held; err == nil && now == held; now, err = os.Readlink(fd) {
		time.Sleep(time.Millisecond)
	}
}
