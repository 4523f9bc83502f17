package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/berth-storage/berth/internal/adopt"
	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/backend/zfs"
	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/export/kernel"
	"github.com/berth-storage/berth/internal/kube"
	"github.com/berth-storage/berth/internal/volume"
)

const (
	retryAdoption = 2 * time.Second
	adoptionNews  = 10 * time.Second // between two lines about one that goes on
)

// predecessor reads what another program left in a pool's root.
func predecessor(p config.Pool) (*adopt.State, error) {
	exports := ""
	if p.Exporter == config.ExporterKernel {
		exports = kernel.ExportsFile
	}
	return adopt.ReadNFSProvisioner(p.Dir.Root, exports)
}

// deviceFSIDs says how file handles name file systems: as configured, or else as the
// program before did, so that its clients' handles stay good.
func (a *app) deviceFSIDs() (bool, error) {
	if b := a.config.Ganesha.DeviceBasedFSIDs; b != nil {
		return *b, nil
	}
	for _, p := range a.pools {
		if p.dir == nil {
			continue
		}
		account, err := p.dir.Adoption()
		if errors.Is(err, volume.ErrNotFound) && p.config.Adopt != "" {
			var before *adopt.State
			before, err = predecessor(p.config)
			account.DeviceFSIDs = err == nil && before.DeviceFSIDs
		}
		if err != nil && !errors.Is(err, volume.ErrNotFound) {
			return false, fmt.Errorf("pool %s: %w", p.config.Name, err)
		}
		if account.DeviceFSIDs {
			a.log.Info("file handles name file systems by device number, as the program before had them", "pool", p.config.Name)
			return true, nil
		}
	}
	return false, nil
}

// adopt takes over the volumes that another program made, in the pools where that is
// configured and was not done yet. Their exports are there when the NFS server starts,
// because clients that have them mounted would take missing ones for deleted. So it
// waits for the API server, which this once has to say whose the volumes are.
func (a *app) adopt(ctx context.Context) error {
	for _, p := range a.pools {
		if b, ok := p.backend.(*zfs.Backend); ok {
			if err := a.adoptDatasets(ctx, p.config, b); err != nil {
				return fmt.Errorf("pool %s: %w", p.config.Name, err)
			}
			continue
		}
		account, err := p.dir.Adoption()
		if errors.Is(err, volume.ErrNotFound) {
			account, err = a.adoptInto(ctx, p)
		}
		if err != nil {
			return fmt.Errorf("pool %s: %w", p.config.Name, err)
		}
		p.exporter.ids.Pass(account.LastID)
	}
	return nil
}

func (a *app) adoptInto(ctx context.Context, p *pool) (dir.Adoption, error) {
	log := a.log.With("component", "adoption", "pool", p.config.Name)
	before, err := predecessor(p.config)
	if err != nil || !before.Found() {
		return dir.Adoption{}, err
	}
	if p.config.Adopt == "" {
		log.Warn("there are files of nfs-provisioner in this pool's root; its volumes are not Berth's until you adopt them",
			"do", "berth adopt nfs-provisioner, or adopt: nfs-provisioner in the pool's configuration")
		return dir.Adoption{}, nil
	}
	for {
		report, account, err := a.adoption(ctx, p.config, p.dir, before)
		if err == nil {
			logReport(log, adopt.NFSProvisioner, before.Problems, report)
			return account, nil
		}
		if _, away := errors.AsType[*clusterError](err); !away || ctx.Err() != nil {
			return account, err
		}
		log.Warn("waiting for the API server to adopt volumes; NFS is not served meanwhile", "err", err)
		if !pause(ctx, retryAdoption) {
			return account, context.Cause(ctx)
		}
	}
}

// clusterError is an answer of the API server, or none, that may be another one later.
type clusterError struct{ error }

func (e *clusterError) Unwrap() error { return e.error }

// candidates are what is to be looked at to adopt volumes into a pool.
type candidates struct {
	from    adopt.From
	pvs     []adopt.PV
	options adopt.Options
}

