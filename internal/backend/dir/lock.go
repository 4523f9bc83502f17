package dir

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lockFile = "lock"
	lockPoll = 500 * time.Millisecond
)

// Holder is the process that has a pool open.
type Holder struct {
	PID     int       `json:"pid"`
	Host    string    `json:"host"`
	Command string    `json:"command"`
	Since   time.Time `json:"since"`
}

func (h Holder) String() string {
	if h.PID == 0 {
		return "another process"
	}
	return fmt.Sprintf("process %d on host %s (%s), since %s", h.PID, h.Host, h.Command, h.Since.Format(time.RFC3339))
}

// LockedError is Open's answer when another process has the pool open.
type LockedError struct {
	Root   string
	Holder Holder
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("pool root %s is in use by %s: stop it, or start this one with --standby to take over when it ends", e.Root, e.Holder)
}

// acquire takes the root's lock, a flock(2) that ends with the process that
// holds it, however that ends.
func acquire(ctx context.Context, private *os.Root, path string, wait func(Holder)) (*os.File, error) {
	f, err := private.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("pool root %s: lock: %w", path, err)
	}
	err = flock(f)
	if errors.Is(err, unix.EWOULDBLOCK) && wait != nil {
		wait(readHolder(private))
		for errors.Is(err, unix.EWOULDBLOCK) {
			select {
			case <-ctx.Done():
				return nil, errors.Join(context.Cause(ctx), f.Close())
			case <-time.After(lockPoll):
				err = flock(f)
			}
		}
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errors.Join(&LockedError{Root: path, Holder: readHolder(private)}, f.Close())
	}
	if errors.Is(err, unix.ENOLCK) {
		err = fmt.Errorf("%w: the NFS server locks no files (with vers=3: no lockd, or not reachable): mount the share with vers=4.1, "+
			"or with nolock if no other host runs Berth on it", err)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pool root %s: lock: %w", path, err), f.Close())
	}
	// Who holds the lock is for people to read; a full disk must not stop anything.
	_ = writeHolder(f)
	return f, nil
}

func flock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

// writeHolder writes into the locked file itself: a rename would leave the lock
// on a file that nobody else opens.
func writeHolder(f *os.File) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	text, err := json.Marshal(Holder{PID: os.Getpid(), Host: host, Command: strings.Join(os.Args, " "), Since: time.Now().UTC()})
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(text, 0)
	// Now, and not when it is closed: on NFS that would wait for a server that hangs.
	return errors.Join(err, f.Sync())
}

// readHolder reads who holds the lock; it is told to people only, so a file that
// is being written gives the zero Holder.
func readHolder(private *os.Root) Holder {
	text, err := private.ReadFile(lockFile)
	if err != nil {
		return Holder{}
	}
	return parseHolder(text)
}

func parseHolder(text []byte) (h Holder) {
	if json.Unmarshal(text, &h) != nil {
		return Holder{}
	}
	return h
}
