package zfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/copytree"
	"github.com/berth-storage/berth/internal/volume"
)

// Fill implements volume.Filler: a dataset whose record says that it is being made, the copy, and a
// record that says that all is there. The dataset of an earlier try is destroyed first.
func (b *Backend) Fill(ctx context.Context, s volume.Spec, c volume.Content, p *volume.Progress) (volume.Volume, error) {
	if err := b.check(ctx, s); err != nil {
		return volume.Volume{}, err
	}
	switch {
	case s.From == nil || s.From.Pool == "":
		return volume.Volume{}, fmt.Errorf("%w: volume %s: nothing to copy", volume.ErrInvalid, s.Name)
	case !b.o.Local:
		return volume.Volume{}, fmt.Errorf("%w: volume %s: the datasets of this pool are on another host, to which nothing is copied: "+
			"use a class of pool %s", volume.ErrUnsupported, s.Name, s.From.Pool)
	}
	switch old, d, err := b.read(ctx, s.Name); {
	case errors.Is(err, volume.ErrNotFound):
	case err != nil:
		return volume.Volume{}, err
	case !old.Is(s):
		return volume.Volume{}, fmt.Errorf("%w: volume %s belongs to claim %s (uid %s)", volume.ErrExists, s.Name, old.Claim, old.Claim.UID)
	case !old.CopyOf(s) || !old.Ended.IsZero():
		return volume.Volume{}, fmt.Errorf("%w: volume %s is %s, and was begun with another content", volume.ErrExists, s.Name, old.State)
	case old.State == volume.StateReady:
		return old, nil
	default: // a part of what it has to be
		if err := b.scrap(ctx, old, d); err != nil {
			return volume.Volume{}, err
		}
	}
	v := b.plan(s)
	args, err := b.options(v, s.Settings, false)
	if err != nil {
		return volume.Volume{}, err
	}
	if err := b.make(ctx, v, append([]string{"create"}, args...)); err != nil && !said(err, saysCreated) {
		if said(err, saysExists) {
			err = fmt.Errorf("%w: dataset %s is there and has no record of Berth's: rename or destroy it: %w", volume.ErrForeign, b.dataset(s.Name), err)
		}
		return volume.Volume{}, b.refused("making", v, err)
	}
	if err = b.Mount(ctx, v); err == nil {
		err = b.copyInto(ctx, v, c, p)
	}
	if errors.Is(err, volume.ErrNoSpace) || errors.Is(err, volume.ErrUnsupported) { // what was copied must not fill the pool
		after := context.WithoutCancel(ctx)
		made, d, readErr := b.read(after, s.Name)
		if readErr == nil {
			readErr = b.scrap(after, made, d)
		}
		return volume.Volume{}, errors.Join(err, readErr)
	}
	if err != nil {
		return volume.Volume{}, err
	}
	return b.settle(ctx, v)
}

// scrap destroys the dataset d of v, a copy that is not complete and that nobody was ever given.
func (b *Backend) scrap(ctx context.Context, v volume.Volume, d *dataset) error {
	if v.State != volume.StateCreating || v.CopiedFrom == (volume.Origin{}) {
		return fmt.Errorf("%w: volume %s is no copy that is being made", volume.ErrConflict, v.Name)
	}
	err := b.destroy(ctx, d, v.Dir)
	b.forget(d.name)
	if err != nil && !said(err, saysMissing) {
		return b.refused("removing what there is from an earlier try of", v, err)
	}
	return nil
}

func (b *Backend) copyInto(ctx context.Context, v volume.Volume, c volume.Content, p *volume.Progress) error {
	to, err := b.open(v.Path)
	if err != nil {
		return err
	}
	defer to.Close()
	over, err := p.Turn(ctx)
	if err != nil {
		return err
	}
	defer over()
	done, err := copytree.Copy(ctx, c.Tree, to, copytree.Options{Progress: p})
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: volume %s: %w", volume.ErrNoSpace, v.Name, err)
	}
	if errors.Is(err, copytree.ErrTooMuch) {
		return fmt.Errorf("%w: volume %s: %w", volume.ErrUnsupported, v.Name, err)
	}
	if err != nil {
		return fmt.Errorf("volume %s: %w", v.Name, err)
	}
	if err := done.Lacks(); err != nil {
		return fmt.Errorf("%w: volume %s: %w", volume.ErrUnsupported, v.Name, err)
	}
	return c.Still(ctx)
}

// OpenTree implements volume.Reader.
func (b *Backend) OpenTree(ctx context.Context, v volume.Volume) (*os.File, error) {
	if !b.o.Local {
		return nil, fmt.Errorf("%w: the datasets of this pool are on another host, from which nothing is copied: use a class of that pool", volume.ErrUnsupported)
	}
	if v.SnapshotOf != (volume.Name{}) {
		return b.openSnapshot(ctx, v)
	}
	if err := b.Mount(ctx, v); err != nil {
		return nil, err
	}
	return b.open(v.Path)
}

// openSnapshot opens what ZFS shows of a snapshot below its volume: an own file system, which
// it mounts when somebody looks.
func (b *Backend) openSnapshot(ctx context.Context, v volume.Volume) (*os.File, error) {
	hidden := func(why error) error {
		return fmt.Errorf("%w: what is in snapshot %s is not to be seen on this host (.zfs/snapshot of a volume that is not deleted): "+
			"restore it with a class of its own pool, and make a copy of that claim: %w", volume.ErrUnsupported, v.Name, why)
	}
	of, _, err := b.read(ctx, v.SnapshotOf)
	switch {
	case errors.Is(err, volume.ErrNotFound):
		return nil, hidden(err)
	case err != nil:
		return nil, err
	}
	top, err := b.open(of.Path)
	if err != nil {
		return nil, hidden(err)
	}
	defer top.Close()
	inside := path.Join(".zfs", "snapshot", v.Name.String())
	fd, err := unix.Openat2(int(top.Fd()), inside, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, hidden(&os.PathError{Op: "open", Path: path.Join(top.Name(), inside), Err: err})
	}
	d := os.NewFile(uintptr(fd), path.Join(top.Name(), inside))
	var there, volumes unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &there), unix.Fstat(int(top.Fd()), &volumes)); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if there.Dev == volumes.Dev { // a tenant's own folder of that name, or one that is not mounted
		return nil, errors.Join(hidden(errors.New("it is not mounted there")), d.Close())
	}
	return d, nil
}
