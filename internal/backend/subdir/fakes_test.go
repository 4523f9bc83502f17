package subdir

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"sync"
	"testing"

	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/mem"
)

// hanging is a backend in memory whose operations, and whose answers, can be held back.
type hanging struct {
	*mem.Backend
	mu     sync.Mutex
	dead   chan struct{} // closed to let operations go on; nil: they do
	check  error
	began  int
	closed bool
	left   bool // abandoned
}

func newHanging() *hanging { return &hanging{Backend: new(mem.Backend)} }

// hang holds back what begins from now on.
func (h *hanging) hang() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dead = make(chan struct{})
}

// goOn lets go on what was held back.
func (h *hanging) goOn() {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.dead)
	h.dead = nil
}

func (h *hanging) wait() {
	h.mu.Lock()
	h.began++
	dead := h.dead
	h.mu.Unlock()
	if dead != nil {
		<-dead // whatever becomes of the context, as in a system call
	}
}

func (h *hanging) operations() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.began
}

// fails has the share answer with an error.
func (h *hanging) fails(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.check = err
}

func (h *hanging) Check() error {
	h.mu.Lock()
	dead := h.dead
	h.mu.Unlock()
	if dead != nil {
		<-dead
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.check
}

func (h *hanging) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	return nil
}

func (h *hanging) abandon() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.left = true
}

func (h *hanging) isAbandoned() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.left
}

func (h *hanging) isClosed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}

func (h *hanging) opened() *opened {
	return &opened{inner: h, check: h.Check, close: h.Close, abandon: h.abandon}
}

func (h *hanging) Create(ctx context.Context, s volume.Spec) (volume.Volume, error) {
	h.wait()
	return h.Backend.Create(ctx, s)
}

func (h *hanging) Get(ctx context.Context, n volume.Name) (volume.Volume, error) {
	h.wait()
	return h.Backend.Get(ctx, n)
}

func (h *hanging) List(ctx context.Context) iter.Seq2[volume.Volume, error] {
	h.wait()
	return h.Backend.List(ctx)
}

func (h *hanging) Discard(ctx context.Context, n volume.Name) error {
	h.wait()
	return h.Backend.Discard(ctx, n)
}

func (h *hanging) Usage(context.Context, volume.Volume) (volume.Usage, error) {
	h.wait()
	return volume.Usage{}, volume.ErrUnsupported
}

func (h *hanging) Capacity(ctx context.Context) (volume.Capacity, error) {
	h.wait()
	return h.Backend.Capacity(ctx)
}

func logger(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

var errServer = errors.New("input/output error")

func wantError(t *testing.T, what string, got error, want ...error) {
	t.Helper()
	for _, w := range want {
		if !errors.Is(got, w) {
			t.Errorf("%s: got error %v, want %v", what, got, w)
		}
	}
}
