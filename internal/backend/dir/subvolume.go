package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/btrfs"
	"github.com/berth-storage/berth/internal/volume"
)

// deletionPatience is how long Purge waits for a subvolume to be gone.
const deletionPatience = 5 * time.Second

// subvolumes makes each volume a subvolume of btrfs, limited by its qgroup. If there
// are no quotas new volumes are plain directories, which need no mounts.
type subvolumes struct{ b *Backend }

func (s subvolumes) admit(v *volume.Volume) error { return plain(s).admit(v) }

func (s subvolumes) build(v volume.Volume) (*os.File, error) {
	if !s.b.enforces() {
		return plain(s).build(v)
	}
	return s.make(v)
}

// limit comes after owner and mode are set: with a very small one even that is refused.
func (s subvolumes) limit(v *volume.Volume, d *os.File) error {
	if !s.b.enforces() {
		return nil
	}
	id, _, err := btrfs.SubvolumeID(d)
	if err != nil {
		return err
	}
	v.QuotaID, v.Limit = id, LimitBtrfs
	return btrfs.SetLimit(s.b.rootDir, id, uint64(v.Size))
}

// make makes v's subvolume, unless a run that was cut off has. An empty directory is
// what one without quotas has left.
func (s subvolumes) make(v volume.Volume) (*os.File, error) {
	err := s.b.inParent(s.b.home(v), func(parent *os.File, name string) error {
		err := btrfs.CreateSubvolume(parent, name)
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
		d, err := s.b.openTree(v)
		if err != nil {
			return err
		}
		_, top, err := btrfs.SubvolumeID(d)
		if err := errors.Join(err, d.Close()); err != nil || top {
			return err
		}
		if err := unix.Unlinkat(int(parent.Fd()), name, unix.AT_REMOVEDIR); err != nil {
			return fmt.Errorf("making room for subvolume %s: %w", v.Dir, err)
		}
		return btrfs.CreateSubvolume(parent, name)
	})
	if err != nil {
		return nil, err
	}
	return s.b.openTree(v)
}

// settle commits: syncing directories leaves the limit out.
func (s subvolumes) settle(v volume.Volume, built *os.File) error {
	if !s.b.enforces() {
		return plain(s).settle(v, built)
	}
	return btrfs.Commit(built)
}

// settleClone is limit and settle for a snapshot that was just made. It has the limit of what it was
// made of, and that is as durable as itself: most clones are of the same size, and need no second commit.
func (s subvolumes) settleClone(v *volume.Volume, built *os.File) error {
	if !s.b.enforces() {
		return s.settle(*v, built)
	}
	id, _, err := btrfs.SubvolumeID(built)
	if err != nil {
		return err
	}
	if _, limit, err := btrfs.Usage(s.b.rootDir, id); err == nil && limit == uint64(v.Size) {
		v.QuotaID, v.Limit = id, LimitBtrfs
		return built.Sync() // for its owner and mode
	}
	if err := s.limit(v, built); err != nil {
		return err
	}
	return s.settle(*v, built)
}

func (subvolumes) notice(*volume.Volume) error { return nil }

func (s subvolumes) resize(v volume.Volume) error {
	if v.Inodes > 0 {
		return inodesUnsupported(v)
	}
	if err := btrfs.SetLimit(s.b.rootDir, v.QuotaID, uint64(v.Size)); err != nil {
		return err
	}
	return btrfs.Commit(s.b.rootDir)
}

func (subvolumes) round(bytes uint64) uint64 { return bytes }

func (s subvolumes) usage(v volume.Volume) (volume.Usage, error) {
	used, limit, err := btrfs.Usage(s.b.rootDir, v.QuotaID)
	if errors.Is(err, btrfs.ErrNoQuota) {
		err = fmt.Errorf("%w: %w", volume.ErrUnsupported, err)
	}
	return volume.Usage{Bytes: used, LimitBytes: limit}, err
}

func (s subvolumes) remove(ctx context.Context, v volume.Volume, parent *os.File, name string) error {
	switch id, err := subvolumeAt(parent, name); {
	case err != nil:
		return err
	case id != 0: // a run that was cut off may have made it after it wrote the record
		v.QuotaID = id
	}
	if err := removeTree(ctx, parent, name, nil); err != nil {
		return err
	}
	if v.QuotaID == 0 {
		return nil
	}
	// Its bytes are freed when it is really gone, and until then it is counted. The
	// commit sets about it, which else would be half a minute later.
	if err := btrfs.Commit(s.b.rootDir); err != nil {
		return err
	}
	// A server that has files of it open, for a client that went away without a word,
	// keeps it; others must not have to wait for that.
	waiting, stop := context.WithTimeoutCause(ctx, deletionPatience, fmt.Errorf("%w: something has files open in subvolume %d still", volume.ErrBusy, v.QuotaID))
	defer stop()
	if err := btrfs.AwaitDeleted(waiting, s.b.rootDir, v.QuotaID); err != nil {
		return err
	}
	// EBUSY: simple quotas still count what its snapshots share. The id is not used again.
	if err := btrfs.RemoveQGroup(s.b.rootDir, v.QuotaID); !errors.Is(err, unix.EBUSY) {
		return err
	}
	return nil
}

// subvolumeAt gives the id of the subvolume whose top directory is called name in parent;
// 0 if there is none.
func subvolumeAt(parent *os.File, name string) (uint64, error) {
	d, err := openBelow(parent, name, resolve)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, volume.ErrForeign) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer d.Close()
	id, top, err := btrfs.SubvolumeID(d)
	if !top {
		id = 0
	}
	return id, err
}

func (subvolumes) forget(volume.Volume) {}
