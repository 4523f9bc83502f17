package nfs4

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
)

// openOwner is the owner of one open file. The server executes an owner's
// OPEN, OPEN_CONFIRM and CLOSE in the order of their sequence numbers, and
// knows a repeated one from a new one by its number (RFC 7530 section 9.1.7).
type openOwner struct {
	name []byte
	seq  uint32 // of the next request
}

// owners are the owners of a Client that no open file uses. Each open file has
// its own, because OPENs of one file by one owner share their state and their
// CLOSE. Owners are used again: the server asks to confirm every owner that is
// new to it.
type owners struct {
	mu   sync.Mutex
	made uint64
	free []*openOwner
}

func (o *owners) take() *openOwner {
	o.mu.Lock()
	defer o.mu.Unlock()
	if last := len(o.free) - 1; last >= 0 {
		owner := o.free[last]
		o.free = o.free[:last]
		return owner
	}
	o.made++
	return &openOwner{name: binary.BigEndian.AppendUint64(nil, o.made), seq: 1}
}

// release gives owner back after its last request, which ended with err. If
// the server may have counted a request that the client did not, a number used
// again would bring back an old answer: then nobody gets the owner.
func (o *owners) release(owner *openOwner, err error) {
	var failed *opError
	if err == nil || errors.As(err, &failed) && !failed.resent && failed.status != ErrBadSeqID {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.free = append(o.free, owner)
	}
}

// phase says how an open file stands with the server.
type phase int

const (
	phaseNew     phase = iota // not opened yet
	phaseOpen                 // the stateid is good
	phaseReclaim              // the server restarted: claim the file by its handle
	phaseReopen               // too late for that: open it by its name
	phaseLost                 // neither worked
)

// openState is what client and server know about one open file. It belongs to
// who has the client's turn.
type openState struct {
	owner  *openOwner
	access uint32
	phase  phase
	err    error // why it is lost

	dirs   []string // path of the directory
	parent handle   // of the directory; nil: not known yet
	name   string
	fh     handle

	stateID stateID
	epoch   uint64 // of the lease that stateID belongs to
	confirm bool   // the server waits for OPEN_CONFIRM
}

// claim opens open and confirms it if the server asks. If a reply is lost it
// can be called again, and goes on where it was.
func (c *Client) claim(ctx context.Context, open *openState, create *createArgs) error {
	if !open.confirm || open.epoch != c.lease.epoch {
		if err := c.sendOpen(ctx, open, create); err != nil {
			return err
		}
	}
	if open.confirm {
		cmp := c.newCompound()
		cmp.putFH(open.fh)
		cmp.openConfirm(open.owner.seq, &open.stateID)
		err := c.exchangeInSequence(ctx, open, opOpenConfirm, cmp)
		if isAny(err, ErrBadStateID, ErrOldStateID) {
			open.confirm = false // begin again with OPEN
			return retryable{err}
		}
		if err != nil {
			return err
		}
		open.confirm = false
	}
	open.phase = phaseOpen
	return nil
}

// sendOpen does the OPEN of claim.
func (c *Client) sendOpen(ctx context.Context, open *openState, create *createArgs) error {
	var (
		res openResult
		fh  handle
		cmp = c.newCompound()
	)
	args := openArgs{
		seq:      open.owner.seq,
		access:   open.access,
		clientID: c.lease.clientID,
		owner:    open.owner.name,
		name:     open.name,
		create:   create,
		reclaim:  open.phase == phaseReclaim,
	}
	switch {
	case args.reclaim:
		cmp.putFH(open.fh)
	case open.parent != nil:
		cmp.putFH(open.parent)
	default:
		cmp.walk(open.dirs)
		cmp.getFH(&open.parent)
	}
	cmp.open(args, &res)
	cmp.getFH(&fh)
	if err := c.exchangeInSequence(ctx, open, opOpen, cmp); err != nil {
		return err
	}
	open.stateID, open.confirm, open.epoch = res.stateID, res.confirm, c.lease.epoch
	if open.phase == phaseNew {
		open.fh = fh
	}
	return nil
}

// exchangeInSequence makes an exchange whose operation op carries the next
// sequence number of open's owner, and counts it if the server did.
func (c *Client) exchangeInSequence(ctx context.Context, open *openState, op opcode, cmp *compound) error {
	err := c.exchange(ctx, cmp)
	status, ran := cmp.outcome(op)
	switch {
	case !ran:
	case status == ErrBadSeqID:
		// The two sides will not agree again about this owner.
		open.owner = c.owners.take()
		return retryable{err}
	default:
		if countsInSequence(status) {
			open.owner.seq++
		}
	}
	return err
}

// countsInSequence tells whether an operation with that outcome used up its
// sequence number (RFC 7530 section 9.1.7).
func countsInSequence(s Status) bool {
	switch s {
	case ErrStaleClientID, ErrStaleStateID, ErrBadStateID, ErrBadSeqID, ErrBadXDR,
		ErrResource, ErrNoFileHandle, ErrMoved:
		return false
	}
	return true
}

// restore makes an open file usable after the server has forgotten it.
func (c *Client) restore(ctx context.Context, open *openState) error {
	if open.phase == phaseReclaim {
		err := c.claim(ctx, open, nil)
		if !isAny(err, ErrNoGrace, ErrReclaimBad, ErrReclaimConflict) {
			return c.restored(open, err)
		}
		c.log.Info("too late to claim a file back", "file", open.name, "error", err)
		open.phase = phaseReopen
	}
	if open.phase == phaseReopen {
		return c.restored(open, c.reopen(ctx, open))
	}
	return open.err
}

// reopen opens the file by its name, if that is still the same file: NFSv4.0
// cannot open by handle outside the grace period.
func (c *Client) reopen(ctx context.Context, open *openState) error {
	var fh handle
	cmp := c.newCompound()
	cmp.putFH(open.parent)
	cmp.lookup(open.name)
	cmp.getFH(&fh)
	if err := c.exchange(ctx, cmp); err != nil {
		return err
	}
	if !bytes.Equal(fh, open.fh) {
		return fmt.Errorf("another file has its name: %w", ErrStale)
	}
	return c.claim(ctx, open, nil)
}

// restored gives up a file if the server's answer was final.
func (c *Client) restored(open *openState, err error) error {
	switch {
	case err == nil:
		c.log.Info("file open again", "file", open.name)
	case final(err):
		open.phase = phaseLost
		open.err = fmt.Errorf("open file lost in a server restart: %w", err)
		c.log.Warn("file lost", "file", open.name, "error", err)
		return open.err
	}
	return err
}

// closeState ends an open, on the server and in c.
func (c *Client) closeState(ctx context.Context, open *openState) error {
	if open.phase != phaseOpen {
		delete(c.opens, open) // the server has nothing to close
		return nil
	}
	cmp := c.newCompound()
	cmp.putFH(open.fh)
	cmp.close(open.owner.seq, open.stateID)
	err := c.exchangeInSequence(ctx, open, opClose, cmp)
	switch {
	case err == nil:
		c.owners.release(open.owner, nil)
	case isAny(err, ErrBadStateID, ErrOldStateID):
		// The server has no such open: that is what CLOSE is for. If it counted
		// an earlier CLOSE whose reply was lost, the owner is out of step.
		err = nil
	}
	if err == nil || final(err) {
		delete(c.opens, open)
	}
	return err
}
