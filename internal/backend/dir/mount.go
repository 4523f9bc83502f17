package dir

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/btrfs"
	"github.com/berth-storage/berth/internal/volume"
)

const (
	unmountTries = 8
	unmountPause = 5 * time.Millisecond // doubled after each try: 1.3 s in all
)

// Mount implements volume.Mounter. NFS-Ganesha serves a subvolume of btrfs only if it is
// mounted by itself, so it is mounted once more where it is. Such a mount outlives a
// process that is killed; the next one finds it.
func (b *Backend) Mount(_ context.Context, v volume.Volume) error {
	if !b.mountVolumes {
		return nil
	}
	if _, isBtrfs := b.limiter.(subvolumes); !isBtrfs {
		return nil
	}
	if err := b.mount(v); err != nil {
		return fmt.Errorf("volume %s: mounting its subvolume for the NFS server: %w", v.Name, err)
	}
	return nil
}

func (b *Backend) mount(v volume.Volume) error {
	d, err := b.openTree(v)
	if err != nil {
		return err
	}
	defer d.Close()
	id, top, err := btrfs.SubvolumeID(d)
	if err != nil || !top {
		return err // a directory as any other needs no mount
	}
	if v.QuotaID != 0 && id != v.QuotaID {
		return fmt.Errorf("%w: %s is subvolume %d, the record says %d", volume.ErrForeign, v.Dir, id, v.QuotaID)
	}
	mounted, err := isMount(int(d.Fd()))
	if err != nil {
		return err
	}
	if !mounted {
		// By the descriptor: whatever the path comes to mean, it is this subvolume.
		self := fmt.Sprintf("/proc/self/fd/%d", d.Fd())
		if err := unix.Mount(self, self, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount(2), which needs the capability SYS_ADMIN: %w", err)
		}
	}
	b.mountsMu.Lock()
	defer b.mountsMu.Unlock()
	b.mounts[v.Name] = v
	return nil
}

// isMount says whether fd is the top of a mount.
func isMount(fd int) (bool, error) {
	var s unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, 0, &s); err != nil {
		return false, fmt.Errorf("statx: %w", err)
	}
	return s.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// unmount ends what Mount did, and what one before a crash did.
func (b *Backend) unmount(ctx context.Context, v volume.Volume) error {
	if _, isBtrfs := b.limiter.(subvolumes); !isBtrfs {
		return nil
	}
	pause := unmountPause
	for try := 1; ; try++ {
		err := b.unmountOnce(v, 0)
		if err == nil {
			b.mountsMu.Lock()
			defer b.mountsMu.Unlock()
			delete(b.mounts, v.Name)
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("volume %s: unmounting its subvolume: %w", v.Name, err)
		}
		if try == unmountTries {
			return fmt.Errorf("%w: volume %s: something still uses its mount at %s: %w", volume.ErrBusy, v.Name, v.Dir, err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
			pause *= 2
		}
	}
}

// unmountOnce unmounts all that is mounted at v's path.
func (b *Backend) unmountOnce(v volume.Volume, flags int) error {
	parent, name, err := b.openParent(v.Path.String())
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	// Through its folder's descriptor, which stays that whatever is renamed.
	path := fmt.Sprintf("/proc/self/fd/%d/%s", parent.Fd(), name)
	for {
		err := unix.Unmount(path, flags|unix.UMOUNT_NOFOLLOW)
		// EINVAL: nothing is mounted there. EPERM: nothing could have been by us.
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPERM) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// unmountAll leaves no mount behind, so that the pool's file system can be unmounted.
func (b *Backend) unmountAll() error {
	b.mountsMu.Lock()
	defer b.mountsMu.Unlock()
	var failed []error
	for _, v := range b.mounts {
		failed = append(failed, b.unmountOnce(v, unix.MNT_DETACH))
	}
	clear(b.mounts)
	return errors.Join(failed...)
}
