package volume

import (
	"context"
	"fmt"
)

// Grow raises the volume's size to bytes, and returns it with what it has then: that
// may be more, and what enforces it is in Limit. A volume that is as big already stays as
// it is; none is ever made smaller. The cluster is that of Delete. ErrConflict if the
// volume is not ready, ErrNoSpace if the pool has no room for the difference.
func (m *Manager) Grow(ctx context.Context, n Name, cluster string, bytes int64) (v Volume, err error) {
	defer m.observe("grow", &err)()
	unlock, err := m.names.lock(ctx, n)
	if err != nil {
		return Volume{}, err
	}
	defer unlock()
	if v, err = m.get(ctx, n); err != nil {
		return Volume{}, err
	}
	if err := v.checkCluster(cluster); err != nil {
		return Volume{}, err
	}
	if v.State != StateReady {
		return Volume{}, fmt.Errorf("%w: volume %s is %s, only one that is ready can grow", ErrConflict, n, v.State)
	}
	if v.Size >= bytes {
		return v, nil
	}
	if m.meter != nil {
		room, err := m.meter.Capacity(ctx)
		if err != nil {
			return Volume{}, fmt.Errorf("measuring pool %s: %w", m.pool.Name, err)
		}
		if uint64(bytes-v.Size) > room.Available {
			return Volume{}, fmt.Errorf("%w: volume %s needs %d bytes more, pool %s has %d available",
				ErrNoSpace, n, bytes-v.Size, m.pool.Name, room.Available)
		}
	}
	v.Size = bytes
	// A crash after this leaves a record that says so: the next call finds it.
	if v, err = m.pool.Backend.Update(ctx, v); err != nil {
		return Volume{}, err
	}
	m.tally.add(n, v.Size, 0)
	return v, nil
}

// checkCluster says whether a front end of cluster may change v.
func (v Volume) checkCluster(cluster string) error {
	if v.Cluster != "" && v.Cluster != cluster {
		return fmt.Errorf("%w: volume %s belongs to cluster %s, not to %s", ErrForeign, v.Name, v.Cluster, cluster)
	}
	return nil
}
