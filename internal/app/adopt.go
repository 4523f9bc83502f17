package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/berth-storage/berth/internal/adopt"
	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/export/kernel"
	"github.com/berth-storage/berth/internal/kube"
	"github.com/berth-storage/berth/internal/volume"
)

const retryAdoption = 2 * time.Second

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
		account, err := p.backend.Adoption()
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
		account, err := p.backend.Adoption()
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
		report, account, err := a.adoption(ctx, p.config, p.backend, before)
		if err == nil {
			logReport(log, before, report)
			return account, nil
		}
		if _, away := errors.AsType[*clusterError](err); !away || ctx.Err() != nil {
			return account, err
		}
		log.Warn("waiting for the API server to adopt volumes; NFS is not served meanwhile", "err", err)
		select {
		case <-ctx.Done():
			return account, context.Cause(ctx)
		case <-time.After(retryAdoption):
		}
	}
}

// clusterError is an answer of the API server, or none, that may be another one later.
type clusterError struct{ error }

func (e *clusterError) Unwrap() error { return e.error }

// adoption adopts once, and notes that it is done. before is nil for a pool on a share,
// where there is nothing of the program before but the volumes.
func (a *app) adoption(ctx context.Context, c config.Pool, b *dir.Backend, before *adopt.State) (adopt.Report, dir.Adoption, error) {
	from, pvs, o, err := a.adoptable(ctx, c, before)
	if err != nil {
		return adopt.Report{}, dir.Adoption{}, err
	}
	report, err := adopt.Run(ctx, b, from, pvs, o)
	if err != nil {
		return report, dir.Adoption{}, err
	}
	account, err := b.Adoption()
	if err != nil && !errors.Is(err, volume.ErrNotFound) {
		return report, account, err
	}
	account = dir.Adoption{
		From: from.Program(), Finished: time.Now().UTC().Truncate(time.Second),
		Adopted: len(report.Adopt) + len(report.Already), Left: len(report.Left), LastID: max(account.LastID, report.LastID),
	}
	if before != nil {
		account.Identity, account.DeviceFSIDs = before.Identity, before.DeviceFSIDs
	}
	// A crash before this is written has the next start adopt again, which finds what
	// has a record already.
	return report, account, b.SetAdoption(account)
}

