package volume

import (
	"context"
	"fmt"
	"sync"
)

// How many copies are made at the same time, of a pool and of one namespace. Each has files open and
// buffers, and whoever may make VolumeSnapshots may ask for thousands.
const (
	copiesAtATime      = 8
	copiesOfANamespace = 2
)

// turns are those of a pool's copies.
type turns struct {
	all chan struct{} // holds a token for each copy at work

	mu sync.Mutex
	of map[string]*turn // by namespace
}

type turn struct {
	tokens chan struct{}
	asked  int // how many wait for one or have one
}

func newTurns() *turns {
	return &turns{all: make(chan struct{}, copiesAtATime), of: make(map[string]*turn)}
}

// Turn waits until p's copy may begin; done is to be called when it has ended. For the nil Progress, and one
// that no Manager made, it is at once.
func (p *Progress) Turn(ctx context.Context) (done func(), err error) {
	if p == nil || p.turns == nil {
		return func() {}, nil
	}
	defer p.waiting.Store(false)
	return p.turns.take(ctx, p.namespace, func() {
		p.waiting.Store(true)
		p.once.Do(func() { close(p.queued) })
	})
}

// take calls wait if it has to.
func (t *turns) take(ctx context.Context, namespace string, wait func()) (done func(), err error) {
	own := t.ask(namespace)
	for i, tokens := range []chan struct{}{own.tokens, t.all} { // so that one namespace does not queue for all
		select {
		case tokens <- struct{}{}:
			continue
		default:
			wait()
		}
		select {
		case tokens <- struct{}{}:
			continue
		case <-ctx.Done():
		}
		if i == 1 {
			<-own.tokens
		}
		t.leave(namespace)
		return nil, fmt.Errorf("waiting for other copies: %w", context.Cause(ctx))
	}
	return func() {
		<-t.all
		<-own.tokens
		t.leave(namespace)
	}, nil
}

func (t *turns) ask(namespace string) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.of[namespace]
	if own == nil {
		own = &turn{tokens: make(chan struct{}, copiesOfANamespace)}
		t.of[namespace] = own
	}
	own.asked++
	return own
}

func (t *turns) leave(namespace string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.of[namespace]
	if own.asked--; own.asked == 0 {
		delete(t.of, namespace)
	}
}
