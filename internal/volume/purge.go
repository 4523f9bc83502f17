package volume

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	purgeWorkers  = 2
	purgeRetryMin = time.Second
	purgeRetryMax = 5 * time.Minute
)

// purger is the queue of discarded volumes. Adding never blocks, so that
// deleting a volume takes the same time whatever is in it.
type purger struct {
	purge func(context.Context, Name) error
	log   *slog.Logger

	mu      sync.Mutex
	waiting []Name
	wake    chan struct{} // holds one token while waiting may have names
}

func newPurger(purge func(context.Context, Name) error, log *slog.Logger) *purger {
	return &purger{purge: purge, log: log, wake: make(chan struct{}, 1)}
}

func (p *purger) add(n Name) {
	p.mu.Lock()
	p.waiting = append(p.waiting, n)
	p.mu.Unlock()
	p.signal()
}

func (p *purger) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *purger) take() (Name, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 {
		return Name{}, false
	}
	n := p.waiting[0]
	p.waiting = p.waiting[1:]
	if len(p.waiting) > 0 {
		p.signal() // for the other workers
	}
	return n, true
}

func (p *purger) run(ctx context.Context) {
	var workers sync.WaitGroup
	for range purgeWorkers {
		workers.Go(func() { p.work(ctx) })
	}
	workers.Wait()
}

func (p *purger) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		}
		for ctx.Err() == nil {
			n, ok := p.take()
			if !ok {
				break
			}
			p.one(ctx, n, purgeRetryMin)
		}
	}
}

// one purges n, and tries again later if that fails, without holding a worker.
func (p *purger) one(ctx context.Context, n Name, retry time.Duration) {
	err := p.purge(ctx, n)
	if err == nil || ctx.Err() != nil {
		return
	}
	p.log.Warn("cannot free the space of a deleted volume yet", "volume", n, "retryIn", retry, "err", err)
	time.AfterFunc(retry, func() {
		if ctx.Err() == nil {
			p.one(ctx, n, min(2*retry, purgeRetryMax))
		}
	})
}
