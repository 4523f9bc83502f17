package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/berth-storage/berth/internal/volume"
)

// undo takes back what little of a volume could be made. What it cannot remove stays as
// after a crash, and so does a volume with something in it.
func (b *Backend) undo(ctx context.Context, v volume.Volume) error {
	switch {
	case v.RestoredFrom != volume.Name{}:
		_, err := b.undoRestore(ctx, v)
		return err
	case v.TookOver:
		return b.records.remove(v.Name, recordSuffix)
	}
	if err := b.Discard(ctx, v.Name); err != nil {
		return err
	}
	return b.Purge(ctx, v.Name)
}

// Discard implements volume.Backend.
func (b *Backend) Discard(ctx context.Context, n volume.Name) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	v, before, err := b.records.read(n)
	if err != nil {
		return err
	}
	from := []string{b.home(v)}
	switch before {
	case volume.StateDiscarded:
		return nil
	case volume.StateArchived:
		from = []string{v.ArchivePath}
	case volume.StateArchiving: // cut off before or after its move
		from = []string{v.ArchivePath, v.Path.String()}
	}
	if v.State != volume.StateDiscarded {
		// First the record: after a crash here the next Discard, or Recover,
		// knows that the directory has to go.
		if err := b.records.discard(n); err != nil {
			return err
		}
	} else if there, err := existsIn(b.trash, n.String()); err != nil || there {
		b.tidy(from...)
		return err // done before; what lies at its path since then is another thing
	}
	if isSnapshot(v) {
		if err := b.thaw(v); err != nil {
			return fmt.Errorf("snapshot %s: %w", n, err)
		}
	} else if before != volume.StateArchived { // what is mounted at the path of an archive is another volume
		v.Dir = v.Path.Below(b.path)
		if err := b.unmount(ctx, v); err != nil {
			return err
		}
	}
	if before == volume.StateCreating && !isSnapshot(v) {
		// It may have been cut off before it knew of another cluster's volume at its path. From
		// that one's side: it is not made where a record of ours is, moved or not.
		switch err := b.others.check(ctx, b, v, v.Path); {
		case errors.Is(err, volume.ErrForeign):
			from = nil
		case err != nil:
			return err
		}
	}
	moved := false
	for _, path := range from {
		err := b.move(path, b.trash, n.String())
		if errors.Is(err, fs.ErrNotExist) { // the directory may never have been made
			continue
		}
		if err != nil {
			return fmt.Errorf("volume %s: moving it to the trash: %w", n, err)
		}
		moved = true
		break
	}
	b.tidy(from...)
	if !moved {
		// Nothing in the trash will tell that this was done.
		return b.records.trashed(n)
	}
	return nil
}

// Purge implements volume.Backend.
func (b *Backend) Purge(ctx context.Context, n volume.Name) error {
	v, err := b.Get(ctx, n)
	if err != nil {
		return err
	}
	if v.State != volume.StateDiscarded {
		return fmt.Errorf("%w: volume %s is %s, not discarded", volume.ErrConflict, n, v.State)
	}
	// From here on the trash does not tell any more whether the directory was moved. After a
	// crash nobody may take what lies at its path for it: that may be the next volume.
	if err := b.Discard(ctx, n); err != nil {
		return err
	}
	if err := b.trash.Sync(); err != nil {
		return fmt.Errorf("volume %s: the trash: %w", n, err)
	}
	if err := b.records.trashed(n); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// The limit goes with the bytes that it limits, and not before.
	if err := b.limiter.remove(ctx, v, b.trash, n.String()); err != nil {
		return fmt.Errorf("volume %s: emptying the trash: %w", n, err)
	}
	// The record goes last: as long as there is one, there may be bytes to free.
	if err := b.records.remove(n, trashedSuffix); err != nil {
		return err
	}
	b.limiter.forget(v)
	return nil
}
