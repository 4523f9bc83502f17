package volume

import (
	"context"
	"sync"
)

// locks lets one operation at a time work on what a key stands for.
type locks[K comparable] struct {
	mu   sync.Mutex
	held map[K]chan struct{} // closed when the holder lets go
}

// lock waits for k, or for the end of ctx, and returns how to let go of it.
func (l *locks[K]) lock(ctx context.Context, k K) (unlock func(), err error) {
	for {
		l.mu.Lock()
		wait, taken := l.held[k]
		if !taken {
			free := make(chan struct{})
			if l.held == nil {
				l.held = make(map[K]chan struct{})
			}
			l.held[k] = free
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.held, k)
				l.mu.Unlock()
				close(free)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
