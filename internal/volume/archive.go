package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"
)

// expireEvery is how often archives are compared with the pool's policy.
const expireEvery = time.Hour

// putAway archives v. It needs the lock of v's name.
func (m *Manager) putAway(ctx context.Context, v Volume) error {
	if m.archive == nil {
		return m.noArchives(v)
	}
	if err := m.alone(v); err != nil {
		return err
	}
	if err := m.withdraw(ctx, v); err != nil {
		return err
	}
	return m.moveAside(ctx, v)
}

func (m *Manager) noArchives(v Volume) error {
	return fmt.Errorf("%w: volume %s is to be archived, and pool %s keeps no archives", ErrUnsupported, v.Name, m.pool.Name)
}

// moveAside archives v, which is exported no more.
func (m *Manager) moveAside(ctx context.Context, v Volume) error {
	// A crash in the middle of this leaves the record archiving: Recover ends it.
	archived, err := m.archive.Archive(ctx, v.Name, func(p RelPath) error { return m.paths.add(v, p) })
	switch {
	case errors.Is(err, ErrNotFound):
		m.pool.Log.Warn("a volume that is to be archived has no directory, so only its record is removed", "volume", v.Name, "path", v.Path)
		return m.discardWithdrawn(ctx, v)
	case err != nil:
		m.paths.closed(v)
		return err // what was taken for it stays taken: it may be there
	case archived.State != StateArchived: // given back to what it came from
		m.forget(v)
		return m.pool.IDs.Free(v.Export.ID)
	}
	m.keep(archived)
	return nil
}

// Archives gives the volumes that are kept without a claim: archived or retained.
func (m *Manager) Archives(ctx context.Context) iter.Seq2[Volume, error] {
	return func(yield func(Volume, error) bool) {
		for v, err := range m.pool.Backend.List(ctx) {
			if (err != nil || v.State == StateArchived || v.State == StateRetained) && !yield(v, err) {
				return
			}
		}
	}
}

// DeleteArchive removes what is kept of a volume, archived or retained; its bytes are
// freed in the background. ErrConflict if the volume is in use. The cluster is that of
// Delete. A volume without a record is gone already, which is success.
func (m *Manager) DeleteArchive(ctx context.Context, n Name, cluster string) (err error) {
	defer m.observe("delete-archive", &err)()
	if m.purge.has(n) {
		return nil
	}
	return m.deleteArchive(ctx, n, func(v Volume) error {
		if v.Ended.IsZero() {
			return fmt.Errorf("%w: volume %s is %s and no archive: delete its claim", ErrConflict, n, v.State)
		}
		return v.checkCluster(cluster)
	})
}

// deleteArchive removes what is kept of n if check lets it.
func (m *Manager) deleteArchive(ctx context.Context, n Name, check func(Volume) error) error {
	unlock, err := m.names.lock(ctx, n)
	if err != nil {
		return err
	}
	defer unlock()
	// Nor may it be restored meanwhile.
	unlockHandover, err := m.handover.lock(ctx, struct{}{})
	if err != nil {
		return err
	}
	defer unlockHandover()
	v, found, err := m.findUndeleted(ctx, n)
	if !found {
		return err
	}
	if err := check(v); err != nil {
		return err
	}
	if v.State == StateRetained && m.isShared(v) {
		return m.release(ctx, v)
	}
	return m.discard(ctx, v)
}

func (m *Manager) expireForever(ctx context.Context) {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		if n, err := m.ExpireArchives(ctx); ctx.Err() == nil && (n > 0 || err != nil) {
			m.pool.Log.Info("removed archives that the pool's policy does not keep", "archives", n, "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// ExpireArchives removes the archives that the pool's policy does not keep, and
// returns how many. Retained volumes are no archives. One whose size cannot be told
// counts as empty.
func (m *Manager) ExpireArchives(ctx context.Context) (expired int, err error) {
	if m.archive == nil {
		return 0, nil
	}
	var kept []Volume
	for v, listErr := range m.pool.Backend.List(ctx) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if listErr == nil && v.State == StateArchived { // Recover reports the others
			kept = append(kept, v)
		}
	}
	slices.SortFunc(kept, func(a, b Volume) int {
		return cmp.Or(b.Ended.Compare(a.Ended), cmp.Compare(a.Name.s, b.Name.s))
	})
	policy, total := m.pool.Archives, int64(0)
	for _, v := range kept { // the latest first
		old := policy.MaxAge > 0 && m.now().Sub(v.Ended) > policy.MaxAge
		if !old && policy.MaxBytes > 0 {
			bytes, measureErr := m.archiveBytes(ctx, v)
			err = errors.Join(err, measureErr)
			total += bytes
		}
		if !old && (policy.MaxBytes == 0 || total <= policy.MaxBytes) {
			continue
		}
		deleteErr := m.deleteArchive(ctx, v.Name, func(now Volume) error {
			if now.State != StateArchived || !now.Ended.Equal(v.Ended) {
				return fmt.Errorf("%w: volume %s is no archive any more", ErrConflict, v.Name)
			}
			return nil
		})
		if deleteErr == nil {
			expired++
		} else if !errors.Is(deleteErr, ErrConflict) {
			err = errors.Join(err, deleteErr)
		}
		if ctx.Err() != nil {
			return expired, context.Cause(ctx)
		}
	}
	return expired, err
}

// archiveBytes gives what an archive takes up. Nothing changes it, so it is
// counted once, unless something else counts it always.
func (m *Manager) archiveBytes(ctx context.Context, v Volume) (int64, error) {
	if v.ArchiveBytes > 0 {
		return v.ArchiveBytes, nil
	}
	if m.usage != nil {
		if u, err := m.usage.Usage(ctx, v); err == nil && u.Bytes > 0 {
			return toInt64(u.Bytes), nil
		}
	}
	bytes, err := m.archive.Measure(ctx, v)
	if err != nil {
		return 0, fmt.Errorf("measuring the archive of volume %s: %w", v.Name, err)
	}
	unlock, err := m.names.lock(ctx, v.Name)
	if err != nil {
		return bytes, err
	}
	defer unlock()
	unlockHandover, err := m.handover.lock(ctx, struct{}{})
	if err != nil {
		return bytes, err
	}
	defer unlockHandover()
	v.ArchiveBytes = bytes
	// If it has changed since, it is an archive no more.
	if _, err := m.pool.Backend.Update(ctx, v); err != nil && !errors.Is(err, ErrConflict) && !errors.Is(err, ErrNotFound) {
		return bytes, err
	}
	return bytes, nil
}
