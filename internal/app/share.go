package app

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/backend/subdir"
	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/export/fixed"
	"github.com/berth-storage/berth/internal/volume"
)

const retryRecover = 5 * time.Second

// sharePool is a pool on a share. Nobody waits for that: it is opened in the background,
// and its claims are served as long as it is open.
type sharePool struct {
	config config.Pool
	front  *front // which its claims come to
}

// serveShare keeps the share of p open until ctx ends, and serves its volumes.
func (a *app) serveShare(ctx context.Context, p *sharePool) {
	o := a.shareOptions(p.config)
	if !a.awaitCluster(ctx, p, &o.Dir) {
		return
	}
	o.Changed = func(why error) { a.shareChanged(p, why) }
	if a.config.Standby {
		o.Dir.Wait = func(h dir.Holder) {
			a.shareChanged(p, fmt.Errorf("standing by: %s has the pool open", h))
		}
	}
	subdir.NewShare(o).Run(ctx, func(ctx context.Context, b *subdir.Backend) { a.serveOpenShare(ctx, p, b) })
}

// awaitCluster waits for the API server to say which cluster this is. It is false if ctx
// ended before.
func (a *app) awaitCluster(ctx context.Context, p *sharePool, o *dir.Options) bool {
	for {
		err := a.setCluster(ctx, p.config, o)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return false
		}
		a.shareChanged(p, fmt.Errorf("waiting for the API server, to know which cluster this is: %w", err))
		select {
		case <-ctx.Done():
			return false
		case <-time.After(retryRecover):
		}
	}
	if o.Cluster == dir.Unnamed {
		a.log.Warn("volumes on the share are recorded without the cluster that they are of, and only one cluster can do so: "+
			"have Berth read the namespace kube-system (deploy/rbac), or say subdir.cluster", "pool", p.config.Name)
	}
	return true
}

// setCluster has o name the part of the share that is this cluster's.
func (a *app) setCluster(ctx context.Context, c config.Pool, o *dir.Options) error {
	if o.Cluster = c.Subdir.Cluster; o.Cluster != "" {
		return nil
	}
	id, err := a.client.ClusterID(ctx)
	if err != nil {
		return err
	}
	if o.Cluster = id; id == "" {
		o.Cluster = dir.Unnamed
		return nil
	}
	// It may not always have been allowed to know.
	names, err := a.client.PersistentVolumes(ctx)
	o.Ours = func(n volume.Name) bool { return names[n.String()] }
	return err
}

func (a *app) shareOptions(c config.Pool) subdir.Options {
	s := c.Subdir
	return subdir.Options{
		Server: s.Server, Path: s.Path, Root: shareRoot(c), Mount: s.Root == "", MountOptions: s.MountOptions,
		Dir: dir.Options{ArchiveBeside: c.Archives.Beside},
		Log: a.log.With("component", "share", "pool", c.Name),
	}
}

// shareRoot is where the share of a pool is mounted, or Berth mounts it.
func shareRoot(c config.Pool) string {
	if c.Subdir.Root != "" {
		return c.Subdir.Root
	}
	return filepath.Join("/run/berth/shares", c.Name)
}

// shareChanged says whether a share is available: why it is not, nil if it is.
func (a *app) shareChanged(p *sharePool, why error) {
	if why == nil {
		a.log.Info("the share is available", "pool", p.config.Name)
	} else {
		a.log.Warn("the share is not available", "pool", p.config.Name, "why", why)
	}
	a.health.share(p.config.Name, why)
	a.metrics.PoolAvailable(p.config.Name, why == nil)
}

// serveOpenShare serves the volumes of p until ctx ends: by then the share is closed, or
// has to be opened anew.
func (a *app) serveOpenShare(ctx context.Context, p *sharePool, b *subdir.Backend) {
	if b.New() {
		a.log.Warn("made a new, empty pool on the share; if there should be volumes of this cluster in it, it is another share or another cluster",
			"pool", p.config.Name, "identity", b.Identity())
	}
	if !a.adoptShare(ctx, p, b) {
		return
	}
	m := a.recoverShare(ctx, p, b)
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

// recoverShare reads what is on the share; nil if ctx ends before it could.
func (a *app) recoverShare(ctx context.Context, p *sharePool, b *subdir.Backend) *volume.Manager {
	for {
		m := volume.NewManager(volume.Pool{
			Name: p.config.Name, Backend: b, Server: fixed.Server{}, ExportPath: p.config.ExportPath, MaxVolumes: p.config.MaxVolumes,
			Archives: archivePolicy(p.config),
			Log:      a.log.With("component", "volumes", "pool", p.config.Name), Observe: a.metrics.Operation(p.config.Name),
		})
		_, err := m.Recover(ctx)
		if err == nil {
			return m
		}
		if ctx.Err() != nil {
			return nil
		}
		a.log.Warn("cannot read the records on the share yet", "pool", p.config.Name, "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryRecover):
		}
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

func (w away) Delete(context.Context, volume.Name, string) error { return w.err() }

func (w away) MarkPublished(context.Context, volume.Name) error { return w.err() }

func (away) Adopted(volume.Name) (volume.Volume, bool) { return volume.Volume{}, false }

// Room is none, so that other instances that have the pool are asked first.
func (away) Room(context.Context) (volume.Room, error) { return volume.Room{}, nil }

func (away) AskWanted(volume.Wanted) {}

func (away) Scavenge(context.Context, string, time.Duration, volume.Wanted) (int, error) {
	return 0, nil
}
