package app

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/berth-storage/berth/internal/adopt"
	"github.com/berth-storage/berth/internal/backend/zfs"
	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/volume"
)

// adoptDatasets takes over the volumes that another program made below the dataset of a
// pool on this host, where that is configured and was not done yet. It waits for the API server.
func (a *app) adoptDatasets(ctx context.Context, c config.Pool, b *zfs.Backend) error {
	for c.Adopt != "" {
		err := a.adoptDatasetsOnce(ctx, c, b)
		if _, away := errors.AsType[*clusterError](err); !away || ctx.Err() != nil {
			return err
		}
		a.log.Warn("waiting for the API server to adopt volumes", "component", "adoption", "pool", c.Name, "err", err)
		if !pause(ctx, retryAdoption) {
			return context.Cause(ctx)
		}
	}
	return nil
}

func (a *app) adoptDatasetsOnce(ctx context.Context, c config.Pool, b *zfs.Backend) error {
	if _, err := b.Adoption(ctx); !errors.Is(err, volume.ErrNotFound) {
		return err // or it is done
	}
	k, err := a.adoptableDatasets(ctx, c, c.Adopt)
	if err != nil {
		return err
	}
	report, err := a.runDatasets(ctx, c, k, b)
	if err == nil {
		logReport(a.log.With("component", "adoption", "pool", c.Name), k.from.Program(), nil, report)
	}
	return err
}

// adoptableDatasets asks the cluster for PersistentVolumes that program made.
func (a *app) adoptableDatasets(ctx context.Context, c config.Pool, program string) (k candidates, err error) {
	var others []adopt.PV
	if program == config.AdoptPVManager {
		k.pvs, others, err = a.client.AdoptableBy(ctx, adopt.AnnPVManager, adopt.PVManagerProvisioner)
	} else {
		k.pvs, others, err = a.client.Adoptable(ctx, c.Provisioner)
	}
	k.options.Progress = a.tellProgress(c)
	if err == nil {
		k.options.Cluster, err = a.client.ClusterID(ctx)
	}
	if err != nil {
		return k, &clusterError{err}
	}
	from := adopt.Datasets{
		Of: program, Parent: c.ZFS.Dataset, Provisioner: c.Provisioner, KeepSnapshots: c.ZFS.KeepSnapshots, Others: others,
		Names: []string{c.ZFS.Server, c.ZFS.Node}, Reclaim: volume.ReclaimDelete,
	}
	if c.ReclaimPolicy == "Retain" {
		from.Reclaim = volume.ReclaimRetain
	}
	if c.ZFS.SSH != nil {
		from.Names = append(from.Names, c.ZFS.SSH.Host)
	} else if host, err := os.Hostname(); err == nil {
		from.Names = append(from.Names, a.config.Server.Hostname, host)
	}
	k.from = from
	return k, nil
}

// runDatasets adopts them once, and notes that it is done. A crash before that has the
// next start adopt again, which finds what has a record already.
func (a *app) runDatasets(ctx context.Context, c config.Pool, k candidates, b *zfs.Backend) (adopt.Report, error) {
	report, err := adopt.Run(ctx, b, k.from, k.pvs, k.options)
	if err != nil {
		return report, err
	}
	if k.from.Program() == config.AdoptPVManager {
		reclaim := map[string]volume.Reclaim{}
		for _, v := range slices.Concat(report.Adopt, report.Already) {
			reclaim[v.Name.String()] = v.Reclaim
		}
		if err := a.client.TakeCharge(ctx, c.Provisioner, k.pvs, reclaim); err != nil {
			return report, &clusterError{err}
		}
	}
	return report, b.SetAdoption(ctx, zfs.Adoption{
		From: k.from.Program(), Finished: time.Now().UTC().Truncate(time.Second),
		Adopted: len(report.Adopt) + len(report.Already), Left: len(report.Left),
	})
}

// adoptFromDatasets is adoptFromRoot for volumes that are datasets, of program.
func (a *app) adoptFromDatasets(ctx context.Context, c config.Pool, program string, dryRun bool) (report adopt.Report, err error) {
	k, err := a.adoptableDatasets(ctx, c, program)
	if err != nil {
		return report, err
	}
	host, done, err := runner(c.ZFS)
	if err != nil {
		return report, err
	}
	defer done()
	o := datasetOptions(c.ZFS, host)
	o.Log = a.log
	if dryRun {
		view, err := zfs.OpenView(ctx, o)
		if err != nil {
			return report, err
		}
		report, err = adopt.Plan(ctx, view, k.from, k.pvs, k.options)
		return report, errors.Join(err, view.Close())
	}
	b, err := zfs.Open(ctx, o)
	if err != nil {
		return report, err
	}
	report, err = a.runDatasets(ctx, c, k, b)
	return report, errors.Join(err, b.Close())
}
