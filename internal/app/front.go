package app

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/kube"
	"github.com/berth-storage/berth/internal/nameformat"
	"github.com/berth-storage/berth/internal/pathpattern"
	"github.com/berth-storage/berth/internal/volume"
)

// front is the front end for one provisioner name. It begins again when pools come or go.
type front struct {
	begin func([]*kube.Pool) frontEnd
	// afterRecovery: some of its pools are exported here, and have to be first.
	afterRecovery bool

	mu      sync.Mutex
	pools   []*kube.Pool
	changed chan struct{} // closed when pools has changed
}

// frontEnd is a kube.FrontEnd.
type frontEnd interface {
	Run(ctx context.Context) error
}

func newFront(begin func([]*kube.Pool) frontEnd) *front {
	return &front{begin: begin, changed: make(chan struct{})}
}

// add adds a pool, before run.
func (f *front) add(p *kube.Pool) { f.pools = append(f.pools, p) }

// set replaces its pool that has the name of p.
func (f *front) set(p *kube.Pool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pools = slices.Clone(f.pools)
	for i := range f.pools {
		if f.pools[i].Volumes.Pool() == p.Volumes.Pool() {
			f.pools[i] = p
		}
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

// now gives the pools as they are, and when that is not so any more. There are none
// before the first of them is there: an instance is known by a pool's identity.
func (f *front) now() (pools []*kube.Pool, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.ContainsFunc(f.pools, func(p *kube.Pool) bool { return p.Instance != "" }) {
		return nil, f.changed
	}
	return f.pools, f.changed
}

// run serves claims until ctx ends.
func (f *front) run(ctx context.Context) error {
	for ctx.Err() == nil {
		pools, changed := f.now()
		if pools == nil {
			select {
			case <-ctx.Done():
			case <-changed:
			}
			continue
		}
		if err := f.serve(ctx, pools, changed); err != nil {
			return err
		}
	}
	return nil
}

// serve serves the claims of pools until these change.
func (f *front) serve(ctx context.Context, pools []*kube.Pool, changed <-chan struct{}) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() {
		select {
		case <-ctx.Done():
		case <-changed:
			cancel()
		}
	})
	err := f.begin(pools).Run(ctx)
	cancel()
	return err
}

// frontPool is a pool as its front end has it. The identity of one that is not there yet
// is "".
func frontPool(c config.Pool, volumes kube.Volumes, identity string) (*kube.Pool, error) {
	d := c.Defaults
	p := &kube.Pool{
		Volumes: volumes, Instance: identity, Squash: export.SquashNone, OnDelete: d.OnDelete,
		Owner:   volume.Owner{UID: d.UID, GID: d.GID, Mode: uint32(d.Mode)},
		Classes: c.Classes, ReclaimPolicy: c.ReclaimPolicy, ZFS: frontZFS(c),
	}
	if d.RootSquash {
		p.Squash = export.SquashRoot
	}
	var err error
	if c.GIDRange != "" {
		if p.GIDs, err = volume.ParseGIDRange(c.GIDRange); err != nil {
			return nil, err
		}
	}
	if c.PVNameFormat != "" {
		format, err := nameformat.Parse(c.PVNameFormat)
		if err != nil {
			return nil, err
		}
		p.PVNames = &format
	}
	if c.Subdir == nil {
		return p, nil
	}
	p.Share = &kube.Share{Server: c.Subdir.Server, Path: c.Subdir.Path, Existing: d.Existing}
	if d.PathPattern != "" {
		pattern, err := pathpattern.Parse(d.PathPattern)
		if err != nil {
			return nil, err
		}
		p.Share.Pattern = &pattern
	}
	return p, nil
}

// frontZFS is what the front end knows of a pool of datasets; nil of others.
func frontZFS(c config.Pool) *kube.ZFS {
	z := c.ZFS
	if z == nil {
		return nil
	}
	f := &kube.ZFS{
		Dataset: z.Dataset, Server: z.Server, Sizing: z.Sizing, Type: kube.VolumeType(z.VolumeType), Node: z.Node,
		Shares: c.Exporter == config.ExporterZFSShare, LocalOnly: c.Exporter == config.ExporterNone, KeepSnapshots: z.KeepSnapshots, WidenAccessModes: z.WidenAccessModes,
		ClaimAnnotations: z.ClaimAnnotations,
	}
	if z.Server != "" {
		f.Hosts = append(f.Hosts, z.Server)
	}
	if z.SSH != nil {
		f.Hosts = append(f.Hosts, z.SSH.Host)
		f.Node = cmp.Or(z.Node, z.SSH.Host) // and not the one that Berth runs on
	}
	return f
}

// frontOptions are those of the front end for a provisioner name.
func (a *app) frontOptions(provisioner string, pools []*kube.Pool) kube.Options {
	return kube.Options{
		Provisioner: provisioner, Pools: pools, Workers: a.config.Kubernetes.Workers,
		FailedRetryThreshold: a.config.Kubernetes.FailedRetryThreshold,
		ScavengeAfter:        time.Duration(a.config.Kubernetes.ScavengeAfter),
		Hostname:             a.config.Server.Hostname, NFSPort: a.config.Ganesha.Port, NFSv3: a.config.Ganesha.NFSv3,
		Log: a.log.With("component", "kubernetes", "provisioner", provisioner), Observe: a.metrics.Step(provisioner),
	}
}
