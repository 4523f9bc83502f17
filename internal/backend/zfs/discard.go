package zfs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/berth-storage/berth/internal/volume"
)

// CheckDiscard implements volume.DiscardChecker: datasets below a volume are the
// administrator's, and so are snapshots of one that keeps them.
func (b *Backend) CheckDiscard(ctx context.Context, v volume.Volume) error {
	name := b.dataset(v.Name)
	all, err := b.below(ctx, name)
	if err != nil {
		return fmt.Errorf("volume %s: %w", v.Name, err)
	}
	for _, d := range all {
		switch {
		case d.name == name, d.isSnapshot() && (!v.KeepSnapshots || d.local(propClone) != "" || d.local(propSnapshot) != ""):
		case strings.HasPrefix(d.name, name+"@"):
			return fmt.Errorf("%w: volume %s is not deleted as long as it has snapshots, like %s (destroySnapshots is false): destroy them, or retain the volume",
				volume.ErrConflict, v.Name, d.name)
		case !d.isSnapshot():
			return fmt.Errorf("%w: volume %s is not deleted: there is a dataset in it, %s, which Berth did not make: move it (zfs rename), or destroy it",
				volume.ErrConflict, v.Name, d.name)
		}
	}
	return nil
}

// below gives the dataset with all that is below it, snapshots too. None if there is
// no such dataset.
func (b *Backend) below(ctx context.Context, name string) ([]*dataset, error) {
	return b.ask(ctx, []string{propRecord, propClone, propSnapshot, "defer_destroy", "origin"}, "-r", name)
}

// Discard implements volume.Backend. What is renamed into the private dataset inherits
// from it that it is mounted nowhere, and what is not mounted is not shared.
func (b *Backend) Discard(ctx context.Context, n volume.Name) error {
	if v, name, err := b.snapshotCalled(ctx, n); err != nil {
		return err
	} else if name != "" {
		return b.discardSnapshot(ctx, v, name)
	}
	v, d, err := b.read(ctx, n)
	if err != nil {
		return err
	}
	if v.State == volume.StateDiscarded {
		return nil
	}
	aside, listed := b.aside(n), b.index.moving()
	err = b.rename(ctx, n, d, aside)
	b.forget(d.name)
	switch {
	case err == nil:
		b.setDiscarded(n, true)
		b.index.moved(d.name, aside, listed)
		b.setShared(d.name, off)
		return nil
	case said(err, saysExists):
		return fmt.Errorf("%w: volume %s: there is another dataset %s already, which has to be purged first: %w", volume.ErrBusy, n, aside, err)
	case errors.Is(err, volume.ErrUnknown):
		b.setUnsure(n) // the next question is to tell
		b.index.lose()
		return fmt.Errorf("discarding volume %s: %w", n, err)
	default:
		return b.refused("discarding", v, err)
	}
}

// rename renames a dataset to where it is not mounted. It is unmounted before, because if the
// renaming fails ZFS would mount it again. A crash between the two leaves a volume that
// Mount mounts again, at the next start.
func (b *Backend) rename(ctx context.Context, n volume.Name, d *dataset, to string) error {
	if err := b.unmount(ctx, n, d); err != nil {
		return err
	}
	return b.patiently(ctx, "rename", d.name, to)
}

// Purge implements volume.Backend. No dataset is destroyed together with others: what
// is in the way is looked at first.
func (b *Backend) Purge(ctx context.Context, n volume.Name) error {
	if v, name, err := b.snapshotCalled(ctx, n); err != nil {
		return err
	} else if name != "" {
		return b.purgeSnapshot(ctx, v, name)
	}
	v, d, err := b.read(ctx, n)
	if errors.Is(err, volume.ErrNotFound) && b.isDiscarded(n) {
		b.setDiscarded(n, false) // by a command whose outcome was not known
		v, d, err = b.read(ctx, n)
	}
	if err != nil {
		return err
	}
	if v.State != volume.StateDiscarded {
		return fmt.Errorf("%w: volume %s is %s, not discarded", volume.ErrConflict, n, v.State)
	}
	if err := b.release(ctx, n, d.value("origin")); err != nil {
		return b.refused("purging", v, err)
	}
	err = b.destroy(ctx, d, v.Dir)
	if said(err, saysHolds) {
		if err = b.destroySnapshots(ctx, v, d); err == nil {
			err = b.destroy(ctx, d, v.Dir)
		}
	}
	b.forget(d.name)
	if err != nil && !said(err, saysMissing) {
		return b.refused("purging", v, err)
	}
	b.setDiscarded(n, false)
	return nil
}

func (b *Backend) setUnsure(n volume.Name) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unsure[n] = true
}

func (b *Backend) isUnsure(n volume.Name) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.unsure[n]
}

func (b *Backend) isDiscarded(n volume.Name) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.discarded[n]
}

// destroySnapshots destroys the snapshots of v, which is discarded, but not those that were asked
// for by themselves. Those that clones stand on destroy themselves with the last one, or go to a
// clone that is promoted. ErrCloned if there are such.
func (b *Backend) destroySnapshots(ctx context.Context, v volume.Volume, d *dataset) error {
	held, err := b.snapshots(ctx, v, d.name)
	if err == nil && len(held) > 0 && b.o.OnClones == OnClonesPromote {
		if err = b.promote(ctx, held); err == nil {
			held, err = b.snapshots(ctx, v, d.name)
		}
	}
	if err != nil || len(held) == 0 {
		return err
	}
	if d.number("refreservation") > 0 { // it grows no more
		if _, err := b.zfs(ctx, "set", "refreservation=none", d.name); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w, or others snapshots: there is %s; its space is freed when they are deleted", volume.ErrCloned, held[0])
}

// snapshots destroys those of name, at once or when they have no clones any more, and gives
// those that are left.
func (b *Backend) snapshots(ctx context.Context, v volume.Volume, name string) (held []string, err error) {
	all, err := b.below(ctx, name)
	if err != nil {
		return nil, err
	}
	destroyed := false
	for _, s := range all {
		switch {
		case s.name == name:
		case !strings.HasPrefix(s.name, name+"@"):
			return nil, fmt.Errorf("%w: volume %s is not purged: there is a dataset in it, %s, which Berth did not make: move it (zfs rename), or destroy it", volume.ErrBusy, v.Name, s.name)
		case s.value("defer_destroy") == "on" || s.local(propSnapshot) != "":
			b.index.check(s)
			held = append(held, s.name)
		default:
			destroyed = true
			if err := b.patiently(ctx, "destroy", "-d", s.name); err != nil && !said(err, saysMissing) {
				return nil, err
			}
		}
	}
	if !destroyed {
		return held, nil
	}
	if all, err = b.below(ctx, name); err != nil {
		return nil, err
	}
	held = nil
	for _, s := range all {
		if strings.HasPrefix(s.name, name+"@") {
			held = append(held, s.name)
		}
	}
	return held, nil
}

// promote makes clones the owners of the snapshots that they stand on. The snapshots
// are in the order of their age, and a clone gets those before its own too.
func (b *Backend) promote(ctx context.Context, held []string) error {
	all, err := b.volumes(ctx)
	if err != nil {
		return err
	}
	for _, snapshot := range slices.Backward(held) {
		for _, d := range all {
			if _, ours, err := b.decode(d); err != nil || !ours || d.value("origin") != snapshot {
				continue
			}
			// The newest one that has a clone of ours; the other clones are clones of that then.
			_, err := b.zfs(ctx, "promote", d.name)
			b.index.lose() // they are that one's
			return err
		}
	}
	return nil // clones of clones that wait themselves, or somebody else's
}
