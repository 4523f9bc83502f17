package volume

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/berth-storage/berth/internal/export"
)

// Pool is what a Manager manages: a backend, the server that exports its
// volumes, and what they have in common.
type Pool struct {
	Name       string
	Backend    Backend
	Server     export.Server
	IDs        *export.IDs // of the server, shared by its pools; nil if it has none
	ExportPath string      // clients mount a volume at ExportPath/<its path>; absolute
	Clients    export.Clients
	MaxVolumes int // 0: as many as the server has export ids for
	Archives   ArchivePolicy
	Among      *Pools // whose volumes can be copied into this one, and the other way round; may be nil
	Log        *slog.Logger
	// Observe is told of each finished operation, for metrics. It may be nil.
	Observe func(operation string, took time.Duration, err error)
}

// Manager is the way in to the volumes of one pool. Its methods are idempotent:
// whoever does not know how one ended calls it again.
type Manager struct {
	pool    Pool
	meter   Meter          // nil if the backend cannot tell its capacity
	usage   UsageMeter     // nil if it cannot tell what volumes take up
	mounter Mounter        // nil if its volumes need no mounts
	archive Archiver       // nil if it keeps nothing of deleted volumes
	cloner  Cloner         // nil if its volumes cannot be cloned
	native  Configurable   // nil if it knows no Settings
	checker DiscardChecker // nil if nothing speaks against the end of a volume
	snaps   Snapshotter    // nil if it takes no snapshots
	reader  Reader         // nil if nothing can be copied out of it
	filler  Filler         // nil if nothing can be copied into it
	work    *work          // what may take hours
	pins    pins           // what that reads
	names   locks[Name]
	// handover is taken after a name, by what one volume has to do with another: its
	// content goes from one record to the other, or they have one path.
	handover locks[struct{}]
	purge    *purger
	tally    tally // of all volumes that have claims
	gids     gids  // of all volumes that are not discarded
	paths    paths // likewise
	now      func() time.Time
	wantedMu sync.Mutex
	wanted   Wanted // may be nil; see AskWanted
	// unusable are volumes whose records name an export id of another volume:
	// whatever is done by that id is done to the other. Recover fills it in.
	unusable map[Name]error
	// unreadable are how many records cannot be read: nobody knows where their volumes lie.
	// Recover fills it in.
	unreadable int
	// unfinished are deletions that were cut off and could not be ended yet. Recover fills it
	// in, then it is Run's.
	unfinished []Name
	// adopted are volumes that another program made. Recover fills it in.
	adopted map[Name]Volume
}

// NewManager makes the Manager of p. Recover comes first, then everything else.
func NewManager(p Pool) *Manager {
	m := &Manager{pool: p, now: time.Now, work: newWork(), unusable: make(map[Name]error), adopted: make(map[Name]Volume)}
	m.meter, _ = p.Backend.(Meter)
	m.usage, _ = p.Backend.(UsageMeter)
	m.mounter, _ = p.Backend.(Mounter)
	m.archive, _ = p.Backend.(Archiver)
	m.cloner, _ = p.Backend.(Cloner)
	m.native, _ = p.Backend.(Configurable)
	m.checker, _ = p.Backend.(DiscardChecker)
	m.snaps, _ = p.Backend.(Snapshotter)
	m.reader, _ = p.Backend.(Reader)
	m.filler, _ = p.Backend.(Filler)
	m.purge = newPurger(m.purgeOne, p.Log)
	if m.pool.Observe == nil {
		m.pool.Observe = func(string, time.Duration, error) {}
	}
	return m
}

// Pool is the pool's name.
func (m *Manager) Pool() string { return m.pool.Name }

// mount makes v, which is ready, what a server can export.
func (m *Manager) mount(ctx context.Context, v Volume) error {
	if m.mounter == nil {
		return nil
	}
	return m.mounter.Mount(ctx, v)
}

// get reads the record of n, unless it cannot be trusted.
func (m *Manager) get(ctx context.Context, n Name) (Volume, error) {
	if err := m.unusable[n]; err != nil {
		return Volume{}, fmt.Errorf("%w: volume %s is left alone until its record is corrected and Berth started again: %w", ErrConflict, n, err)
	}
	return m.pool.Backend.Get(ctx, n)
}

// MarkPublished records that a PersistentVolume of n was seen. From then on the
// volume is never scavenged.
func (m *Manager) MarkPublished(ctx context.Context, n Name) error {
	if m.purge.has(n) {
		return nil
	}
	unlock, err := m.names.lock(ctx, n)
	if err != nil {
		return err
	}
	defer unlock()
	v, err := m.pool.Backend.Get(ctx, n)
	if err != nil || v.Published || v.Ended != (time.Time{}) {
		return err // what is kept without a claim was published before
	}
	v.Published = true
	_, err = m.pool.Backend.Update(ctx, v)
	return err
}

// Get reads the record of n. ErrNotFound only if there is none.
func (m *Manager) Get(ctx context.Context, n Name) (Volume, error) { return m.get(ctx, n) }

// Adopted gives the volume n as it was at the start, if another program made it.
func (m *Manager) Adopted(n Name) (Volume, bool) {
	v, ok := m.adopted[n]
	return v, ok
}

// Capacity is the pool's room. ErrUnsupported if the backend cannot tell.
func (m *Manager) Capacity(ctx context.Context) (Capacity, error) {
	if m.meter == nil {
		return Capacity{}, fmt.Errorf("%w: pool %s cannot tell its capacity", ErrUnsupported, m.pool.Name)
	}
	return m.meter.Capacity(ctx)
}

// Report is a volume and what it takes up.
type Report struct {
	Volume
	Usage *Usage // nil if nothing counts it
}

// Reports gives every volume of the pool, whatever its state. The errors are of
// volumes whose record cannot be read, or whose usage cannot be told now: these come
// without it.
func (m *Manager) Reports(ctx context.Context) iter.Seq2[Report, error] {
	return func(yield func(Report, error) bool) {
		for v, err := range m.pool.Backend.List(ctx) {
			r := Report{Volume: v}
			if err == nil && m.usage != nil {
				var u Usage
				if u, err = m.usage.Usage(ctx, v); err == nil {
					r.Usage = &u
				} else if errors.Is(err, ErrUnsupported) {
					err = nil
				}
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

// Run purges in the background until ctx ends, and removes the archives that the pool's
// policy does not keep, and goes on with what Recover could not end. What is not done by
// then is gone on with after the next start.
func (m *Manager) Run(ctx context.Context) {
	var running sync.WaitGroup
	running.Go(func() { m.purge.run(ctx) })
	running.Go(func() { m.finishForever(ctx) })
	if m.pool.Archives != (ArchivePolicy{}) && m.archive != nil {
		running.Go(func() { m.expireForever(ctx) })
	}
	running.Wait()
	m.work.stop()
}

// observe is used as: defer m.observe("create", &err)().
func (m *Manager) observe(operation string, err *error) func() {
	start := m.now()
	return func() { m.pool.Observe(operation, m.now().Sub(start), *err) }
}

// serverError gives a server's error its meaning in the domain.
func serverError(err error) error {
	switch {
	case errors.Is(err, export.ErrUnavailable):
		return fmt.Errorf("%w: %w", ErrBusy, err)
	case errors.Is(err, export.ErrRefused):
		return err // it says what it is; asking again helps once the cause is removed
	default:
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
}
