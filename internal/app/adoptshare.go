package app

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/berth-storage/berth/internal/adopt"
	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/backend/subdir"
	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/volume"
)

// adoptRemote takes over, by once, the volumes that another program made in a pool that may
// cease to answer, where that is configured and was not done yet. No claim of the pool's is
// served before: a new volume could get the place of an old one. It is false if ctx ended
// before it was done.
func (a *app) adoptRemote(ctx context.Context, p *remotePool, once func() error) bool {
	for p.config.Adopt != "" {
		err := once()
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		a.log.Warn("cannot adopt volumes yet; claims are not served before", "component", "adoption", "pool", p.config.Name, "err", err)
		if !pause(ctx, retryAdoption) {
			return false
		}
	}
	return true
}

func (a *app) adoptShareOnce(ctx context.Context, p *remotePool, b *subdir.Backend) error {
	err := b.Do(ctx, func(_ context.Context, d *dir.Backend) error {
		_, err := d.Adoption()
		return err
	})
	if !errors.Is(err, volume.ErrNotFound) {
		return err // or it is done
	}
	k, err := a.adoptable(ctx, p.config, nil)
	if err != nil {
		return err
	}
	report, err := adoptByBackend(ctx, k, b)
	if err == nil {
		logReport(a.log.With("component", "adoption", "pool", p.config.Name), k.from.Program(), nil, report)
	}
	return err
}

// adoptByBackend adopts on a share that may cease to answer meanwhile.
func adoptByBackend(ctx context.Context, k candidates, b *subdir.Backend) (adopt.Report, error) {
	// What is left at work when the share does not answer may still write to it.
	report := new(adopt.Report)
	err := b.Do(ctx, func(ctx context.Context, d *dir.Backend) (err error) {
		*report, _, err = k.adopt(ctx, d, nil)
		return err
	})
	if err != nil {
		return adopt.Report{}, err
	}
	return *report, nil
}

// adoptFromShare is adoptFromRoot for volumes of nfs-subdir-external-provisioner. It tells
// why it waits for the share.
func (a *app) adoptFromShare(ctx context.Context, p config.Pool, dryRun bool, out io.Writer) (report adopt.Report, err error) {
	if dryRun {
		return a.planOnShare(ctx, p)
	}
	k, err := a.adoptable(ctx, p, nil)
	if err != nil {
		return report, err
	}
	ctx, done := context.WithCancelCause(ctx)
	defer done(nil)
	finished := false
	o := a.shareOptions(p)
	if err := a.setCluster(ctx, p, &o.Dir); err != nil {
		return report, err
	}
	o.Changed = func(why error) {
		if _, locked := errors.AsType[*dir.LockedError](why); locked {
			done(why)
		} else if why != nil {
			fmt.Fprintln(out, why)
		}
	}
	subdir.NewShare(o).Run(ctx, func(ctx context.Context, b *subdir.Backend) {
		report, err = adoptByBackend(ctx, k, b)
		finished = true
		done(nil)
	})
	if !finished {
		err = context.Cause(ctx)
	}
	return report, err
}

// planOnShare looks at a share that somebody has mounted.
func (a *app) planOnShare(ctx context.Context, p config.Pool) (adopt.Report, error) {
	if p.Subdir.Root == "" {
		return adopt.Report{}, fmt.Errorf("pool %s: subdir.root does not say where the share is mounted: mount it, and say where", p.Name)
	}
	var o dir.Options
	if err := a.setCluster(ctx, p, &o); err != nil {
		return adopt.Report{}, err
	}
	view, err := dir.OpenView(p.Subdir.Root, o.Cluster)
	if err != nil {
		return adopt.Report{}, err
	}
	defer view.Close()
	return a.planAdoption(ctx, p, view, nil)
}
