package volume

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// workPatience is how long who asks waits for work that may take hours. Below it are the
// clones and snapshots of storage that need not copy.
const workPatience = 10 * time.Second

// errCanceled is why work ends of which the result is not wanted any more.
var errCanceled = fmt.Errorf("%w: it is being deleted", ErrBusy)

// Progress is how far a copy has got. All methods may be called for nil.
type Progress struct {
	files, bytes atomic.Int64
	waiting      atomic.Bool // for its turn
	turns        *turns      // nil: it need not wait
	namespace    string
	once         sync.Once
	queued       chan struct{} // closed when it first has to wait
}

// Add counts files, which are copied whole, and bytes.
func (p *Progress) Add(files, bytes int64) {
	if p == nil {
		return
	}
	p.files.Add(files)
	p.bytes.Add(bytes)
}

// Copied gives what was counted.
func (p *Progress) Copied() (files, bytes int64) {
	if p == nil {
		return 0, 0
	}
	return p.files.Load(), p.bytes.Load()
}

// work is what goes on in the background, by the name of what it makes.
type work struct {
	life  context.Context // ends with the Manager's
	end   context.CancelCauseFunc
	turns *turns

	mu      sync.Mutex
	running map[Name]*task
	barred  map[Name]int // how many calls are deleting what would be made
}

type task struct {
	whose    any // who asked for it, comparable
	cancel   context.CancelCauseFunc
	progress Progress
	ended    chan struct{} // closed when the next two are set
	made     Volume
	err      error
}

func newWork() *work {
	life, end := context.WithCancelCause(context.Background())
	return &work{life: life, end: end, turns: newTurns(), running: make(map[Name]*task), barred: make(map[Name]int)}
}

// do gives what f makes of n for a namespace. If that takes long it is ErrPending, and f goes on: the next call asks for the
// same f's result, if it is for the same one; else it is ErrExists. Ending ctx ends only the waiting. Only who has it
// begun is made to wait at all, and not for others' copies: whoever asks has others to serve.
func (w *work) do(ctx context.Context, n Name, namespace string, whose any, f func(context.Context, *Progress) (Volume, error)) (Volume, error) {
	if err := ctx.Err(); err != nil {
		return Volume{}, err
	}
	t, begun, err := w.start(n, namespace, whose, f)
	if err != nil {
		return Volume{}, err
	}
	if begun {
		patience := time.NewTimer(workPatience)
		defer patience.Stop()
		select {
		case <-t.ended:
		case <-t.progress.queued:
		case <-patience.C:
		case <-ctx.Done():
		}
	}
	select {
	case <-t.ended:
		w.collect(n, t)
		return t.made, t.err
	default:
	}
	if t.progress.waiting.Load() {
		return Volume{}, fmt.Errorf("%w: volume %s is copied when others are done: %d copies are made at a time, %d of one namespace",
			ErrQueued, n, copiesAtATime, copiesOfANamespace)
	}
	files, bytes := t.progress.Copied()
	return Volume{}, fmt.Errorf("%w: volume %s is being made, %d files with %d bytes copied up to now", ErrPending, n, files, bytes)
}

// start gives the task of n, which it begins if there is none.
func (w *work) start(n Name, namespace string, whose any, f func(context.Context, *Progress) (Volume, error)) (_ *task, begun bool, _ error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.barred[n] > 0 {
		return nil, false, fmt.Errorf("volume %s: %w", n, errCanceled)
	}
	if t := w.running[n]; t != nil {
		if t.whose == whose {
			return t, false, nil
		}
		select {
		case <-t.ended: // if it made something, f finds that
		default:
			return nil, false, fmt.Errorf("%w: volume %s is being made for %v", ErrExists, n, t.whose)
		}
	}
	ctx, cancel := context.WithCancelCause(w.life)
	t := &task{whose: whose, cancel: cancel, ended: make(chan struct{})}
	t.progress.turns, t.progress.namespace, t.progress.queued = w.turns, namespace, make(chan struct{})
	w.running[n] = t
	go func() {
		defer close(t.ended)
		defer cancel(nil)
		t.made, t.err = f(ctx, &t.progress)
	}()
	return t, true, nil
}

func (w *work) collect(n Name, t *task) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running[n] == t {
		delete(w.running, n)
	}
}

// cancel ends the task of n, if there is one, and waits until it has ended. Until allow is
// called there is no other one.
func (w *work) cancel(n Name) (allow func()) {
	w.mu.Lock()
	w.barred[n]++
	t := w.running[n]
	w.mu.Unlock()
	if t != nil {
		t.cancel(errCanceled)
		<-t.ended
		w.collect(n, t)
	}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.barred[n]--; w.barred[n] == 0 {
			delete(w.barred, n)
		}
	}
}

// has says whether there is a task of n whose result nobody has asked for.
func (w *work) has(n Name) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.running[n] != nil
}

// isFor says whether there is a task of n, and it is for that one.
func (w *work) isFor(n Name, whose any) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.running[n] != nil && w.running[n].whose == whose
}

// stop ends all tasks and waits for them. What they leave is gone on with after the next start.
func (w *work) stop() {
	w.end(errors.New("the pool is being closed"))
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.running {
		<-t.ended
	}
}

// pins are volumes that are being copied, and must stay where they are until that is done.
type pins struct {
	mu      sync.Mutex
	all     map[Name]*pin
	waiting int
}

// pinWaiters are how many wait for what is copied. All others would keep what else there is to do waiting.
const pinWaiters = 2

type pin struct {
	count int
	free  chan struct{} // closed when count is 0
}

func (p *pins) add(n Name) (remove func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == nil {
		p.all = make(map[Name]*pin)
	}
	if p.all[n] == nil {
		p.all[n] = &pin{free: make(chan struct{})}
	}
	of := p.all[n]
	of.count++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if of.count--; of.count == 0 {
			delete(p.all, n)
			close(of.free)
		}
	}
}

// wait waits until n is not copied any more. If that takes long it is ErrBusy. Who calls it has the
// lock of n, so that nobody begins to copy it meanwhile.
func (p *pins) wait(ctx context.Context, n Name) error {
	busy := fmt.Errorf("%w: volume %s is being copied; it is deleted when that is done", ErrBusy, n)
	p.mu.Lock()
	of, mayWait := p.all[n], p.waiting < pinWaiters
	if of != nil && mayWait {
		p.waiting++
		defer func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.waiting--
		}()
	}
	p.mu.Unlock()
	switch {
	case of == nil:
		return nil
	case !mayWait:
		return busy
	}
	patience := time.NewTimer(workPatience)
	defer patience.Stop()
	select {
	case <-of.free:
		return nil
	case <-patience.C:
		return busy
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
