package volume

import (
	"context"
	"sync"
)

// nameLock lets one operation at a time work on a volume.
type nameLock struct {
	mu   sync.Mutex
	held map[Name]chan struct{} // closed when the holder lets go
}

// lock waits for n, or for the end of ctx, and returns how to let go of it.
func (l *nameLock) lock(ctx context.Context, n Name) (unlock func(), err error) {
	for {
		l.mu.Lock()
		wait, taken := l.held[n]
		if !taken {
			free := make(chan struct{})
			if l.held == nil {
				l.held = make(map[Name]chan struct{})
			}
			l.held[n] = free
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.held, n)
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
