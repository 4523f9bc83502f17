package subdir

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/berth-storage/berth/internal/backend/dir"
)

// The times of a Share that Options does not say.
const (
	defaultProbeEvery = 3 * time.Second
	defaultStall      = 10 * time.Second
	openRetryMin      = time.Second
	openRetryMax      = 30 * time.Second
	// closeLimit is how long the end of a Share waits for what may hang.
	closeLimit = 2 * time.Second
)

// Options of a Share.
type Options struct {
	// Server and Path name the share, as PersistentVolumes do.
	Server, Path string
	// Root is where the share is mounted, or is to be: a clean absolute path.
	Root string
	// Mount: Berth mounts it there, with MountOptions (see nfs(5)); the folder is its own.
	Mount        bool
	MountOptions []string
	// Dir are those of the backend of directories, once the share is there.
	Dir dir.Options
	Log *slog.Logger
	// Changed is told each time that the share becomes available (nil), ceases to be, or
	// is not for another reason. It must return at once.
	Changed func(why error)

	// ProbeEvery is the pause between two questions whether the share answers, Stall
	// after how long without an answer it counts as one that does not. 0: some seconds.
	ProbeEvery, Stall time.Duration
}

// Share keeps a share open.
type Share struct {
	o      Options
	source string
	open   func(context.Context) (*opened, error)
	why    error // as Changed was told last
	told   bool
}

// opened is a share that was opened: what works on it, and what asks whether it answers.
type opened struct {
	inner directories
	dir   *dir.Backend
	check func() error
	close func() error
	// abandon is close for one that hangs, when the process ends.
	abandon func()
}

// NewShare makes a Share that does nothing before Run.
func NewShare(o Options) *Share {
	if o.ProbeEvery == 0 {
		o.ProbeEvery = defaultProbeEvery
	}
	if o.Stall == 0 {
		o.Stall = defaultStall
	}
	s := &Share{o: o, source: source(o.Server, o.Path)}
	s.open = s.openDir
	return s
}

