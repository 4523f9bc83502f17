package volume

import (
	"context"
	"errors"
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
	pending map[Name]bool // waiting, being purged, or to be tried again
	waiting []purgeJob
	cloned  map[Name]*purgeJob // those that have clones; nil: it is queued
	wake    chan struct{}      // holds one token while waiting may have jobs
}

type purgeJob struct {
	name  Name
	retry time.Duration // the pause after it fails
}

func newPurger(purge func(context.Context, Name) error, log *slog.Logger) *purger {
	return &purger{purge: purge, log: log, pending: make(map[Name]bool), cloned: make(map[Name]*purgeJob), wake: make(chan struct{}, 1)}
}

func (p *purger) add(n Name) {
	p.mu.Lock()
	known := p.pending[n]
	p.pending[n] = true
	p.mu.Unlock()
	if !known {
		p.queue(purgeJob{n, purgeRetryMin})
	}
}

// has says whether n is discarded and will be purged without being asked for.
func (p *purger) has(n Name) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pending[n]
}

// done is for the purge function to call, when n is purged.
func (p *purger) done(n Name) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pending, n)
	delete(p.cloned, n)
}

func (p *purger) queue(j purgeJob) {
	p.mu.Lock()
	p.waiting = append(p.waiting, j)
	p.mu.Unlock()
	p.signal()
}

func (p *purger) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *purger) take() (purgeJob, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 {
		return purgeJob{}, false
	}
	j := p.waiting[0]
	p.waiting = p.waiting[1:]
	if len(p.waiting) > 0 {
		p.signal() // for the other workers
	}
	return j, true
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
			j, ok := p.take()
			if !ok {
				break
			}
			p.one(ctx, j)
		}
	}
}

// one does j, and queues it again for later if that fails.
func (p *purger) one(ctx context.Context, j purgeJob) {
	err := p.purge(ctx, j.name)
	if err == nil || ctx.Err() != nil {
		return
	}
	next := purgeJob{j.name, min(2*j.retry, purgeRetryMax)}
	if errors.Is(err, ErrCloned) {
		p.awaitClones(next, j.retry, err)
		return
	}
	p.log.Warn("cannot free the space of a deleted volume yet", "volume", j.name, "retryIn", j.retry, "err", err)
	time.AfterFunc(j.retry, func() { p.queue(next) })
}

// awaitClones has a job wait until its volume's last clone is gone, as awaken tells, but not
// longer than pause: that clone may be one that Berth knows nothing of.
func (p *purger) awaitClones(j purgeJob, pause time.Duration, why error) {
	p.mu.Lock()
	_, known := p.cloned[j.name]
	p.cloned[j.name] = &j
	p.mu.Unlock()
	if !known {
		p.log.Info("a deleted volume has clones; its space is freed when they are deleted", "volume", j.name, "why", why)
	}
	time.AfterFunc(pause, func() { p.awaken(j.name) })
}

// awaken has n tried again, if it waits for its clones.
func (p *purger) awaken(n Name) {
	p.mu.Lock()
	j := p.cloned[n]
	if j != nil {
		p.cloned[n] = nil // it counts as long as it has clones
	}
	p.mu.Unlock()
	if j != nil {
		p.queue(*j)
	}
}

// tombstones are how many volumes wait for their clones.
func (p *purger) tombstones() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.cloned)
}
