package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/backend/zfs"
	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/export/fixed"
	"github.com/berth-storage/berth/internal/export/kernel"
	"github.com/berth-storage/berth/internal/run"
)

// openDatasets opens a pool of datasets on this host.
func (a *app) openDatasets(ctx context.Context, c config.Pool) (*pool, error) {
	if err := zfs.Suspended(c.ZFS.Dataset); err != nil {
		return nil, err
	}
	g := newGate(here{})
	o := datasetOptions(c.ZFS, g)
	o.Log = a.log.With("component", "zfs", "pool", c.Name)
	o.Release = func(ctx context.Context, dir string, device uint64) error {
		return kernel.Release(ctx, a.config.Kernel.Address, dir, device)
	}
	if a.config.Standby {
		o.Wait = func() { a.standBy(c.Name, c.ZFS.Dataset, "") }
	}
	b, err := zfs.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	if c.Exporter == config.ExporterGanesha {
		if err := dir.CheckFileHandles(b.Root()); err != nil {
			return nil, errors.Join(err, b.Close())
		}
	}
	a.tellAsBefore(c)
	return &pool{config: c, root: b.Root(), backend: b, shares: sharer(b), gate: g}, nil
}

// here is this host.
type here struct{ run.Here }

// Probe implements host.
func (h here) Probe(ctx context.Context, argv []string) ([]byte, error) { return h.Output(ctx, argv) }

// watchDatasets lets no command through to a pool of this host as long as ZFS has it suspended: each would
// wait, and others for it.
func (a *app) watchDatasets(ctx context.Context, p *pool) {
	for pause(ctx, probeHost) {
		why := zfs.Suspended(p.config.ZFS.Dataset)
		if why != nil && p.gate.shut(why) || why == nil && p.gate.open() {
			a.poolChanged(p.config.Name, why)
		}
	}
}

func datasetOptions(z *config.ZFS, r zfs.Runner) zfs.Options {
	return zfs.Options{
		Dataset: z.Dataset, Runner: r, Local: z.SSH == nil, Share: z.ShareOptions, Sizing: z.Sizing,
		Properties: z.Properties, OnClones: zfs.OnClones(z.OnClones),
	}
}

// runner runs programs on the host that has the datasets, until done is called.
func runner(z *config.ZFS) (r zfs.Runner, done func(), err error) {
	if z.SSH == nil {
		return run.Here{}, func() {}, nil
	}
	o, err := sshOptions(z.SSH)
	if err != nil {
		return nil, nil, err
	}
	host, err := run.NewSSH(o)
	if err != nil {
		return nil, nil, err
	}
	return host, host.Close, nil
}

// sharer is what exports the volumes of b: ZFS itself, or nobody that Berth has to do with.
func sharer(b *zfs.Backend) export.Server {
	if s := b.Sharer(); s != nil {
		return s
	}
	return fixed.Server{}
}

// tellAsBefore has the metrics of kubernetes-zfs-provisioner go on in a pool that takes over from it.
func (a *app) tellAsBefore(c config.Pool) {
	if c.Adopt == config.AdoptZFSProvisioner {
		server := c.ZFS.Server
		if server == "" {
			server = a.config.Server.Hostname
		}
		a.metrics.Datasets(c.Name, c.ZFS.Dataset, server)
	}
}

// sshOptions reads the secrets that are in files.
func sshOptions(s *config.SSH) (run.SSHOptions, error) {
	o := run.SSHOptions{
		Host: strings.Trim(s.Host, "[]"), Port: s.Port, User: s.User, KeyFile: s.KeyFile, Key: []byte(s.Key),
		Passphrase: s.Passphrase, Password: s.Password, KnownHosts: s.KnownHosts, BecomeRoot: s.BecomeRoot,
	}
	for file, secret := range map[string]*string{s.PassphraseFile: &o.Passphrase, s.PasswordFile: &o.Password} {
		if file == "" {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return o, fmt.Errorf("a secret for %s: %w", s.Host, err)
		}
		*secret = strings.TrimRight(string(text), "\r\n")
	}
	return o, nil
}
