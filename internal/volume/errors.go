package volume

import (
	"errors"
	"fmt"
)

// Errors of the domain. Backends translate what their storage says to one of
// these and wrap it (%w) with what happened, to which volume and what to do.
var (
	// ErrNotFound: the volume certainly does not exist.
	ErrNotFound = errors.New("volume not found")
	// ErrExists: the name is another volume's.
	ErrExists = errors.New("volume exists")
	// ErrConflict: the volume is not in the state, or not of the revision, that the call needs.
	ErrConflict = errors.New("volume has changed")
	// ErrInvalid: the request can never be fulfilled as it is.
	ErrInvalid = errors.New("invalid volume request")
	// ErrNoSpace: the pool has no room for it now.
	ErrNoSpace = errors.New("not enough space")
	// ErrBusy: something holds the volume; asking again later helps.
	ErrBusy = errors.New("volume is busy")
	// ErrCloned: a discarded volume's bytes are those of its clones too. It is also ErrBusy.
	ErrCloned = fmt.Errorf("%w: it has clones", ErrBusy)
	// ErrUnsupported: this backend cannot do that.
	ErrUnsupported = errors.New("not supported")
	// ErrForeign: the thing exists and is not Berth's, or another instance's.
	ErrForeign = errors.New("not ours")
	// ErrPending: the work goes on in the background; ask again.
	ErrPending = errors.New("still being worked on")
	// ErrQueued is the ErrPending of work that has not begun, because there is much of the same kind.
	ErrQueued = fmt.Errorf("%w: others come first", ErrPending)
	// ErrUnknown: it may have happened or not. Never to be taken for ErrNotFound.
	ErrUnknown = errors.New("outcome unknown")
)
