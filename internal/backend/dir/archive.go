package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/volume"
)

// archivePath is where an archive lies if not beside the volumes: below the root.
func archivePath(folder string, v volume.Volume) string {
	return path.Join(folder, "archive", v.Name.String(), v.Path.String())
}

// Archive implements volume.Archiver. The steps are: a record that says where to, the
// move, a record that says that it is there. In between, the directory is at one of the
// two places, which are both nobody else's.
func (b *Backend) Archive(ctx context.Context, n volume.Name, take func(volume.RelPath) error) (volume.Volume, error) {
	v, err := b.Get(ctx, n)
	if err != nil {
		return volume.Volume{}, err
	}
	switch v.State {
	case volume.StateArchived:
		return v, nil
	case volume.StateArchiving:
	case volume.StateReady, volume.StateCreating:
		if undone, err := b.undoRestore(ctx, v); undone || err != nil {
			return volume.Volume{}, err
		}
		if there, err := b.exists(v.Path.String()); err != nil || !there {
			return volume.Volume{}, errors.Join(err, noDirectory(v))
		}
		if v, err = b.choosePlace(ctx, v, take); err != nil {
			return volume.Volume{}, err
		}
	default:
		return volume.Volume{}, fmt.Errorf("%w: volume %s is %s and cannot be archived", volume.ErrConflict, n, v.State)
	}
	if err := b.unmount(ctx, v); err != nil {
		return volume.Volume{}, err
	}
	if err := b.finishArchiving(v); err != nil {
		return volume.Volume{}, fmt.Errorf("volume %s: moving it to the archive: %w", n, err)
	}
	b.tidy(v.Path.String())
	v.State = volume.StateArchived
	return b.save(v)
}

func noDirectory(v volume.Volume) error {
	return fmt.Errorf("%w: volume %s has no directory at %s", volume.ErrNotFound, v.Name, v.Dir)
}

// finishArchiving moves the directory of v, which is archiving, if that has not been done.
func (b *Backend) finishArchiving(v volume.Volume) error {
	there, err := b.exists(v.ArchivePath)
	if err != nil || there {
		return err
	}
	if err := b.occupy(v.ArchivePath); err != nil {
		return err
	}
	err = b.moveTo(v.Path.String(), v.ArchivePath)
	if errors.Is(err, fs.ErrNotExist) {
		return noDirectory(v)
	}
	return err
}

// choosePlace writes into v's record where it is going to be archived.
func (b *Backend) choosePlace(ctx context.Context, v volume.Volume, take func(volume.RelPath) error) (volume.Volume, error) {
	v.State, v.Ended = volume.StateArchiving, time.Now().UTC().Truncate(time.Second)
	if b.beside {
		for _, try := range []string{"archived-" + v.Path.String(), "archived-" + v.Name.String() + "/" + v.Path.String()} {
			p, err := volume.ParseRelPath(try)
			if err != nil { // too long
				continue
			}
			if there, err := b.exists(try); err != nil || there || take(p) != nil {
				continue
			}
			v.ArchivePath = try
			if v, err = b.save(v); err != nil {
				return volume.Volume{}, err
			}
			if err := b.others.check(ctx, b, v, p); err == nil {
				return v, nil
			}
		}
	}
	v.ArchivePath = archivePath(b.folder, v)
	return b.save(v)
}

// Release implements volume.Archiver.
func (b *Backend) Release(ctx context.Context, n volume.Name) error {
	v, err := b.Get(ctx, n)
	if err != nil {
		return err
	}
	if err := b.unmount(ctx, v); err != nil {
		return err
	}
	// A record that came again with a power failure would hold its path for good.
	return errors.Join(b.records.remove(n, recordSuffix), syncFolder(b.records.dir))
}

// Measure implements volume.Archiver.
func (b *Backend) Measure(ctx context.Context, v volume.Volume) (int64, error) {
	parent, name, err := b.openParent(b.place(v))
	if err != nil {
		return 0, err
	}
	defer parent.Close()
	return measure(ctx, parent, name, 0)
}

// source gives the volume that v, which is new, gets its content of.
func (b *Backend) source(ctx context.Context, v volume.Volume) (volume.Volume, error) {
	from, err := b.Get(ctx, v.RestoredFrom)
	if err != nil {
		return volume.Volume{}, fmt.Errorf("volume %s: what it shall be restored from: %w", v.Name, err)
	}
	if from.State != volume.StateArchived && from.State != volume.StateRetained {
		return volume.Volume{}, fmt.Errorf("%w: volume %s shall be restored from %s, which is %s, neither archived nor retained",
			volume.ErrNotFound, v.Name, from.Name, from.State)
	}
	return from, nil
}

// restore moves the content that v shall have to v's path, and removes the record that
// it had. A crash before the move leaves v "creating" and the archive whole; one
// after it, v has the content, and the next call finds that the archive is empty. Only
// then the archive's record goes, and only then v becomes ready.
func (b *Backend) restore(ctx context.Context, v volume.Volume) (*os.File, error) {
	from, err := b.source(ctx, v)
	if errors.Is(err, volume.ErrNotFound) { // done before
		return b.openTree(v)
	}
	if err != nil {
		return nil, err
	}
	if old := b.place(from); old != v.Path.String() {
		if err := b.moveTo(old, v.Path.String()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			there, existsErr := b.exists(old)
			if there || existsErr != nil {
				return nil, errors.Join(err, existsErr)
			}
		}
	}
	d, err := b.openTree(v)
	if err != nil {
		return nil, fmt.Errorf("the content of volume %s: %w", from.Name, err)
	}
	b.tidy(b.place(from))
	if err := errors.Join(b.syncParent(v), b.records.remove(from.Name, recordSuffix), syncFolder(b.records.dir)); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// undoRestore gives back what v, which is not ready yet, was to be restored from, if that
// still has its record. It says whether v is gone then.
func (b *Backend) undoRestore(ctx context.Context, v volume.Volume) (undone bool, err error) {
	if v.State != volume.StateCreating || v.RestoredFrom == (volume.Name{}) {
		return false, nil
	}
	from, err := b.source(ctx, v)
	if errors.Is(err, volume.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	there, err := b.exists(b.place(from))
	if err == nil && !there {
		err = b.moveTo(v.Path.String(), b.place(from))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("volume %s: giving back the content of %s: %w", v.Name, from.Name, err)
	}
	b.tidy(v.Path.String())
	return true, b.records.remove(v.Name, recordSuffix)
}

// measureDepth is how many folders measure holds open; what lies deeper is not counted.
const measureDepth = 200

// measure counts the bytes of name in folder, and of all that is in it.
func measure(ctx context.Context, folder *os.File, name string, depth int) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	var s unix.Stat_t
	if err := unix.Fstatat(int(folder.Fd()), name, &s, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, pathError("stat", path.Join(folder.Name(), name), err)
	}
	bytes := s.Blocks * 512
	if s.Mode&unix.S_IFMT != unix.S_IFDIR {
		return bytes / int64(max(s.Nlink, 1)), nil // each of its names gives its part
	}
	if depth == measureDepth {
		return bytes, nil
	}
	d, err := openBelow(folder, name, resolve)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(1024)
		for _, name := range names {
			below, err := measure(ctx, d, name, depth+1)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return 0, err
			}
			bytes += below
		}
		if len(names) == 0 {
			if err != nil && !errors.Is(err, io.EOF) {
				return 0, err
			}
			return bytes, nil
		}
	}
}
