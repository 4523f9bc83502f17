package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Delete ends a volume as its OnDelete says: it goes out of clients' sight for good and its
// bytes are freed in the background, or it is retained or archived. The cluster must be the
// record's, if that names one: ErrForeign if it is not. A
// volume without a record is gone already, which is success.
func (m *Manager) Delete(ctx context.Context, n Name, cluster string) (err error) {
	defer m.observe("delete", &err)()
	if m.purge.has(n) {
		return nil // and not wait for a purge that may take hours
	}
	defer m.work.cancel(n)() // nor for a copy that nobody wants any more
	unlock, err := m.names.lock(ctx, n)
	if err != nil {
		return err
	}
	defer unlock()
	v, found, err := m.findUndeleted(ctx, n)
	if !found {
		return err
	}
	if err := v.checkCluster(cluster); err != nil {
		return err
	}
	if v.SnapshotOf != (Name{}) {
		return fmt.Errorf("%w: %s is not a volume but a snapshot of %s", ErrInvalid, n, v.SnapshotOf)
	}
	switch v.State {
	case StateRetained, StateArchived:
		return nil // by an earlier call
	case StateDiscarded:
		return m.discard(ctx, v)
	}
	return m.end(ctx, v)
}

// Cancel ends the copy that is to become the volume of s, if one is at work, and discards what there is of it: nobody
// was ever given that, so that neither its age nor its OnDelete matters.
func (m *Manager) Cancel(ctx context.Context, s Spec) error {
	if !m.work.isFor(s.Name, s.Claim) {
		return nil
	}
	m.pool.Log.Info("ending a copy that is not wanted any more", "volume", s.Name, "claim", s.Claim)
	defer m.work.cancel(s.Name)()
	unlock, err := m.names.lock(ctx, s.Name)
	if err != nil {
		return err
	}
	defer unlock()
	v, found, err := m.findUndeleted(ctx, s.Name)
	if !found || !v.Is(s) || v.State != StateCreating {
		return err
	}
	v.OnDelete = OnDeleteDelete
	return m.end(ctx, v)
}

// findUndeleted reads the record of n, unless that is gone or what it tells of is being
// purged: then an earlier call, or a quicker one, has done all. It needs the lock of n.
func (m *Manager) findUndeleted(ctx context.Context, n Name) (v Volume, found bool, err error) {
	if m.purge.has(n) {
		return Volume{}, false, nil
	}
	v, err = m.get(ctx, n)
	if errors.Is(err, ErrNotFound) {
		return Volume{}, false, nil
	}
	return v, err == nil, err
}

// end does with v, which has lost its claim, as its OnDelete says. It needs the lock of
// v's name.
func (m *Manager) end(ctx context.Context, v Volume) error {
	if v.Shared && v.State != StateArchiving {
		unlock, err := m.handover.lock(ctx, struct{}{})
		if err != nil {
			return err
		}
		defer unlock()
		if m.isShared(v) {
			return m.release(ctx, v)
		}
	}
	switch {
	case v.SnapshotOf != Name{}:
		return m.endSnapshot(ctx, v)
	case v.State == StateCreating && v.RestoredFrom != Name{}:
		return m.putAway(ctx, v) // back to what it came from
	case v.OnDelete == OnDeleteArchive || v.State == StateArchiving:
		return m.putAway(ctx, v)
	case v.OnDelete == OnDeleteRetain:
		return m.retain(ctx, v)
	default:
		return m.discard(ctx, v)
	}
}

// isShared says whether another volume has the directory of v too.
func (m *Manager) isShared(v Volume) bool {
	return v.Shared && slices.ContainsFunc(m.paths.at(v.Path), func(o Volume) bool { return o.Shared && o.Name != v.Name })
}

// withdraw comes first of all: a directory renamed under a server stays reachable by
// the handles that clients hold. A crash after it leaves a volume that is
// exported again at the next start and deleted by the next call. ErrBusy while the volume is being copied.
func (m *Manager) withdraw(ctx context.Context, v Volume) error {
	if err := m.pins.wait(ctx, v.Name); err != nil {
		return err
	}
	if err := m.pool.Server.Withdraw(ctx, v.AsExport(m.pool.Clients)); err != nil {
		return fmt.Errorf("withdrawing the export of volume %s: %w", v.Name, serverError(err))
	}
	return nil
}

// alone refuses to move v's directory with another volume in it. Records that were
// written by hand or before there was an index may say that there is one.
func (m *Manager) alone(v Volume) error {
	if v.State == StateArchived || v.State == StateDiscarded {
		return nil // what has its path may be the next one
	}
	if o, found := m.paths.with(v); found {
		return fmt.Errorf("%w: volume %s is not deleted: volume %s of claim %s lies there too, at %s; if that is not so, correct its record",
			ErrConflict, v.Name, o.Name, o.Claim, o.Path)
	}
	return nil
}

// discard needs the lock of v's name.
func (m *Manager) discard(ctx context.Context, v Volume) error {
	if err := m.alone(v); err != nil {
		return err
	}
	if m.checker != nil && v.State != StateDiscarded {
		if err := m.checker.CheckDiscard(ctx, v); err != nil {
			return err
		}
	}
	if err := m.withdraw(ctx, v); err != nil {
		return err
	}
	return m.discardWithdrawn(ctx, v)
}

// discardWithdrawn discards v, which is exported no more.
func (m *Manager) discardWithdrawn(ctx context.Context, v Volume) error {
	// A crash in the middle of this leaves the record discarded: Recover ends it.
	if err := m.pool.Backend.Discard(ctx, v.Name); err != nil && !errors.Is(err, ErrNotFound) {
		m.paths.closed(v)
		return err
	}
	m.forget(v)
	m.purge.add(v.Name)
	return nil
}

// release removes the record of v, whose directory is not its alone.
func (m *Manager) release(ctx context.Context, v Volume) error {
	if err := m.withdraw(ctx, v); err != nil {
		return err
	}
	if err := m.archive.Release(ctx, v.Name); err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	m.forget(v)
	return m.pool.IDs.Free(v.Export.ID)
}

// retain leaves v where it is.
func (m *Manager) retain(ctx context.Context, v Volume) error {
	if err := m.withdraw(ctx, v); err != nil {
		return err
	}
	v.State, v.Ended = StateRetained, m.now().UTC().Truncate(time.Second)
	v, err := m.pool.Backend.Update(ctx, v)
	if err != nil {
		return err
	}
	m.keep(v)
	return nil
}

// keep notes that v has no claim any more, and where it lies.
func (m *Manager) keep(v Volume) {
	m.tally.remove(v.Name)
	_ = m.paths.hold(v) // it was there before
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
	for _, source := range []Name{v.FromSnapshot, v.ClonedFrom, v.SnapshotOf} {
		m.purge.awaken(source)
	}
	if v.SnapshotOf != (Name{}) {
		return nil
	}
	// A crash here loses the id's place in the queue: Compact puts it at the end.
	return m.pool.IDs.Free(v.Export.ID)
}
