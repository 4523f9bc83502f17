package subdir

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/berth-storage/berth/internal/volume"
)

// patience is how long a caller whose context has ended waits for an operation that was
// told to end. On a share that answers it is enough.
const patience = time.Second

var errClosed = errors.New("the share is being closed")

// guard keeps callers from waiting for a share that does not answer.
type guard struct {
	mu   sync.Mutex
	away error         // why the share does not answer; nil: it does
	gone chan struct{} // closed while it does not
	// left are the volumes on which operations work whose callers have left.
	left    map[volume.Name]int
	closed  bool
	running sync.WaitGroup // operations, left or not
}

func newGuard() *guard {
	return &guard{gone: make(chan struct{}), left: make(map[volume.Name]int)}
}

// stall says that the share does not answer, and why.
func (g *guard) stall(why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.away == nil {
		close(g.gone)
	}
	g.away = why
}

// answers says that it does.
func (g *guard) answers() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.away != nil {
		g.away, g.gone = nil, make(chan struct{})
	}
}

// close refuses operations from now on, and tells when the last one has ended.
func (g *guard) close() (idle <-chan struct{}) {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	done := make(chan struct{})
	go func() {
		g.running.Wait()
		close(done)
	}()
	return done
}

// begin admits an operation on n, or on no volume. gone is closed when the share does
// not answer any more.
func (g *guard) begin(n volume.Name) (gone <-chan struct{}, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return nil, fmt.Errorf("%w: %w", volume.ErrBusy, errClosed)
	case g.away != nil:
		return nil, fmt.Errorf("%w: %w", volume.ErrBusy, g.away)
	case g.left[n] > 0:
		return nil, fmt.Errorf("%w: volume %s: an earlier operation on it still waits for the share", volume.ErrBusy, n)
	}
	g.running.Add(1)
	return g.gone, nil
}

// leave has n kept for the operation that its caller leaves, until that ends.
func (g *guard) leave(n volume.Name, ended <-chan struct{}) {
	if (n == volume.Name{}) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left[n]++
	go func() {
		<-ended
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.left[n]--; g.left[n] == 0 {
			delete(g.left, n)
		}
	}()
}

// call does f, which works on the share, for a caller who must not be kept. It is
// ErrBusy if nothing was done, and ErrUnknown if f was left at work: it is told to end,
// and until it has, nothing else is done on n. The zero Name is that of work on none.
func call[T any](ctx context.Context, g *guard, n volume.Name, f func(context.Context) (T, error)) (T, error) {
	var none T
	if ctx.Err() != nil {
		return none, context.Cause(ctx)
	}
	gone, err := g.begin(n)
	if err != nil {
		return none, err
	}
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	var result T
	ended := make(chan struct{})
	go func() {
		defer g.running.Done()
		defer close(ended)
		result, err = f(work)
	}()
	select {
	case <-ended:
		return result, err
	case <-gone:
	case <-ctx.Done():
		select {
		case <-ended:
			return result, err
		case <-gone:
		case <-time.After(patience):
		}
	}
	g.leave(n, ended)
	g.mu.Lock()
	away := g.away
	g.mu.Unlock()
	if away == nil { // or again
		away = errors.New("the share was too slow to answer")
	}
	if ctx.Err() != nil {
		away = fmt.Errorf("%w: %w", context.Cause(ctx), away)
	}
	return none, fmt.Errorf("%w: the operation was left at work: %w", volume.ErrUnknown, away)
}

// do is call for what gives an error only.
func do(ctx context.Context, g *guard, n volume.Name, f func(context.Context) error) error {
	_, err := call(ctx, g, n, func(ctx context.Context) (struct{}, error) { return struct{}{}, f(ctx) })
	return err
}
