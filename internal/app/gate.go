package app

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/berth-storage/berth/internal/backend/zfs"
	"github.com/berth-storage/berth/internal/run"
)

// host runs commands on a host.
type host interface {
	zfs.Runner
	// Probe is Output for what tells whether the host answers.
	Probe(ctx context.Context, argv []string) ([]byte, error)
}

// gate keeps commands from a host that does not answer, so that nobody waits for it.
type gate struct {
	host host
	mu   sync.Mutex
	why  error // it is shut
	// passing ends when it is shut, and with it the commands that are under way: what
	// became of them is not known.
	passing context.Context
	end     context.CancelCauseFunc
}

func newGate(h host) *gate {
	g := &gate{host: h, why: errors.New("new")}
	g.open()
	return g
}

type gateKey struct{}

// passGate lets commands with the context through in any case, as a Probe.
func passGate(ctx context.Context) context.Context { return context.WithValue(ctx, gateKey{}, true) }

// Output implements zfs.Runner.
func (g *gate) Output(ctx context.Context, argv []string) ([]byte, error) {
	if ctx.Value(gateKey{}) != nil {
		return g.host.Probe(ctx, argv)
	}
	g.mu.Lock()
	why, passing := g.why, g.passing
	g.mu.Unlock()
	if why != nil {
		return nil, fmt.Errorf("%w: %w", run.ErrNotStarted, why)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(passing, func() { cancel(context.Cause(passing)) })()
	return g.host.Output(ctx, argv)
}

// shut says why nothing gets through. It is true if something did before, or there was
// another reason.
func (g *gate) shut(why error) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.why != nil && g.why.Error() == why.Error() {
		return false
	}
	g.why = why
	g.end(why)
	return true
}

// open is true if nothing got through before.
func (g *gate) open() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.why == nil {
		return false
	}
	g.why = nil
	g.passing, g.end = context.WithCancelCause(context.Background())
	return true
}
