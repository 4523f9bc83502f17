package zfs

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/run"
	"github.com/berth-storage/berth/internal/volume"
)

// Sharer exports volumes by their property sharenfs: the host of the pool is the NFS
// server. Its exports have no ids; who may mount a volume is what the pool's or
// the volume's Share says.
type Sharer struct{ b *Backend }

var _ export.Server = Sharer{}

// Sharer is the NFS server of the pool, or nil if it shares no volumes.
func (b *Backend) Sharer() export.Server {
	if b.o.Share == "" || b.o.Share == off {
		return nil
	}
	return Sharer{b}
}

// share is the sharenfs of v.
func (b *Backend) share(v volume.Volume) string {
	switch {
	case v.Share != "":
		return v.Share
	case b.o.Share != "":
		return b.o.Share
	default:
		return off
	}
}

// setShared notes that the dataset is shared by a command of this process, or not.
func (b *Backend) setShared(name, share string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if share == off {
		delete(b.shared, name)
		return
	}
	b.shared[name] = true
}

func (b *Backend) isShared(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.shared[name]
}

// Publish implements export.Server. What this process has shared already costs no command.
func (s Sharer) Publish(ctx context.Context, e export.Export) error {
	if name, below := s.b.datasetAt(e.Dir); below && s.b.isShared(name) {
		return nil
	}
	v, d, err := s.b.at(ctx, e.Dir)
	if err == nil && d == nil {
		err = fmt.Errorf("%w: no volume is mounted at %s", export.ErrRefused, e.Dir)
	}
	if err != nil {
		return err
	}
	return s.publish(ctx, v, d)
}

func (s Sharer) publish(ctx context.Context, v volume.Volume, d *dataset) error {
	share := s.b.share(v)
	if d.local("sharenfs") != share {
		return s.set(ctx, d, share)
	}
	if share == off {
		return nil
	}
	if _, err := s.b.zfs(ctx, "share", d.name); err != nil && !said(err, saysShared) {
		return refusal(err, share)
	}
	s.b.setShared(d.name, share)
	return nil
}

// set changes how d is shared; zfs set does it at once.
func (s Sharer) set(ctx context.Context, d *dataset, share string) error {
	s.b.setShared(d.name, off)
	if _, err := s.b.zfs(ctx, "set", "sharenfs="+share, d.name); err != nil {
		return refusal(err, share)
	}
	s.b.setShared(d.name, share)
	return nil
}

// refusal gives an error its meaning to who asks a server. zfs does not say why it cannot share.
func refusal(err error, share string) error {
	_, refused := errors.AsType[*run.ExitError](err)
	switch {
	case !refused:
		return err
	case share == off || said(err, saysMissing):
		return fmt.Errorf("%w: %w", export.ErrRefused, err)
	}
	return fmt.Errorf("%w: %w: see whether an NFS server is installed on that host and runs, and knows the share options %q",
		export.ErrRefused, err, share)
}

// Withdraw implements export.Server.
func (s Sharer) Withdraw(ctx context.Context, e export.Export) error {
	_, d, err := s.b.at(ctx, e.Dir)
	if err != nil || d == nil || d.local("sharenfs") == off {
		return err // what is not there, or nobody's of ours, is not shared by us
	}
	return s.set(ctx, d, off)
}

// Sync implements export.Server. Volumes that are still being made are left as they are:
// who makes them shares them.
func (s Sharer) Sync(ctx context.Context, want []export.Export) error {
	dirs := make(map[string]bool, len(want))
	for _, e := range want {
		dirs[e.Dir] = true
	}
	all, err := s.b.volumes(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, d := range all {
		v, ours, err := s.b.decode(d)
		if err != nil || !ours || v.State == volume.StateCreating {
			continue
		}
		share := s.b.share(v)
		switch {
		case !dirs[v.Dir] && d.local("sharenfs") != off:
			err = s.set(ctx, d, off)
		case dirs[v.Dir] && (d.local("sharenfs") != share || s.b.wasMounted(d.name)):
			err = s.publish(ctx, v, d)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("sharing volume %s: %w", v.Name, err))
		}
	}
	return errors.Join(failed...)
}

// datasetAt gives the dataset that is mounted at dir unless somebody gave it another
// mountpoint.
func (b *Backend) datasetAt(dir string) (string, bool) {
	rel, below := strings.CutPrefix(dir, strings.TrimSuffix(b.root, "/")+"/")
	return b.o.Dataset + "/" + rel, below && element.MatchString(rel)
}

// at gives the volume that is mounted at dir. No dataset if there is none.
func (b *Backend) at(ctx context.Context, dir string) (volume.Volume, *dataset, error) {
	var all []*dataset
	name, below := b.datasetAt(dir)
	if below {
		var err error
		if all, err = b.ask(ctx, volumeProperties, b.o.Dataset, name); err != nil {
			return volume.Volume{}, nil, err
		}
		if len(all) == 0 {
			return volume.Volume{}, nil, fmt.Errorf("%w: the pool's dataset %s does not exist", volume.ErrUnknown, b.o.Dataset)
		}
	} else {
		var err error
		if all, err = b.volumes(ctx); err != nil {
			return volume.Volume{}, nil, err
		}
	}
	for _, d := range all {
		if v, ours, err := b.decode(d); err != nil || ours && v.Dir == dir {
			return v, d, err
		}
	}
	return volume.Volume{}, nil, nil
}

// volumes gives the datasets of all volumes that are not discarded, among others.
func (b *Backend) volumes(ctx context.Context) ([]*dataset, error) {
	return b.told(b.zfs(ctx, get(volumeProperties, "-d1", b.o.Dataset)...))
}
