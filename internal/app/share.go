package app

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/backend/subdir"
	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/export/fixed"
	"github.com/berth-storage/berth/internal/volume"
)

// serveShare keeps the share of p open until ctx ends, and serves its volumes.
func (a *app) serveShare(ctx context.Context, p *remotePool) {
	o := a.shareOptions(p.config)
	if !a.awaitCluster(ctx, p, &o.Dir) {
		return
	}
	o.Changed = func(why error) { a.remoteChanged(p, why) }
	if a.config.Standby {
		o.Dir.Wait = func(h dir.Holder) {
			a.remoteChanged(p, fmt.Errorf("standing by: %s has the pool open", h))
		}
	}
	subdir.NewShare(o).Run(ctx, func(ctx context.Context, b *subdir.Backend) {
		if a.adoptRemote(ctx, p, func() error { return a.adoptShareOnce(ctx, p, b) }) {
			a.serveOpen(ctx, p, b, fixed.Server{}, p.config.ExportPath)
		}
	})
}

// awaitCluster waits for the API server to say which cluster this is. It is false if ctx
// ended before.
func (a *app) awaitCluster(ctx context.Context, p *remotePool, o *dir.Options) bool {
	for {
		err := a.setCluster(ctx, p.config, o)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return false
		}
		a.remoteChanged(p, fmt.Errorf("waiting for the API server, to know which cluster this is: %w", err))
		if !pause(ctx, retryRecover) {
			return false
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
