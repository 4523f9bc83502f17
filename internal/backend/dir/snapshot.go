package dir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/btrfs"
	"github.com/berth-storage/berth/internal/volume"
)

func isSnapshot(v volume.Volume) bool { return v.SnapshotOf != volume.Name{} }

// Snapshot implements volume.Snapshotter. Its directory lies in Berth's own folder, where
// nothing limits it. The steps are: a record, the directory, a record that says that it
// is complete. What a run that was cut off has made of it is made again.
func (b *Backend) Snapshot(ctx context.Context, s volume.SnapshotSpec, p *volume.Progress) (volume.Volume, error) {
	if err := s.Validate(); err != nil {
		return volume.Volume{}, err
	}
	if err := ctx.Err(); err != nil {
		return volume.Volume{}, err
	}
	old, err := b.Get(ctx, s.Name)
	begun := err == nil // by an earlier call
	switch {
	case errors.Is(err, volume.ErrNotFound):
	case err != nil:
		return volume.Volume{}, err
	case !old.IsSnapshot(s):
		return volume.Volume{}, fmt.Errorf("%w: %s is not the snapshot of %s for namespace %s that is asked for", volume.ErrExists, s.Name, s.Of, s.Namespace)
	case old.State == volume.StateDiscarded:
		return volume.Volume{}, fmt.Errorf("%w: snapshot %s is discarded and not purged yet", volume.ErrBusy, s.Name)
	case old.State == volume.StateSnapshot:
		return old, nil
	}
	of, err := b.photographed(ctx, s)
	if err != nil {
		return volume.Volume{}, err
	}
	v := volume.NewSnapshot(s, of, time.Now())
	v.Rev = old.Rev
	if v, err = b.save(v); err != nil {
		return volume.Volume{}, err
	}
	taken, err := b.finishSnapshot(ctx, v, s, p)
	if errors.Is(err, volume.ErrNoSpace) || errors.Is(err, volume.ErrUnsupported) {
		if after := context.WithoutCancel(ctx); begun {
			err = errors.Join(err, b.clear(after, v))
		} else {
			err = errors.Join(err, b.undo(after, v))
		}
	}
	return taken, err
}

// photographed gives the volume that s asks for a snapshot of.
func (b *Backend) photographed(ctx context.Context, s volume.SnapshotSpec) (volume.Volume, error) {
	of, err := b.Get(ctx, s.Of)
	if err == nil && of.State != volume.StateReady {
		err = fmt.Errorf("%w: it is %s", volume.ErrNotFound, of.State)
	}
	if err != nil {
		return volume.Volume{}, fmt.Errorf("snapshot %s of volume %s: %w", s.Name, s.Of, err)
	}
	return of, nil
}

// finishSnapshot makes what v's record announces.
func (b *Backend) finishSnapshot(ctx context.Context, v volume.Volume, s volume.SnapshotSpec, p *volume.Progress) (volume.Volume, error) {
	of, err := b.photographed(ctx, s)
	if err != nil {
		return volume.Volume{}, err
	}
	source, err := b.openTree(of)
	if err != nil {
		return volume.Volume{}, fmt.Errorf("volume %s: %w", of.Name, err)
	}
	defer source.Close()
	err = b.clear(ctx, v)
	switch {
	case err != nil:
	case isSubvolume(source):
		err = b.takeSubvolume(&v, source)
	default:
		err = b.takeCopy(ctx, &v, source, p)
	}
	if err != nil {
		return volume.Volume{}, fmt.Errorf("snapshot %s of volume %s: %w", v.Name, of.Name, noSpace(err))
	}
	// If the volume was deleted meanwhile, not all of it may be in the snapshot.
	if _, err := b.photographed(ctx, s); err != nil {
		return volume.Volume{}, err
	}
	v.State = volume.StateSnapshot
	return b.save(v)
}

// takeSubvolume takes a snapshot of a subvolume, of which nothing can be changed. Its id is
// noted so that its qgroup goes with it.
func (b *Backend) takeSubvolume(v *volume.Volume, source *os.File) error {
	d, err := b.snapshotSubvolume(*v, source, true)
	if err != nil {
		return err
	}
	defer d.Close()
	v.QuotaID, _, err = btrfs.SubvolumeID(d)
	return err
}

func (b *Backend) takeCopy(ctx context.Context, v *volume.Volume, source *os.File, p *volume.Progress) error {
	v.Copied = true
	d, err := plain{b}.build(*v)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := b.copyTree(ctx, source, d, p); err != nil {
		return err
	}
	return plain{b}.settle(*v, d)
}

// thaw makes the directory of a snapshot one that can be moved, if btrfs lets nobody.
func (b *Backend) thaw(v volume.Volume) error {
	d, err := b.openTree(v)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, volume.ErrForeign) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	if !isSubvolume(d) {
		return nil
	}
	return btrfs.MakeWritable(d)
}
