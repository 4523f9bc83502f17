package app

import (
	"context"
	"errors"
	"time"

	"github.com/berth-storage/berth/internal/metrics"
	"github.com/berth-storage/berth/internal/volume"
)

const (
	measureEvery = 30 * time.Second
	// Reading the records of ten thousand volumes takes a second or so; measuring takes
	// a hundredth of the time at the most.
	measureVolumesEvery = time.Minute
	measureVolumesPause = 100 // times what measuring took
)

func (a *app) measure(ctx context.Context, pool string, m *volume.Manager) {
	for {
		a.metrics.PoolTombstones(pool, m.Tombstones())
		room, err := m.Capacity(ctx)
		if err == nil {
			a.metrics.PoolCapacity(pool, room.Total, room.Available)
		} else if ctx.Err() == nil && !errors.Is(err, volume.ErrBusy) { // a share that is away is told of once
			a.log.Warn("cannot measure a pool", "pool", pool, "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(measureEvery):
		}
	}
}

// measureVolumes keeps the metrics of each volume up to date, so that who reads them
// need not wait for a disk.
func (a *app) measureVolumes(ctx context.Context, pool string, m *volume.Manager) {
	for {
		start := time.Now()
		if all, err := volumesOf(ctx, m); err == nil {
			a.metrics.SetVolumes(pool, all)
		} else if ctx.Err() == nil && !errors.Is(err, volume.ErrBusy) {
			a.log.Warn("cannot measure the volumes of a pool", "pool", pool, "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(measureVolumesEvery, measureVolumesPause*time.Since(start))):
		}
	}
}

// volumesOf gives what metrics tell of each volume that is not being deleted. Of one
// that cannot be measured now the rest is told.
func volumesOf(ctx context.Context, m *volume.Manager) ([]metrics.Volume, error) {
	var all []metrics.Volume
	for r, err := range m.Reports(ctx) {
		if ctx.Err() != nil || errors.Is(err, volume.ErrUnknown) {
			return nil, errors.Join(err, ctx.Err())
		}
		if r.Name == (volume.Name{}) || r.State == volume.StateDiscarded || r.SnapshotOf != (volume.Name{}) {
			continue // a record that cannot be read was told of at the start
		}
		v := metrics.Volume{Name: r.Name.String(), Namespace: r.Claim.Namespace, Claim: r.Claim.Name, Size: r.Size}
		if r.Usage != nil {
			v.Counted, v.Used, v.Inodes = true, r.Usage.Bytes, r.Usage.Inodes
		}
		all = append(all, v)
	}
	return all, nil
}
