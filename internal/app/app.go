// Package app puts Berth together: it makes the parts that a configuration asks
// for, runs them, and ends them in order.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/kube"
	"github.com/berth-storage/berth/internal/metrics"
	"github.com/berth-storage/berth/internal/volume"
)

// Version is Berth's version; the build sets it.
var Version = "dev"

// Serve runs Berth as c says until ctx ends, and logs to out.
func Serve(ctx context.Context, c config.Config, out io.Writer) (err error) {
	a := &app{config: c, log: newLogger(c.Log, out), metrics: metrics.New(Version)}
	defer func() { err = errors.Join(err, a.close()) }()
	if err := a.listen(); err != nil {
		return err
	}
	if err := a.setup(ctx); err != nil {
		if ctx.Err() != nil { // asked to stop, for instance while standing by
			return nil
		}
		return err
	}
	a.log.Info("berth", "version", Version, "pools", len(a.config.Pools))
	return a.run(ctx)
}

// app is a Berth that is being put together.
type app struct {
	config  config.Config
	log     *slog.Logger
	metrics *metrics.Metrics
	client  kube.Client

	pools     []*pool
	remotes   []*remotePool
	exporters []*exporter
	among     volume.Pools // all of them
	fronts    []*front
	health    health
	http      *http.Server // nil if there is none
}

// storage is the open backend of a pool.
type storage interface {
	volume.Backend
	Identity() string // of the pool, wherever it is
	New() bool        // it was made just now
}

// localStorage is one on this host, which is open as long as the process runs.
type localStorage interface {
	storage
	Close() error
}

// pool is an open pool on this host, and its manager.
type pool struct {
	config  config.Pool
	root    string // where it lies
	backend localStorage
	dir     *dir.Backend  // the backend, if it is of directories
	shares  export.Server // which the backend brings with it, if it does
	gate    *gate         // of the commands of a pool of datasets
	// Of its NFS server, which other pools may share.
	exporter *exporter
	clients  export.Clients
	manager  *volume.Manager
	front    *kube.Pool // as its front end has it
}

// setup makes all parts. Whatever is wrong with the configuration or the host is
// found here, before anything is served.
func (a *app) setup(ctx context.Context) error {
	var err error
	if a.client, err = newClient(a.config.Kubernetes); err != nil {
		return err
	}
	for _, p := range a.config.Pools {
		if remote(p) { // opened when it can be
			a.remotes = append(a.remotes, &remotePool{config: p})
			continue
		}
		opened, err := a.openPool(ctx, p)
		if err != nil {
			return fmt.Errorf("pool %s: %w", p.Name, err)
		}
		a.pools = append(a.pools, opened)
	}
	if err := a.setupExporters(ctx); err != nil {
		return err
	}
	if err := a.listen(); err != nil { // again, for one that stood by and found its port taken
		return err
	}
	return a.setupFrontEnds()
}

func (a *app) openPool(ctx context.Context, c config.Pool) (*pool, error) {
	open := a.openDir
	if c.ZFS != nil {
		open = a.openDatasets
	}
	p, err := open(ctx, c)
	if err == nil && p.backend.New() {
		a.log.Warn("made a new, empty pool; if there should be volumes in it, its file system is not mounted",
			"pool", c.Name, "root", p.root, "identity", p.backend.Identity())
	}
	return p, err
}

func (a *app) openDir(ctx context.Context, c config.Pool) (*pool, error) {
	if err := dir.CheckFileHandles(c.Dir.Root); err != nil {
		return nil, err
	}
	o := dir.Options{
		Quota:        dir.Quota(c.Dir.Quota),
		MountVolumes: c.Exporter != config.ExporterKernel, ArchiveBeside: c.Archives.Beside,
	}
	if a.config.Standby {
		o.Wait = func(h dir.Holder) { a.standBy(c.Name, c.Dir.Root, h.String()) }
	}
	b, err := dir.Open(ctx, c.Dir.Root, o)
	if err != nil {
		return nil, err
	}
	if why := b.Advisory(); why != nil {
		a.log.Info("sizes of new volumes are advisory: nothing keeps them to it", "pool", c.Name, "root", c.Dir.Root, "why", why)
	}
	return &pool{config: c, root: c.Dir.Root, backend: b, dir: b}, nil
}

