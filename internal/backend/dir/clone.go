package dir

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/btrfs"
	"github.com/berth-storage/berth/internal/volume"
)

// filling is what a clone needs beside its record.
type filling struct {
	content  *volume.Content // of another pool; nil: it is in this one
	progress *volume.Progress
}

// Clone implements volume.Cloner. A subvolume of btrfs is cloned by a snapshot that can be
// written to; all else is copied.
func (b *Backend) Clone(ctx context.Context, s volume.Spec, p *volume.Progress) (volume.Volume, error) {
	if err := s.Validate(); err != nil {
		return volume.Volume{}, err
	}
	if err := ctx.Err(); err != nil {
		return volume.Volume{}, err
	}
	if s.From == nil || s.From.Volume == (volume.Name{}) || s.From.Pool != "" {
		return volume.Volume{}, fmt.Errorf("%w: volume %s: nothing to clone", volume.ErrInvalid, s.Name)
	}
	return b.create(ctx, s, filling{progress: p})
}

// Fill implements volume.Filler. Where both pools are on one file system with reflinks, these are used.
func (b *Backend) Fill(ctx context.Context, s volume.Spec, c volume.Content, p *volume.Progress) (volume.Volume, error) {
	if err := s.Validate(); err != nil {
		return volume.Volume{}, err
	}
	if err := ctx.Err(); err != nil {
		return volume.Volume{}, err
	}
	if s.From == nil || s.From.Pool == "" {
		return volume.Volume{}, fmt.Errorf("%w: volume %s: nothing to copy", volume.ErrInvalid, s.Name)
	}
	return b.create(ctx, s, filling{&c, p})
}

// OpenTree implements volume.Reader.
func (b *Backend) OpenTree(ctx context.Context, v volume.Volume) (*os.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return b.openTree(v)
}

// original gives the volume or snapshot whose content the clone v gets. ErrNotFound if
// that is not there, or not as it has to be.
func (b *Backend) original(ctx context.Context, v volume.Volume) (volume.Volume, error) {
	n, state := v.ClonedFrom, volume.StateReady
	if v.FromSnapshot != (volume.Name{}) {
		n, state = v.FromSnapshot, volume.StateSnapshot
	}
	from, err := b.Get(ctx, n)
	switch {
	case err != nil:
	case from.State != state:
		err = fmt.Errorf("%w: it is %s, not %s", volume.ErrNotFound, from.State, state)
	case isSnapshot(from) && from.SnapshotOf != v.ClonedFrom:
		err = fmt.Errorf("%w: it is a snapshot of %s, not of %s", volume.ErrInvalid, from.SnapshotOf, v.ClonedFrom)
	}
	if err != nil {
		return volume.Volume{}, fmt.Errorf("volume %s: what it shall be a clone of, %s: %w", v.Name, n, err)
	}
	return from, nil
}

// makeClone makes the directory of v, which is a clone.
func (b *Backend) makeClone(ctx context.Context, v *volume.Volume, f filling) error {
	if f.content != nil {
		return b.makeCopy(ctx, v, f)
	}
	from, err := b.original(ctx, *v)
	if err != nil {
		return err
	}
	source, err := b.openTree(from)
	if err != nil {
		return err
	}
	defer source.Close()
	if err := b.clear(ctx, *v); err != nil {
		return err
	}
	if isSubvolume(source) {
		err = b.cloneSubvolume(v, source)
	} else {
		err = b.cloneTree(ctx, v, source, f.progress)
	}
	if err != nil {
		return err
	}
	if err := b.fits(*v); err != nil {
		return err
	}
	_, err = b.original(ctx, *v) // if it was deleted meanwhile, not all of it may be in the clone
	return err
}

// makeCopy makes the directory of v, whose content is of another pool.
func (b *Backend) makeCopy(ctx context.Context, v *volume.Volume, f filling) error {
	if err := b.clear(ctx, *v); err != nil {
		return err
	}
	if err := b.cloneTree(ctx, v, f.content.Tree, f.progress); err != nil {
		return err
	}
	if err := b.fits(*v); err != nil {
		return err
	}
	return f.content.Still(ctx)
}

func (b *Backend) cloneSubvolume(v *volume.Volume, source *os.File) error {
	d, err := b.snapshotSubvolume(*v, source, false)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := own(v, d); err != nil {
		return err
	}
	return subvolumes{b}.settleClone(v, d)
}

// fits says whether what is in v, which is a clone, is within v's limit: a snapshot of btrfs is
// made whatever is in it, and ext4 limits nobody with the capability SYS_RESOURCE.
func (b *Backend) fits(v volume.Volume) error {
	if v.Limit == volume.LimitNone {
		return nil
	}
	u, err := b.limiter.usage(v)
	switch {
	case err != nil:
		return err
	case u.LimitBytes != 0 && u.Bytes > u.LimitBytes:
		return fmt.Errorf("%w: what it is a clone of takes up %d bytes, and it may have %d", volume.ErrNoSpace, u.Bytes, u.LimitBytes)
	case u.LimitInodes != 0 && u.Inodes > u.LimitInodes:
		return fmt.Errorf("%w: what it is a clone of has %d files and folders, and it may have %d", volume.ErrNoSpace, u.Inodes, u.LimitInodes)
	}
	return nil
}

func (b *Backend) cloneTree(ctx context.Context, v *volume.Volume, source *os.File, p *volume.Progress) error {
	d, err := b.limiter.build(*v)
	if err != nil {
		return err
	}
	defer d.Close()
	// The limit comes first: it counts what is copied, and ends it when it is too much. The
	// record has it, so that it goes with the copy, whose size does not tell whose it is.
	if err := b.limiter.limit(v, d); err != nil {
		return err
	}
	if v.Limit != volume.LimitNone {
		if *v, err = b.save(*v); err != nil {
			return err
		}
	}
	if err := b.copyTree(ctx, source, d, p); err != nil {
		return err
	}
	if err := own(v, d); err != nil {
		return err
	}
	return b.limiter.settle(*v, d)
}

// clear removes what a run that was cut off has made of v, a clone or snapshot: it may be a
// part of what it has to be.
func (b *Backend) clear(ctx context.Context, v volume.Volume) error {
	parent, name, err := b.openParent(b.home(v))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := b.limiter.remove(ctx, v, parent, name); err != nil {
		return fmt.Errorf("removing what there is of %s from an earlier try: %w", v.Name, err)
	}
	return nil
}

// isSubvolume says whether d is the top directory of a subvolume of btrfs.
func isSubvolume(d *os.File) bool {
	_, top, err := btrfs.SubvolumeID(d)
	return err == nil && top // what cannot be told can be copied
}

// snapshotSubvolume makes v's directory a snapshot of source, the top directory of a subvolume.
func (b *Backend) snapshotSubvolume(v volume.Volume, source *os.File, readOnly bool) (*os.File, error) {
	err := b.inParent(b.home(v), func(parent *os.File, name string) error {
		return btrfs.Snapshot(parent, name, source, readOnly)
	})
	if err != nil {
		return nil, err
	}
	return b.openTree(v)
}
