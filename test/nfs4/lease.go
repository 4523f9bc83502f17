package nfs4

import (
	"context"
	"errors"
	"strconv"
	"time"
)

// leaseLost reports whether err means that the server has no state of this
// client any more, because it restarted or because the lease ran out (RFC 7530
// sections 9.6.2 and 9.6.3).
func leaseLost(err error) bool {
	return isAny(err, ErrStaleClientID, ErrStaleStateID, ErrExpired)
}

// lease is what the server knows this client by.
type lease struct {
	name     string
	boot     verifier
	clientID uint64
	valid    bool

	// epoch counts the client ids of this mount. What belongs to an earlier
	// epoch has to be restored before it can be used.
	epoch uint64

	period            time.Duration
	maxRead, maxWrite int
}

// ensureLease connects, and if the server has forgotten this client it makes
// itself known and claims the open files back.
func (c *Client) ensureLease(ctx context.Context) error {
	if c.transport == nil {
		conn, err := c.dial(ctx)
		if err != nil {
			return &transportError{err: err}
		}
		c.transport = newTransport(conn)
		// A lost connection is often a restarted server. To ask now, before any
		// request that the restart concerns, saves grace time.
		if err := c.renew(ctx); err != nil && c.lease.valid {
			return err
		}
	}
	if !c.lease.valid {
		if err := c.register(ctx); err != nil {
			return err
		}
	}
	return c.reclaimOpens(ctx)
}

// register gets a client id and confirms it (RFC 7530 section 9.1.1).
func (c *Client) register(ctx context.Context) error {
	var (
		server   serverAttr
		clientID uint64
		confirm  verifier
	)
	cmp := c.newCompound()
	cmp.walk(nil)
	cmp.getAttr(serverAttrs, &Attr{}, &server)
	cmp.setClientID(c.lease.boot, c.lease.name, &clientID, &confirm)
	if err := c.exchange(ctx, cmp); err != nil {
		return err
	}
	cmp = c.newCompound()
	cmp.setClientIDConfirm(clientID, confirm)
	if err := c.exchange(ctx, cmp); err != nil {
		return err
	}

	l := &c.lease
	l.clientID, l.valid = clientID, true
	l.epoch++
	l.period = time.Duration(server.leaseSeconds) * time.Second
	l.maxRead = transferSize(server.maxRead)
	l.maxWrite = transferSize(server.maxWrite)
	for open := range c.opens {
		if open.phase == phaseOpen {
			open.phase = phaseReclaim
		}
	}
	c.log.Info("known to the server", "client", strconv.FormatUint(clientID, 16),
		"lease", l.period, "open files", len(c.opens))
	return nil
}

// transferSize is how much to read or write at once, given the server's limit.
func transferSize(limit uint64) int {
	if limit == 0 || limit > maxTransfer {
		return maxTransfer
	}
	return int(limit)
}

// reclaimOpens claims back every file that was open before the server
// restarted: after the grace period it would be too late. A file that the
// server wants to be asked about again later waits for its next use or renewal.
func (c *Client) reclaimOpens(ctx context.Context) error {
	for open := range c.opens {
		if open.phase != phaseReclaim {
			continue
		}
		err := c.restore(ctx, open)
		if err != nil && (c.transport == nil || !c.lease.valid) {
			return err
		}
	}
	return nil
}

// renew tells the server that this client is alive (RFC 7530 section 16.28). It
// does nothing before the first registration.
func (c *Client) renew(ctx context.Context) error {
	if !c.lease.valid {
		return nil
	}
	cmp := c.newCompound()
	cmp.renew(c.lease.clientID)
	err := c.exchange(ctx, cmp)
	if errors.Is(err, ErrCBPathDown) {
		return nil // the lease is renewed; this client wants no callbacks
	}
	return err
}

// keepLease renews the lease until the client is closed. It is also how an idle
// client learns early enough of a restarted server.
func (c *Client) keepLease() {
	defer close(c.renewing)
	for {
		period, err := c.leasePeriod()
		if err != nil || sleep(c.life, period/3) != nil {
			return
		}
		err = c.run(c.life, func(ctx context.Context) error {
			if err := c.renew(ctx); err != nil {
				return err
			}
			for open := range c.opens {
				if err := c.restore(ctx, open); err != nil && c.transport == nil {
					return err
				}
			}
			return nil
		})
		if err != nil && c.life.Err() == nil {
			c.log.Warn("lease not renewed", "error", err)
		}
	}
}

// leasePeriod returns the server's lease time, which a restart may change.
func (c *Client) leasePeriod() (time.Duration, error) {
	const shortest = time.Second // of a server that leaves the attribute out, too
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
		return max(c.lease.period, shortest), nil
	case <-c.life.Done():
		return 0, c.life.Err()
	}
}
