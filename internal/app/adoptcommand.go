package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/berth-storage/berth/internal/adopt"
	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/volume"
)

// AdoptOptions say what Adopt does.
type AdoptOptions struct {
	Program string // a value of config.Pool.Adopt
	Pool    string // its name; "" if there is one only
	DryRun  bool   // only say what would be done
}

// Adopt takes over the volumes that another program made in one of c's pools, which no
// Berth may be serving, and prints what came of it. It is an error if any PersistentVolume
// of that server is left alone.
func Adopt(ctx context.Context, c config.Config, o AdoptOptions, out io.Writer) error {
	p, err := choosePool(c, o)
	if err != nil {
		return err
	}
	a := &app{config: c, log: slog.New(slog.DiscardHandler)}
	if a.client, err = newClient(c.Kubernetes); err != nil {
		return err
	}
	var report adopt.Report
	var problems []error
	switch {
	case p.ZFS != nil:
		report, err = a.adoptFromDatasets(ctx, p, o.Program, o.DryRun)
	case p.Subdir != nil:
		report, err = a.adoptFromShare(ctx, p, o.DryRun, out)
	default:
		report, problems, err = a.adoptFromRoot(ctx, p, o.DryRun)
	}
	if err == nil || len(report.Adopt) > 0 {
		place := place{"directory", "directories"}
		if p.ZFS != nil {
			place.one, place.many = "dataset", "datasets"
		}
		printReport(out, place, problems, report, o.DryRun)
	}
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

// adoptFromRoot adopts volumes of nfs-provisioner. problems are with the files that it left.
func (a *app) adoptFromRoot(ctx context.Context, p config.Pool, dryRun bool) (report adopt.Report, problems []error, err error) {
	before, err := predecessor(p)
	if err != nil {
		return report, nil, err
	}
	if dryRun {
		view, err := dir.OpenView(p.Dir.Root, "")
		if err != nil {
			return report, nil, err
		}
		defer view.Close()
		report, err = a.planAdoption(ctx, p, view, before)
		return report, before.Problems, err
	}
	b, err := dir.Open(ctx, p.Dir.Root, dir.Options{})
	if err != nil {
		return report, nil, err
	}
	report, _, err = a.adoption(ctx, p, b, before)
	return report, before.Problems, errors.Join(err, b.Close())
}

func (a *app) planAdoption(ctx context.Context, p config.Pool, view *dir.View, before *adopt.State) (adopt.Report, error) {
	k, err := a.adoptable(ctx, p, before)
	if err != nil {
		return adopt.Report{}, err
	}
	return adopt.Plan(ctx, view, k.from, k.pvs, k.options)
}

// choosePool gives the pool that o says, of those that o's program can have worked in.
func choosePool(c config.Config, o AdoptOptions) (config.Pool, error) {
	var names []string
	var found []config.Pool
	for _, p := range c.Pools {
		if !slices.Contains(p.Adoptable(), o.Program) {
			continue
		}
		names = append(names, p.Name)
		if p.Name == o.Pool || o.Pool == "" {
			found = append(found, p)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(names) == 0:
		return config.Pool{}, errors.New("no pool is of the kind that this program's volumes can be adopted into")
	case o.Pool == "":
		return config.Pool{}, fmt.Errorf("say which pool: %s", strings.Join(names, ", "))
	}
	return config.Pool{}, fmt.Errorf("there is no pool %q; there are %s", o.Pool, strings.Join(names, ", "))
}

// place is the word for what a volume lies in.
type place struct{ one, many string }

func printReport(out io.Writer, p place, problems []error, r adopt.Report, dryRun bool) {
	adopted := "adopted"
	if dryRun {
		adopted = "to be adopted"
	}
	for _, problem := range problems {
		fmt.Fprintf(out, "warning: %v\n", problem)
	}
	for _, v := range r.Adopt {
		fmt.Fprintf(out, "%s: %s: claim %s, %d bytes, %s\n", v.Name, adopted, v.Claim, v.Size, whereabouts(v))
	}
	for _, v := range r.Already {
		fmt.Fprintf(out, "%s: adopted before\n", v.Name)
	}
	for _, f := range r.Kept {
		fmt.Fprintf(out, "%s: warning: %v\n    %s\n", f.PV, f.Err, f.Do)
	}
	for _, f := range r.Left {
		fmt.Fprintf(out, "%s: left alone: %v\n    %s\n", f.PV, f.Err, f.Do)
	}
	for _, name := range r.Unclaimed {
		fmt.Fprintf(out, "%s %s: left alone: no PersistentVolume names it\n", p.one, name)
	}
	fmt.Fprintf(out, "%d %s, %d before, %d left alone, %d %s without a PersistentVolume\n",
		len(r.Adopt), adopted, len(r.Already), len(r.Left), len(r.Unclaimed), p.many)
}

// whereabouts says what makes v what it is beside its claim: its export, or where it lies
// and what becomes of it.
func whereabouts(v volume.Volume) string {
	switch {
	case v.Export.ID != 0:
		return fmt.Sprintf("export %d", v.Export.ID)
	case v.Sizing != "": // a dataset
		return fmt.Sprintf("%s, mounted at %s, sizing %s, reclaim policy %s", v.Path, v.Export.Path, v.Sizing, v.Reclaim)
	}
	shared := ""
	if v.Shared {
		shared = ", shared"
	}
	return fmt.Sprintf("%s%s, on deletion: %s", v.Path, shared, cmp.Or(v.OnDelete, volume.OnDeleteDelete))
}