// adoptable asks the cluster for PersistentVolumes of c's provisioner, and other pools
// for their export ids.
func (a *app) adoptable(ctx context.Context, c config.Pool, before *adopt.State) (adopt.From, []adopt.PV, adopt.Options, error) {
	o := adopt.Options{ExportPath: c.ExportPath, Taken: map[export.ID]string{}}
	pvs, others, err := a.client.Adoptable(ctx, c.Provisioner)
	if err != nil {
		return nil, nil, o, &clusterError{err}
	}
	if o.Cluster, err = a.client.ClusterID(ctx); err != nil {
		return nil, nil, o, &clusterError{err}
	}
	if c.Subdir != nil {
		if err := a.client.AddPolicies(ctx, c.Provisioner, pvs); err != nil {
			return nil, nil, o, &clusterError{err}
		}
		return adopt.Share{Server: c.Subdir.Server, Others: others}, pvs, o, nil
	}
	for _, p := range a.config.Pools {
		if p.Name != c.Name {
			if err := takenIDs(ctx, p, o.Taken); err != nil {
				return nil, nil, o, fmt.Errorf("pool %s: %w", p.Name, err)
			}
		}
	}
	return before, pvs, o, nil
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
func logReport(log *slog.Logger, before *adopt.State, r adopt.Report) {
	for _, problem := range before.Problems {
		log.Warn("a file of nfs-provisioner is not as it wrote it; what could be read of it counts", "err", problem)
	}
	others := 0
	for _, f := range r.Left {
		if f.Other() {
			others++
			continue
		}
		log.Warn("a PersistentVolume is left alone: its volume is neither exported nor deleted", "persistentVolume", f.PV, "err", f.Err, "do", f.Do)
	}
	if n := len(r.Unclaimed); n > 0 {
		log.Warn("directories that no PersistentVolume names are left alone", "directories", n, "first", strings.Join(r.Unclaimed[:min(n, 10)], " "))
	}
	log.Info("adopted volumes of nfs-provisioner", "volumes", len(r.Adopt), "before", len(r.Already), "leftAlone", len(r.Left)-others, "ofOtherServers", others)
}

// AdoptOptions say what Adopt does.
type AdoptOptions struct {
	Pool   string // its name; "" if there is one only
	DryRun bool   // only say what would be done
}

// Adopt takes over the volumes that nfs-provisioner made in the root of one of c's
// pools, which no Berth may be serving, and prints what came of it. It is an error if
// any PersistentVolume of that server is left alone.
func Adopt(ctx context.Context, c config.Config, o AdoptOptions, out io.Writer) error {
	p, err := choosePool(c, o.Pool)
	if err != nil {
		return err
	}
	a := &app{config: c, log: slog.New(slog.DiscardHandler)}
	if a.client, err = newClient(c.Kubernetes); err != nil {
		return err
	}
	before, err := predecessor(p)
	if err != nil {
		return err
	}
	report, err := a.adoptOnce(ctx, p, before, o.DryRun)
	printReport(out, before, report, o.DryRun)
	if err != nil {
		return err
	}
	left := 0
	for _, f := range report.Left {
		if !f.Other() {
			left++
		}
	}
	if left > 0 {
		return fmt.Errorf("%d PersistentVolumes are left alone; see above", left)
	}
	return nil
}

func (a *app) adoptOnce(ctx context.Context, p config.Pool, before *adopt.State, dryRun bool) (adopt.Report, error) {
	if dryRun {
		view, err := dir.OpenView(p.Dir.Root, "")
		if err != nil {
			return adopt.Report{}, err
		}
		defer view.Close()
		from, pvs, options, err := a.adoptable(ctx, p, before)
		if err != nil {
			return adopt.Report{}, err
		}
		return adopt.Plan(ctx, view, from, pvs, options)
	}
	b, err := dir.Open(ctx, p.Dir.Root, dir.Options{})
	if err != nil {
		return adopt.Report{}, err
	}
	report, _, err := a.adoption(ctx, p, b, before)
	return report, errors.Join(err, b.Close())
}

func choosePool(c config.Config, name string) (config.Pool, error) {
	var names []string
	for _, p := range c.Pools {
		if p.Name == name || name == "" && len(c.Pools) == 1 {
			return p, nil
		}
		names = append(names, p.Name)
	}
	if name == "" {
		return config.Pool{}, fmt.Errorf("say which pool: %s", strings.Join(names, ", "))
	}
	return config.Pool{}, fmt.Errorf("there is no pool %q; there are %s", name, strings.Join(names, ", "))
}

func printReport(out io.Writer, before *adopt.State, r adopt.Report, dryRun bool) {
	adopted := "adopted"
	if dryRun {
		adopted = "to be adopted"
	}
	for _, problem := range before.Problems {
		fmt.Fprintf(out, "warning: %v\n", problem)
	}
	for _, v := range r.Adopt {
		fmt.Fprintf(out, "%s: %s: claim %s, %d bytes, export %d\n", v.Name, adopted, v.Claim, v.Size, v.Export.ID)
	}
	for _, n := range r.Already {
		fmt.Fprintf(out, "%s: adopted before\n", n)
	}
	for _, f := range r.Left {
		fmt.Fprintf(out, "%s: left alone: %v\n    %s\n", f.PV, f.Err, f.Do)
	}
	for _, name := range r.Unclaimed {
		fmt.Fprintf(out, "directory %s: left alone: no PersistentVolume names it\n", name)
	}
	fmt.Fprintf(out, "%d %s, %d before, %d left alone, %d directories without a PersistentVolume\n",
		len(r.Adopt), adopted, len(r.Already), len(r.Left), len(r.Unclaimed))
}

func newClient(k config.Kubernetes) (kube.Client, error) {
	return kube.NewClient(kube.ClientOptions{
		Master: k.Master, Kubeconfig: k.Kubeconfig, QPS: k.QPS, Burst: k.Burst, UserAgent: "berth/" + Version,
	})
}
