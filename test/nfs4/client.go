package nfs4

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"
)

const (
	defaultTimeout = time.Minute

	// maxTransfer is the most data in one READ or WRITE, even if the server
	// allows more: it bounds the memory of a call.
	maxTransfer = 512 << 10

	// A call that fails is repeated after minPause, then twice that, and so on.
	minPause = 20 * time.Millisecond
	maxPause = time.Second

	// maxRecoveries bounds how often one call may lose its state: two or three
	// server restarts in a row are bad luck, more are a server (or a client)
	// that will never agree.
	maxRecoveries = 10
)

// Options say who the client is and how patient.
type Options struct {
	UID, GID uint32
	Groups   []uint32 // supplementary, at most 16
	LocalIP  string   // address to call from; empty: any

	// Soft makes a call fail when the server is away after one more try.
	// Otherwise it waits for the server until its context ends.
	Soft bool

	// Timeout is how long a reply may take before the connection counts as
	// dead; zero means a minute.
	Timeout time.Duration

	// Log hears of lost connections and recovered state; nil: nobody does.
	Log *slog.Logger
}

// Client is a mounted NFSv4.0 server. Its methods may be called from several
// goroutines; the client sends one request at a time.
type Client struct {
	opts       Options
	dial       func(context.Context) (net.Conn, error)
	credential []byte
	log        *slog.Logger

	// life ends when Close is called; renewing is closed when nobody renews
	// the lease any more.
	life     context.Context
	end      context.CancelFunc
	renewing chan struct{}

	// turn is a mutex that one can stop waiting for. Who holds it may use the
	// fields below.
	turn      chan struct{}
	transport *transport // nil: not connected
	lease     lease
	opens     map[*openState]struct{}
	owners    owners
}

// Dial mounts the server at addr (host:port). Like a mount it waits for a
// server that is not there yet until ctx ends, unless o.Soft is set.
func Dial(ctx context.Context, addr string, o Options) (*Client, error) {
	var dialer net.Dialer
	if o.LocalIP != "" {
		ip := net.ParseIP(o.LocalIP)
		if ip == nil {
			return nil, fmt.Errorf("mount %s: %q is not an IP address", addr, o.LocalIP)
		}
		dialer.LocalAddr = &net.TCPAddr{IP: ip}
	}
	c, err := mount(ctx, o, func(ctx context.Context) (net.Conn, error) {
		return dialer.DialContext(ctx, "tcp", addr)
	})
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", addr, err)
	}
	return c, nil
}

// mount makes a client of the server that dial reaches.
func mount(ctx context.Context, o Options, dial func(context.Context) (net.Conn, error)) (*Client, error) {
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	machine, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	life, end := context.WithCancel(context.Background())
	c := &Client{
		opts:       o,
		dial:       dial,
		credential: sysCredential(machine, o.UID, o.GID, o.Groups),
		log:        o.Log,
		life:       life,
		end:        end,
		renewing:   make(chan struct{}),
		turn:       make(chan struct{}, 1),
		lease:      newLease(machine),
		opens:      make(map[*openState]struct{}),
	}
	nothing := func(context.Context) error { return nil }
	if err := c.run(ctx, nothing); err != nil {
		end()
		c.disconnect()
		return nil, err
	}
	go c.keepLease()
	return c, nil
}

// Close ends the connection. Calls under way fail with net.ErrClosed. Files
// that are still open stay open for the server until the lease runs out, and
// what was not committed may be lost.
func (c *Client) Close() error {
	c.end()
	<-c.renewing
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.disconnect()
	return nil
}

// retryable marks an error after which the attempt, as it stands now, may
// succeed if it is made again.
type retryable struct{ error }

func (e retryable) Unwrap() error { return e.error }

// run makes attempt until it has a final outcome. An attempt is one or more
// exchanges, made while this goroutine has its turn, on a connection with a
// valid lease; the pauses between attempts are everybody's.
func (c *Client) run(ctx context.Context, attempt func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.life, func() { cancel(net.ErrClosed) })()

	var (
		resent           bool
		lost, recoveries int
		broken           *transportError
		failed           *opError
	)
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		err := c.attempt(ctx, attempt)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return interrupted(ctx, err)
		}
		switch {
		case errors.As(err, &broken):
			resent = resent || broken.sent
			if lost++; c.opts.Soft && lost > 1 {
				return err
			}
			c.log.Debug("no answer", "error", err)
		case isAny(err, ErrDelay, ErrGrace):
		case errors.As(err, new(retryable)) || leaseLost(err):
			if recoveries++; recoveries > maxRecoveries {
				return err
			}
		case errors.As(err, &failed):
			failed.resent = resent
			return err
		default:
			return err
		}
		if sleep(ctx, pause) != nil {
			return interrupted(ctx, err)
		}
	}
}

// final reports whether err is an answer of the server that another attempt
// would not change.
func final(err error) bool {
	var answer Status
	return errors.As(err, &answer) && !leaseLost(err) &&
		!isAny(err, ErrGrace, ErrDelay) && !errors.As(err, new(retryable))
}

// attempt waits for its turn, makes the lease good and calls f.
func (c *Client) attempt(ctx context.Context, f func(context.Context) error) error {
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-c.turn }()
	if err := c.ensureLease(ctx); err != nil {
		// What was lost here was not f's request.
		if broken, ok := errors.AsType[*transportError](err); ok {
			broken.sent = false
		}
		return err
	}
	return f(ctx)
}

// exchange sends a compound and takes its results. The caller has the turn.
func (c *Client) exchange(ctx context.Context, cmp *compound) error {
	if c.transport == nil {
		return &transportError{err: net.ErrClosed}
	}
	d, err := c.transport.call(ctx, c.opts.Timeout, cmp.message())
	if err == nil {
		err = cmp.parse(d)
	}
	var status Status
	if err != nil && !errors.As(err, &status) || ctx.Err() != nil {
		c.disconnect()
	}
	if leaseLost(err) {
		c.log.Info("the server does not know this client any more", "error", err)
		c.lease.valid = false
	}
	return err
}

func (c *Client) newCompound() *compound { return newCompound(c.credential) }

// disconnect drops the connection, if there is one.
func (c *Client) disconnect() {
	if c.transport != nil {
		c.transport.conn.Close()
		c.transport = nil
	}
}

// isAny reports whether err is one of statuses.
func isAny(err error, statuses ...Status) bool {
	for _, s := range statuses {
		if errors.Is(err, s) {
			return true
		}
	}
	return false
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// interrupted says why ctx ended, and what the last attempt came to.
func interrupted(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("%w: %w", cause, err)
}

// newLease makes the identity of one mount. The server throws away the state of
// a client that comes back with another boot verifier (RFC 7530 section 9.1.1),
// so both live as long as the Client.
func newLease(machine string) lease {
	l := lease{name: fmt.Sprintf("berth-nfs4 %s %s", machine, rand.Text())}
	copy(l.boot[:], rand.Text())
	return l
}