// Run opens the share and has serve work on it, until ctx ends, which is to be the end of
// the process. If it cannot be opened
// it tries again; if its root becomes stale, or its lock is lost, the context of serve
// ends, and when serve has returned the share is opened anew. Run returns soon after ctx
// has ended, also if the share hangs.
func (s *Share) Run(ctx context.Context, serve func(context.Context, *Backend)) {
	s.tell(fmt.Errorf("the share %s is being opened", s.source))
	retry := openRetryMin
	for ctx.Err() == nil {
		o, err := s.openGuarded(ctx)
		switch {
		case err == nil:
			retry = openRetryMin
			s.term(ctx, o, serve)
		case ctx.Err() == nil:
			s.tell(fmt.Errorf("the share %s: %w", s.source, err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
			retry = min(2*retry, openRetryMax)
		}
	}
}

// tell tells Changed, unless it knows.
func (s *Share) tell(why error) {
	if s.told && (s.why == nil && why == nil || s.why != nil && why != nil && s.why.Error() == why.Error()) {
		return
	}
	s.why, s.told = why, true
	if s.o.Changed != nil {
		s.o.Changed(why)
	}
}

// openGuarded opens the share. If that hangs it waits on, since a second try would hang
// as well; only the end of ctx ends it.
func (s *Share) openGuarded(ctx context.Context) (*opened, error) {
	type result struct {
		o   *opened
		err error
	}
	done := make(chan result, 1)
	go func() {
		o, err := s.open(ctx)
		done <- result{o, err}
	}()
	slow := time.After(s.o.Stall)
	for {
		select {
		case r := <-done:
			return r.o, r.err
		case <-slow:
			if s.o.Dir.Wait == nil { // else it may be the lock that it waits for
				s.tell(fmt.Errorf("the share %s does not answer: it is being opened since %s", s.source, s.o.Stall))
			}
		case <-ctx.Done():
			select {
			case r := <-done:
				if r.err == nil {
					s.end(r.o, nil)
				}
			case <-time.After(patience):
				go func() {
					if r := <-done; r.err == nil {
						_ = r.o.close()
					}
				}()
			}
			return nil, context.Cause(ctx)
		}
	}
}

// openDir mounts the share if that is Berth's to do, and opens it.
func (s *Share) openDir(ctx context.Context) (_ *opened, err error) {
	if s.o.Mount {
		if err := mountShare(ctx, s.source, s.o.Root, s.o.MountOptions); err != nil {
			return nil, err
		}
	}
	m, mounted := mountAt(s.o.Root)
	o := s.o.Dir
	switch {
	case !mounted || !isNFS(m):
		s.o.Log.Warn("no NFS share is mounted at the root of the pool; its volumes are made there nevertheless", "root", s.o.Root)
	case localLocks(m):
		o.LocalLocks = true
		s.o.Log.Warn("locks on the share are this host's alone (mount option nolock or local_lock): "+
			"nothing keeps a second process on another host from working on it", "root", s.o.Root)
	}
	b, err := dir.Open(ctx, s.o.Root, o)
	if err != nil {
		// What is mounted may be stale; the next try mounts it anew. A lock is held by
		// somebody who works there.
		if _, locked := errors.AsType[*dir.LockedError](err); s.o.Mount && !locked {
			err = errors.Join(err, unmount(s.o.Root))
		}
		return nil, err
	}
	return &opened{inner: b, dir: b, check: b.Check, close: b.Close, abandon: b.Abandon}, nil
}

// term has serve work on the open share as long as it can.
func (s *Share) term(ctx context.Context, o *opened, serve func(context.Context, *Backend)) {
	g := newGuard()
	working, stop := context.WithCancelCause(ctx)
	served := make(chan struct{})
	s.tell(nil)
	go func() {
		defer close(served)
		serve(working, &Backend{guard: g, inner: o.inner, dir: o.dir})
	}()
	lost := s.watch(ctx, g, o.check)
	if lost != nil {
		s.tell(fmt.Errorf("the share %s has to be opened anew: %w", s.source, lost))
	}
	stop(lost)
	<-served
	idle := g.close()
	if lost != nil {
		// Nothing of this term may work beside the next one.
		select {
		case <-idle:
		case <-ctx.Done():
		}
	}
	s.end(o, idle)
}

// watch asks again and again whether the share answers. It gives the reason why it has
// to be opened anew, nil if ctx has ended.
func (s *Share) watch(ctx context.Context, g *guard, check func() error) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(s.o.ProbeEvery):
		}
		answer := make(chan error, 1)
		go func() { answer <- check() }()
		asked := time.Now()
		slow := time.After(s.o.Stall)
		var err error
		for answered := false; !answered; {
			select {
			case <-ctx.Done():
				return nil
			case <-slow:
				s.stalled(g, fmt.Errorf("does not answer since %s", asked.Format(time.RFC3339)))
			case err = <-answer:
				answered = true
			}
		}
		switch {
		case errors.Is(err, dir.ErrLost):
			g.stall(err)
			return err
		case err != nil:
			s.stalled(g, err)
		default:
			g.answers()
			s.tell(nil)
		}
	}
}

func (s *Share) stalled(g *guard, why error) {
	why = fmt.Errorf("the share %s: %w", s.source, why)
	g.stall(why)
	s.tell(why)
}

// end closes the share, once nothing works on it any more, and unmounts what Berth has
// mounted. What hangs it does not wait for; that ends with the process.
func (s *Share) end(o *opened, idle <-chan struct{}) {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		if idle != nil {
			<-idle
		}
		if err := o.close(); err != nil {
			s.o.Log.Warn("closing the share", "err", err)
		}
		if s.o.Mount {
			if err := unmount(s.o.Root); err != nil {
				s.o.Log.Warn("unmounting the share", "err", err)
			}
		}
	}()
	select {
	case <-closed:
	case <-time.After(closeLimit):
		s.o.Log.Warn("the share does not answer; it is left as it is", "root", s.o.Root)
		o.abandon()
		if s.o.Mount { // so that what comes next finds no dead mount
			if err := unmount(s.o.Root); err != nil {
				s.o.Log.Warn("unmounting the share", "err", err)
			}
		}
	}
}