// adopt adopts them once, and notes that it is done. before is nil for a pool on a share,
// where there is nothing of the program before but the volumes.
func (k candidates) adopt(ctx context.Context, b *dir.Backend, before *adopt.State) (adopt.Report, dir.Adoption, error) {
	report, err := adopt.Run(ctx, b, k.from, k.pvs, k.options)
	if err != nil {
		return report, dir.Adoption{}, err
	}
	account, err := b.Adoption()
	if err != nil && !errors.Is(err, volume.ErrNotFound) {
		return report, account, err
	}
	account = dir.Adoption{
		From: k.from.Program(), Finished: time.Now().UTC().Truncate(time.Second),
		Adopted: len(report.Adopt) + len(report.Already), Left: len(report.Left), LastID: max(account.LastID, report.LastID),
	}
	if before != nil {
		account.Identity, account.DeviceFSIDs = before.Identity, before.DeviceFSIDs
	}
	// A crash before this is written has the next start adopt again, which finds what
	// has a record already.
	return report, account, b.SetAdoption(account)
}

func (a *app) adoption(ctx context.Context, c config.Pool, b *dir.Backend, before *adopt.State) (adopt.Report, dir.Adoption, error) {
	k, err := a.adoptable(ctx, c, before)
	if err != nil {
		return adopt.Report{}, dir.Adoption{}, err
	}
	return k.adopt(ctx, b, before)
}

// adoptable asks the cluster for PersistentVolumes of c's provisioner, and other pools
// for their export ids.
func (a *app) adoptable(ctx context.Context, c config.Pool, before *adopt.State) (k candidates, err error) {
	k.options = adopt.Options{ExportPath: c.ExportPath, Taken: map[export.ID]string{}, Progress: a.tellProgress(c)}
	var others []adopt.PV
	if k.pvs, others, err = a.client.Adoptable(ctx, c.Provisioner); err != nil {
		return k, &clusterError{err}
	}
	if k.options.Cluster, err = a.client.ClusterID(ctx); err != nil {
		return k, &clusterError{err}
	}
	if c.Subdir != nil {
		if err := a.client.AddPolicies(ctx, c.Provisioner, k.pvs); err != nil {
			return k, &clusterError{err}
		}
		k.from = adopt.Share{Server: c.Subdir.Server, Others: others}
		return k, nil
	}
	k.from = before
	for _, p := range a.config.Pools {
		if p.Name != c.Name {
			if err := takenIDs(ctx, p, k.options.Taken); err != nil {
				return k, fmt.Errorf("pool %s: %w", p.Name, err)
			}
		}
	}
	return k, nil
}

// tellProgress gives a function that logs how far an adoption has got, if that takes long.
func (a *app) tellProgress(c config.Pool) func(s adopt.Step, done, of int) {
	told := time.Now()
	return func(s adopt.Step, done, of int) {
		if time.Since(told) >= adoptionNews {
			told = time.Now()
			a.log.Info(string(s), "component", "adoption", "pool", c.Name, "done", done, "of", of)
		}
	}
}

// takenIDs adds the export ids of a pool's volumes to taken. Those on a share have none.
func takenIDs(ctx context.Context, p config.Pool, taken map[export.ID]string) error {
	if p.Dir == nil {
		return nil
	}
	view, err := dir.OpenView(p.Dir.Root, "")
	if err != nil {
		return err
	}
	defer view.Close()
	for v, err := range view.List(ctx) {
		if err != nil {
			return err
		}
		taken[v.Export.ID] = p.Name + "/" + v.Name.String()
	}
	return nil
}

// logReport tells what came of an adoption.
func logReport(log *slog.Logger, program string, problems []error, r adopt.Report) {
	for _, problem := range problems {
		log.Warn("a file of "+program+" is not as it wrote it; what could be read of it counts", "err", problem)
	}
	others := 0
	for _, f := range r.Left {
		if f.Other() {
			others++
			continue
		}
		log.Warn("a PersistentVolume is left alone: its volume is not Berth's, and is not deleted", "persistentVolume", f.PV, "err", f.Err, "do", f.Do)
	}
	for _, f := range r.Kept {
		log.Warn("nobody knows what is to become of the data of a volume", "persistentVolume", f.PV, "err", f.Err, "do", f.Do)
	}
	if n := len(r.Unclaimed); n > 0 {
		log.Warn("directories or datasets that no PersistentVolume names are left alone", "number", n, "first", strings.Join(r.Unclaimed[:min(n, 10)], " "))
	}
	log.Info("adopted volumes of "+program, "volumes", len(r.Adopt), "before", len(r.Already), "leftAlone", len(r.Left)-others, "ofOtherServers", others)
}

func newClient(k config.Kubernetes) (kube.Client, error) {
	return kube.NewClient(kube.ClientOptions{
		Master: k.Master, Kubeconfig: k.Kubeconfig, QPS: k.QPS, Burst: k.Burst, UserAgent: "berth/" + Version,
	})
}