// standBy says that another process has a pool open, for whose end this one waits.
func (a *app) standBy(pool, root, holder string) {
	a.health.waiting("standing by: another process has pool " + pool + " open")
	a.log.Info("standing by: another process has the pool open", "pool", pool, "root", root, "holder", holder)
}

// setupFrontEnds makes one front end for each provisioner name, with all its pools. Those
// on other hosts are away at first.
func (a *app) setupFrontEnds() error {
	library, collectors := kube.LibraryMetrics()
	if err := a.metrics.Register(collectors...); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	byName := map[string]*front{}
	of := func(provisioner string) *front {
		f := byName[provisioner]
		if f == nil {
			f = newFront(func(pools []*kube.Pool) frontEnd {
				o := a.frontOptions(provisioner, pools)
				o.Metrics = library
				return kube.NewFrontEnd(a.client, o)
			})
			byName[provisioner] = f
			a.fronts = append(a.fronts, f)
		}
		return f
	}
	// An instance is known by its first pool: by one that is always there, if it has any.
	for _, p := range a.pools {
		var err error
		if p.front, err = frontPool(p.config, p.manager, p.backend.Identity()); err != nil {
			return fmt.Errorf("pool %s: %w", p.config.Name, err)
		}
		f := of(p.config.Provisioner)
		f.add(p.front)
		f.afterRecovery = true
	}
	for _, p := range a.remotes {
		p.front = of(p.config.Provisioner)
		pool, err := frontPool(p.config, a.away(p.config.Name), "")
		if err != nil {
			return fmt.Errorf("pool %s: %w", p.config.Name, err)
		}
		p.front.add(pool)
	}
	return nil
}

func (a *app) close() error {
	var failed []error
	for _, p := range a.pools {
		failed = append(failed, p.backend.Close())
	}
	if a.http != nil {
		failed = append(failed, a.http.Close())
	}
	return errors.Join(failed...)
}

// run serves until ctx ends or a part fails for good.
func (a *app) run(ctx context.Context) error {
	// The parts end in this order: what works on volumes, then the NFS server.
	working, stopWorking := context.WithCancelCause(ctx)
	defer stopWorking(nil)
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()

	var servers, workers sync.WaitGroup
	for _, e := range a.exporters {
		servers.Go(func() {
			if err := e.server.Run(serving); err != nil {
				stopWorking(err)
			}
		})
	}
	a.work(working, &workers, stopWorking)
	<-working.Done()
	a.log.Info("stopping", "cause", context.Cause(working))
	workers.Wait()
	stopServing()
	servers.Wait()
	if cause := context.Cause(working); ctx.Err() == nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// work recovers the pools, has their volumes exported and then serves claims.
func (a *app) work(ctx context.Context, workers *sync.WaitGroup, fail func(error)) {
	serveClaims := func(afterRecovery bool) {
		for _, f := range a.fronts {
			if f.afterRecovery != afterRecovery {
				continue
			}
			workers.Go(func() {
				if err := f.run(ctx); err != nil {
					fail(err)
				}
			})
		}
	}
	for _, p := range a.remotes {
		workers.Go(func() { a.serveRemote(ctx, p) })
	}
	serveClaims(false)
	workers.Go(func() {
		if err := a.recover(ctx); err != nil {
			fail(err)
			return
		}
		for _, p := range a.pools {
			a.metrics.PoolAvailable(p.config.Name, true)
			if p.gate != nil {
				workers.Go(func() { a.watchDatasets(ctx, p) })
			}
			workers.Go(func() { p.manager.Run(ctx) })
			workers.Go(func() { a.serveControl(ctx, p.config.Name, p.backend.Identity(), p.manager) })
			workers.Go(func() { a.measure(ctx, p.config.Name, p.manager) })
			workers.Go(func() { a.measureVolumes(ctx, p.config.Name, p.manager) })
		}
		serveClaims(true)
	})
}

// recover brings the NFS servers to what the records want.
func (a *app) recover(ctx context.Context) error {
	if err := a.adopt(ctx); err != nil {
		return err
	}
	for _, e := range a.exporters {
		if err := a.recoverExporter(ctx, e); err != nil {
			return err
		}
	}
	return nil
}
