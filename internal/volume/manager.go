package volume

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"path"
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
	Log        *slog.Logger
	// Observe is told of each finished operation, for metrics. It may be nil.
	Observe func(operation string, took time.Duration, err error)
}

// Manager is the way in to the volumes of one pool. Its methods are idempotent:
// whoever does not know how one ended calls it again.
type Manager struct {
	pool    Pool
	meter   Meter      // nil if the backend cannot tell its capacity
	usage   UsageMeter // nil if it cannot tell what volumes take up
	mounter Mounter    // nil if its volumes need no mounts
	names   nameLock
	purge   *purger
	tally   tally // of all volumes that are not discarded
	gids    gids  // likewise
	now     func() time.Time
	// unusable are volumes whose records name an export id of another volume:
	// whatever is done by that id is done to the other. Recover fills it in.
	unusable map[Name]error
	// adopted are volumes that another program made. Recover fills it in.
	adopted map[Name]Volume
}

// NewManager makes the Manager of p. Recover comes first, then everything else.
func NewManager(p Pool) *Manager {
	m := &Manager{pool: p, now: time.Now, unusable: make(map[Name]error), adopted: make(map[Name]Volume)}
	m.meter, _ = p.Backend.(Meter)
	m.usage, _ = p.Backend.(UsageMeter)
	m.mounter, _ = p.Backend.(Mounter)
	m.purge = newPurger(m.purgeOne, p.Log)
	if m.pool.Observe == nil {
		m.pool.Observe = func(string, time.Duration, error) {}
	}
	return m
}

// Pool is the pool's name.
func (m *Manager) Pool() string { return m.pool.Name }

// Create makes the volume of s and exports it; s.Export is filled in here. It
// returns the volume ready and reachable. A run that was cut off leaves a
// record, and the next call for the same claim goes on from there. Errors are
// those of Backend.Create, ErrNoSpace, and ErrBusy while the server is away.
func (m *Manager) Create(ctx context.Context, s Spec) (v Volume, err error) {
	defer m.observe("create", &err)()
	if err := s.Validate(); err != nil {
		return Volume{}, err
	}
	unlock, err := m.names.lock(ctx, s.Name)
	if err != nil {
		return Volume{}, err
	}
	defer unlock()

	v, err = m.get(ctx, s.Name)
	switch {
	case errors.Is(err, ErrNotFound):
		v, err = m.createNew(ctx, s)
	case err != nil: // an unreadable record is not a missing one
	case !v.Is(s):
		err = fmt.Errorf("%w: volume %s belongs to claim %s (uid %s)", ErrExists, s.Name, v.Claim, v.Claim.UID)
	case v.State == StateDiscarded:
		err = fmt.Errorf("%w: volume %s is being deleted", ErrBusy, s.Name)
	case v.State != StateReady:
		// A crash after the record was written: go on with the ids that it names.
		s.Export = v.Export
		v, err = m.pool.Backend.Create(ctx, s)
	}
	if err != nil {
		return Volume{}, err
	}
	if err := m.mount(ctx, v); err != nil {
		return Volume{}, err
	}
	// A crash from here on leaves a ready volume, which Recover exports at the
	// next start; the retry for the claim publishes again, which changes nothing.
	if err := m.pool.Server.Publish(ctx, v.AsExport(m.pool.Clients)); err != nil {
		return Volume{}, fmt.Errorf("exporting volume %s: %w", s.Name, serverError(err))
	}
	return v, nil
}

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

