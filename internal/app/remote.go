package app

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
)

const retryRecover = 5 * time.Second

// remotePool is a pool whose storage is on another host. Nobody waits for that: it is
// opened in the background, and its claims are served as long as it is open.
type remotePool struct {
	config config.Pool
	front  *front // which its claims come to
}

func remote(p config.Pool) bool { return p.Subdir != nil || p.ZFS != nil && p.ZFS.SSH != nil }

// serveRemote keeps the storage of p open until ctx ends, and serves its volumes.
func (a *app) serveRemote(ctx context.Context, p *remotePool) {
	if p.config.Subdir != nil {
		a.serveShare(ctx, p)
	} else {
		a.serveRemoteDatasets(ctx, p)
	}
}

// remoteChanged says whether a pool's storage is available: why it is not, nil if it is.
func (a *app) remoteChanged(p *remotePool, why error) { a.poolChanged(p.config.Name, why) }

func (a *app) poolChanged(pool string, why error) {
	if why == nil {
		a.log.Info("the pool is available", "pool", pool)
	} else {
		a.log.Warn("the pool is not available", "pool", pool, "why", why)
	}
	a.health.remote(pool, why)
	a.metrics.PoolAvailable(pool, why == nil)
}

// serveOpen serves the volumes of p, which lie in b and are exported by server, until ctx
// ends: by then the storage is closed, or has to be opened anew.
func (a *app) serveOpen(ctx context.Context, p *remotePool, b storage, server export.Server, exportPath string) {
	if b.New() {
		a.log.Warn("made a new, empty pool; if there should be volumes of this cluster in it, it is another place or another cluster",
			"pool", p.config.Name, "identity", b.Identity())
	}
	m := a.recoverRemote(ctx, p, b, server, exportPath)
	if m == nil {
		return
	}
	open, err := frontPool(p.config, m, b.Identity())
	if err != nil { // it was tried before
		a.log.Error("the pool is not served", "pool", p.config.Name, "err", err)
		return
	}
	// Its PersistentVolumes stay this instance's when it goes.
	gone := *open
	gone.Volumes = a.away(p.config.Name)
	var workers sync.WaitGroup
	workers.Go(func() { m.Run(ctx) })
	workers.Go(func() { a.serveControl(ctx, p.config.Name, b.Identity(), m) })
	workers.Go(func() { a.measure(ctx, p.config.Name, m) })
	workers.Go(func() { a.measureVolumes(ctx, p.config.Name, m) })
	p.front.set(open)
	<-ctx.Done()
	p.front.set(&gone)
	workers.Wait()
}

// recoverRemote reads what is there, and has it exported; nil if ctx ends before it could.
func (a *app) recoverRemote(ctx context.Context, p *remotePool, b storage, server export.Server, exportPath string) *volume.Manager {
	for {
		m := volume.NewManager(volume.Pool{
			Name: p.config.Name, Backend: b, Server: server, ExportPath: exportPath, MaxVolumes: p.config.MaxVolumes,
			Archives: archivePolicy(p.config), Among: &a.among,
			Log: a.log.With("component", "volumes", "pool", p.config.Name), Observe: a.metrics.Operation(p.config.Name),
		})
		want, err := m.Recover(ctx)
		if err == nil {
			if err := server.Sync(ctx, want); err != nil && ctx.Err() == nil {
				a.log.Error("some volumes are not exported", "pool", p.config.Name, "err", err)
			}
			return m
		}
		if ctx.Err() != nil {
			return nil
		}
		a.log.Warn("cannot read the records of the pool yet", "pool", p.config.Name, "err", err)
		if !pause(ctx, retryRecover) {
			return nil
		}
	}
}

// pause waits; it is false if ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// away stands for the volumes of a pool that is not there, so that its claims wait for it
// and are no other pool's.
func (a *app) away(pool string) away {
	return away{pool, func() error { return a.health.whyAway(pool) }}
}

// away is the kube.Volumes of a pool that is not there.
type away struct {
	pool string
	why  func() error
}

func (w away) err() error {
	return fmt.Errorf("%w: pool %s is not available: %w", volume.ErrBusy, w.pool, w.why())
}

func (w away) Pool() string { return w.pool }

func (w away) Create(context.Context, volume.Spec) (volume.Volume, error) {
	return volume.Volume{}, w.err()
}

func (w away) Grow(context.Context, volume.Name, string, int64) (volume.Volume, error) {
	return volume.Volume{}, w.err()
}

func (w away) Cancel(context.Context, volume.Spec) error { return w.err() }

func (w away) Delete(context.Context, volume.Name, string) error { return w.err() }

func (w away) Snapshot(context.Context, volume.SnapshotSpec) (volume.Volume, error) {
	return volume.Volume{}, w.err()
}

func (w away) DeleteSnapshot(context.Context, volume.Name, string) error { return w.err() }

func (w away) Get(context.Context, volume.Name) (volume.Volume, error) {
	return volume.Volume{}, w.err()
}

func (w away) MarkPublished(context.Context, volume.Name) error { return w.err() }

func (away) Adopted(volume.Name) (volume.Volume, bool) { return volume.Volume{}, false }

// Room is none, so that other instances that have the pool are asked first.
func (away) Room(context.Context) (volume.Room, error) { return volume.Room{}, nil }

func (away) AskWanted(volume.Wanted) {}

func (away) Scavenge(context.Context, string, time.Duration, volume.Wanted) (int, error) {
	return 0, nil
}
