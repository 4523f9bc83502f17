package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/berth-storage/berth/internal/export"
)

// Recover reads all records after a start: it reserves their export ids, goes on
// with deletions that were cut off, and returns the exports that the records
// want, for Server.Sync. Records that cannot be used are reported and left as
// they are. Volumes that are still being created wait for the retry of their
// claim, or for Scavenge.
func (m *Manager) Recover(ctx context.Context) ([]export.Export, error) {
	var want []export.Export
	var unfinished []Volume
	for v, err := range m.pool.Backend.List(ctx) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if errors.Is(err, ErrUnknown) {
			return nil, err // to withdraw the exports of all others would be worse
		}
		if err != nil {
			m.pool.Log.Error("a record cannot be read; its volume is left alone and not exported", "err", err)
			m.unreadable++
			continue
		}
		if v.SnapshotOf != (Name{}) {
			if v.State == StateDiscarded {
				unfinished = append(unfinished, v)
			} else {
				m.count(v)
			}
			continue
		}
		if err := m.pool.IDs.Reserve(v.Export.ID); err != nil {
			m.pool.Log.Error("a volume cannot be exported: two records name one export id; remove or correct one of them",
				"volume", v.Name, "err", err)
			m.unusable[v.Name] = err
			_ = m.paths.hold(v) // nor does anybody get its place
			continue
		}
		if v.State == StateDiscarded || v.State == StateArchiving {
			unfinished = append(unfinished, v)
		} else {
			m.count(v)
		}
		if v.Origin != "" {
			m.adopted[v.Name] = v
		}
		if v.State == StateReady {
			if err := m.mount(ctx, v); err != nil {
				m.pool.Log.Error("a volume cannot be exported", "volume", v.Name, "err", err)
				continue
			}
			want = append(want, v.AsExport(m.pool.Clients))
		}
	}
	for _, v := range unfinished {
		m.count(v) // until it is done, it lies where it lies
		// Not exported yet in this run of the server, so there is nothing to withdraw.
		if err := m.finish(ctx, v); err != nil {
			m.pool.Log.Error("a deletion that was cut off cannot be ended yet", "volume", v.Name, "err", err)
			m.unfinished = append(m.unfinished, v.Name)
		}
	}
	m.pool.Among.join(m)
	return want, nil
}

// finishForever ends the deletions that Recover could not end: their PersistentVolumes may be
// gone, so that nobody else asks for it.
func (m *Manager) finishForever(ctx context.Context) {
	for pause := purgeRetryMin; len(m.unfinished) > 0; pause = min(2*pause, purgeRetryMax) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		m.unfinished = slices.DeleteFunc(m.unfinished, func(n Name) bool {
			err := m.finishLater(ctx, n)
			if err != nil && ctx.Err() == nil {
				m.pool.Log.Warn("a deletion that was cut off cannot be ended yet", "volume", n, "err", err)
			}
			return err == nil
		})
	}
}

func (m *Manager) finishLater(ctx context.Context, n Name) error {
	unlock, err := m.names.lock(ctx, n)
	if err != nil {
		return err
	}
	defer unlock()
	v, found, err := m.findUndeleted(ctx, n)
	if !found || v.State != StateDiscarded && v.State != StateArchiving {
		return err
	}
	return m.finish(ctx, v)
}

// finish ends a deletion that was cut off.
func (m *Manager) finish(ctx context.Context, v Volume) error {
	if v.State == StateArchiving {
		if m.archive == nil {
			return m.noArchives(v)
		}
		return m.moveAside(ctx, v)
	}
	return m.discardWithdrawn(ctx, v)
}

// Wanted says whether anybody may still want a volume that was never published:
// its claim exists and is not bound to something else, or a PersistentVolume of
// it exists; of a snapshot, that a VolumeSnapshot or its content asks for it. It must ask the source, not a cache, and give an error if that
// cannot be reached.
type Wanted func(ctx context.Context, v Volume) (bool, error)

// Scavenge discards volumes that a crash left behind: of this cluster, at least
// grace old, never published, not to be retained, and not wanted. Everything
// else without a claim is somebody's data, and so is what lay in a volume's directory
// before it: that goes back to where it was. It returns how many volumes it ended.
func (m *Manager) Scavenge(ctx context.Context, cluster string, grace time.Duration, wanted Wanted) (int, error) {
	discarded := 0
	var failed error
	for v, err := range m.pool.Backend.List(ctx) {
		if ctx.Err() != nil {
			return discarded, context.Cause(ctx)
		}
		if err != nil || !m.scavengeable(v, cluster, grace) {
			continue // Recover reports records that cannot be read
		}
		gone, err := m.scavenge(ctx, v.Name, cluster, grace, wanted)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("volume %s: %w", v.Name, err))
		}
		if gone {
			discarded++
		}
	}
	return discarded, failed
}

func (m *Manager) scavengeable(v Volume, cluster string, grace time.Duration) bool {
	return cluster != "" && v.Cluster == cluster && !v.Published && v.Reclaim != ReclaimRetain &&
		(v.State == StateCreating || v.State == StateReady || v.State == StateSnapshot) && m.now().Sub(v.Created) >= grace
}

func (m *Manager) scavenge(ctx context.Context, n Name, cluster string, grace time.Duration, wanted Wanted) (bool, error) {
	if m.work.has(n) {
		v, err := m.get(ctx, n)
		if err != nil {
			return false, err
		}
		if keep, err := wanted(ctx, v); keep || err != nil {
			return false, err
		}
		defer m.work.cancel(n)()
	}
	unlock, err := m.names.lock(ctx, n)
	if err != nil {
		return false, err
	}
	defer unlock()
	// Read again under the lock: it may have been published meanwhile.
	v, err := m.get(ctx, n)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil || !m.scavengeable(v, cluster, grace) {
		return false, err
	}
	if keep, err := wanted(ctx, v); keep || err != nil {
		return false, err
	}
	m.pool.Log.Info("discarding a volume that was made but never handed out, its claim is gone", "volume", n, "claim", v.Claim)
	switch {
	case v.RestoredFrom != Name{}: // whose content is nobody else's to throw away
		err = m.putAway(ctx, v)
	case v.TookOver:
		err = m.release(ctx, v)
	default:
		v.OnDelete = OnDeleteDelete // nobody ever wrote to it
		err = m.end(ctx, v)
	}
	return err == nil, err
}