func (m *Manager) createNew(ctx context.Context, s Spec) (v Volume, err error) {
	if !m.tally.add(s.Name, s.Size, m.pool.MaxVolumes) {
		return Volume{}, fmt.Errorf("%w: volume %s: pool %s has %d volumes already and may have no more", ErrNoSpace, s.Name, m.pool.Name, m.pool.MaxVolumes)
	}
	if s.GIDs == (GIDRange{}) {
		m.gids.use(s.Owner.GID)
	} else if gid, ok := m.gids.take(s.GIDs); ok {
		s.Owner.GID = gid
	} else {
		m.tally.remove(s.Name) // and frees no group: none was taken
		return Volume{}, fmt.Errorf("%w: volume %s: all group ids from %d to %d are given out", ErrNoSpace, s.Name, s.GIDs.First, s.GIDs.Last)
	}
	recorded := false
	defer func() {
		if !recorded {
			m.forget(s.Name, s.Owner.GID)
		}
	}()
	if m.meter != nil {
		room, err := m.meter.Capacity(ctx)
		if err != nil {
			return Volume{}, fmt.Errorf("measuring pool %s: %w", m.pool.Name, err)
		}
		if uint64(s.Size) > room.Available {
			return Volume{}, fmt.Errorf("%w: volume %s needs %d bytes, pool %s has %d available",
				ErrNoSpace, s.Name, s.Size, m.pool.Name, room.Available)
		}
	}
	id, err := m.pool.IDs.Take()
	if err != nil {
		return Volume{}, fmt.Errorf("%w: volume %s: %w", ErrNoSpace, s.Name, err)
	}
	s.Export.ID = id
	s.Export.FSID = export.NewFSID(m.pool.Name + "/" + s.Name.String())
	s.Export.Path = path.Join(m.pool.ExportPath, s.Path.String())
	recorded = true
	if v, err = m.pool.Backend.Create(ctx, s); err != nil {
		// Only if no record came to be is the id free again. If that cannot be
		// told, it stays taken until the next start reads the records.
		if _, getErr := m.pool.Backend.Get(context.WithoutCancel(ctx), s.Name); errors.Is(getErr, ErrNotFound) {
			m.pool.IDs.Return(id)
			recorded = false
		}
		return Volume{}, err
	}
	return v, nil
}

// Delete takes the volume out of clients' sight for good; its bytes are freed in
// the background. The cluster must be the record's, if
// that names one: ErrForeign if it is not. A
// volume without a record is gone already, which is success.
func (m *Manager) Delete(ctx context.Context, n Name, cluster string) (err error) {
	defer m.observe("delete", &err)()
	if m.purge.has(n) {
		return nil // and not wait for a purge that may take hours
	}
	unlock, err := m.names.lock(ctx, n)
	if err != nil {
		return err
	}
	defer unlock()
	v, err := m.get(ctx, n)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := v.checkCluster(cluster); err != nil {
		return err
	}
	return m.discard(ctx, v)
}

// discard needs the lock of v's name.
func (m *Manager) discard(ctx context.Context, v Volume) error {
	// First the export: a directory renamed under a server stays reachable by
	// the handles that clients hold. A crash after this leaves a volume that is
	// exported again at the next start and deleted by the next call.
	if err := m.pool.Server.Withdraw(ctx, v.Export.ID); err != nil {
		return fmt.Errorf("withdrawing the export of volume %s: %w", v.Name, serverError(err))
	}
	// A crash in the middle of this leaves the record discarded: Recover ends it.
	if err := m.pool.Backend.Discard(ctx, v.Name); err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	m.forget(v.Name, v.Owner.GID)
	m.purge.add(v.Name)
	return nil
}

// count counts a volume that has a record, or is about to.
func (m *Manager) count(v Volume) {
	m.tally.add(v.Name, v.Size, 0)
	m.gids.use(v.Owner.GID)
}

// forget is the end of that.
func (m *Manager) forget(n Name, gid uint32) {
	m.tally.remove(n)
	m.gids.free(gid)
}

// purgeOne frees a discarded volume's bytes, then its export id.
func (m *Manager) purgeOne(ctx context.Context, n Name) (err error) {
	defer m.observe("purge", &err)()
	unlock, err := m.names.lock(ctx, n)
	if err != nil {
		return err
	}
	defer unlock()
	defer func() {
		if err == nil { // said before the name is free for others
			m.purge.done(n)
		}
	}()
	v, err := m.get(ctx, n)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if v.State != StateDiscarded {
		return nil // purged before, and made again since
	}
	if err := m.pool.Backend.Purge(ctx, n); err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	// A crash here loses the id's place in the queue: Compact puts it at the end.
	return m.pool.IDs.Free(v.Export.ID)
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
	if err != nil || v.Published {
		return err
	}
	v.Published = true
	_, err = m.pool.Backend.Update(ctx, v)
	return err
}

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

// Run purges in the background until ctx ends. What is not done by then is gone
// on with after the next start.
func (m *Manager) Run(ctx context.Context) { m.purge.run(ctx) }

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
