package app

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/export/ganesha"
	"github.com/berth-storage/berth/internal/export/kernel"
	"github.com/berth-storage/berth/internal/static"
	"github.com/berth-storage/berth/internal/volume"
)

// server is an NFS server, run by Berth or by the host.
type server interface {
	export.Server
	// Run keeps the server as it is wanted until ctx ends.
	Run(ctx context.Context) error
	// Serving says whether clients are served what is wanted.
	Serving() bool
}

// still is a server that needs nobody to keep it as it is.
type still struct{ export.Server }

// Run implements server.
func (still) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Serving implements server.
func (still) Serving() bool { return true }

// exporter is an NFS server with the pools that it exports.
type exporter struct {
	name   string
	server server
	ids    *export.IDs // of all its pools
	pools  []*pool
}

// setupExporters makes the NFS servers, and for each pool the manager that exports
// by one. What a server keeps lies in a pool, so that it is there wherever the
// volumes are.
func (a *app) setupExporters(ctx context.Context) error {
	var byGanesha []*pool
	for _, p := range a.pools {
		var err error
		switch p.config.Exporter {
		case config.ExporterKernel:
			err = a.setupKernel(ctx, p)
		case config.ExporterZFSShare, config.ExporterNone:
			err = a.addExporter(&exporter{name: p.config.Exporter + ", pool " + p.config.Name, server: still{p.shares}, pools: []*pool{p}})
		default:
			byGanesha = append(byGanesha, p)
		}
		if err != nil {
			return fmt.Errorf("pool %s: %w", p.config.Name, err)
		}
	}
	if len(byGanesha) > 0 {
		if err := a.setupGanesha(byGanesha); err != nil {
			return err
		}
	}
	a.health.expects(a.exporters)
	return nil
}

// setupKernel has a pool exported by the host's own NFS server. Each pool has a file
// of exports, and export ids, of its own: to that server an id means nothing.
func (a *app) setupKernel(ctx context.Context, p *pool) error {
	root := p.root
	if err := kernel.CheckDir(root); err != nil {
		return fmt.Errorf("%s cannot be exported under its name: %w", root, err)
	}
	s, err := kernel.New(ctx, kernel.Options{
		Instance: p.backend.Identity(), Address: a.config.Kernel.Address,
		Log: a.log.With("component", "kernel", "pool", p.config.Name),
	})
	if err != nil {
		return err
	}
	ids, err := export.OpenIDs(filepath.Join(root, dir.Private, "kernel", "export-ids"))
	if err != nil {
		return err
	}
	return a.addExporter(&exporter{name: "kernel, pool " + p.config.Name, server: s, ids: ids, pools: []*pool{p}})
}

// setupGanesha has pools exported by an NFS-Ganesha.
func (a *app) setupGanesha(pools []*pool) error {
	g := a.config.Ganesha
	first := pools[0]
	if g.StateDir == "" {
		g.StateDir = filepath.Join(first.root, dir.Private, "ganesha")
	}
	ids, err := export.OpenIDs(filepath.Join(g.StateDir, "export-ids"))
	if err != nil {
		return err
	}
	log := a.log.With("component", "ganesha")
	var s server
	if g.External {
		s, err = ganesha.NewExternal(ganesha.ExternalOptions{
			Address: g.Address(), StateDir: g.StateDir, Log: log, Taken: ids.Avoid,
		})
	} else {
		deviceFSIDs, deviceErr := a.deviceFSIDs()
		if deviceErr != nil {
			return deviceErr
		}
		s, err = ganesha.New(ganesha.Options{
			Listen: g.Listen, Port: g.Port, NFSv3: g.NFSv3, GracePeriod: time.Duration(g.GracePeriod), DeviceFSIDs: deviceFSIDs,
			// A folder of its own in it, because that one is emptied.
			StateDir: g.StateDir, RunDir: filepath.Join(runDir(a.config), shortName(first.backend.Identity())),
			Log: log, Restarted: a.metrics.ServerRestarted,
		})
	}
	if err != nil {
		return err
	}
	return a.addExporter(&exporter{name: "ganesha", server: s, ids: ids, pools: pools})
}

// addExporter makes the managers of its pools.
func (a *app) addExporter(e *exporter) error {
	for _, p := range e.pools {
		var err error
		if p.clients, err = export.ParseClients(p.config.Clients); err != nil {
			return fmt.Errorf("pool %s: %w", p.config.Name, err)
		}
		p.exporter = e
		p.manager = volume.NewManager(volume.Pool{
			Name: p.config.Name, Backend: p.backend, Server: e.server, IDs: e.ids, ExportPath: p.exportPath(), Clients: p.clients,
			MaxVolumes: p.config.MaxVolumes, Archives: archivePolicy(p.config), Among: &a.among,
			Log: a.log.With("component", "volumes", "pool", p.config.Name), Observe: a.metrics.Operation(p.config.Name),
		})
	}
	a.exporters = append(a.exporters, e)
	return nil
}

// exportPath is below which clients mount volumes: where these lie, if nothing else is said.
func (p *pool) exportPath() string { return cmp.Or(p.config.ExportPath, p.root) }

func archivePolicy(c config.Pool) volume.ArchivePolicy {
	return volume.ArchivePolicy{MaxAge: time.Duration(c.Archives.MaxAge), MaxBytes: int64(c.Archives.MaxSize)}
}

// recoverExporter brings an NFS server to what the records of its pools want.
func (a *app) recoverExporter(ctx context.Context, e *exporter) error {
	var want []export.Export
	books := map[*pool]*static.Book{}
	for _, p := range e.pools {
		exports, err := p.manager.Recover(ctx)
		if err != nil {
			return fmt.Errorf("pool %s: %w", p.config.Name, err)
		}
		want = append(want, exports...)
		if p.dir != nil {
			books[p] = a.openBook(p, e.ids)
		}
	}
	if err := e.ids.Compact(); err != nil {
		// A full disk, most likely. Whoever can make room needs NFS for that.
		a.log.Error("new volumes cannot be made", "err", err)
	}
	for _, p := range e.pools {
		want = append(want, a.exportStatic(p, books[p])...)
	}
	a.log.Info("exporting volumes", "server", e.name, "exports", len(want))
	if s, ours := e.server.(ownServer); ours {
		a.health.started(s, len(want))
	}
	if err := e.server.Sync(ctx, want); err != nil && ctx.Err() == nil {
		// The others are served; each of these is told of by the server.
		a.log.Error("some volumes are not exported", "err", err)
	}
	return nil
}
