package zfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/mountinfo"
	"github.com/berth-storage/berth/internal/volume"
)

// flushPause is above the second in which Linux counts; see unmount.
const flushPause = 2500 * time.Millisecond

// openZFS is what mountinfo calls a file system of OpenZFS.
const openZFS = "zfs"

// unmount ends what Mount does, for a volume that is exported no more. zfs unmount has the NFS server
// flush what it remembers, also if it fails. Linux counts in seconds there: of several flushes in one second
// each puts off the forgetting by a second more (write_flush in net/sunrpc/cache.c), for all that the server
// exports. So on this host it is a system call, and elsewhere there are pauses.
// zfs-fuse has to do it itself: it is not done yet when the system call returns, and hangs with what comes next.
func (b *Backend) unmount(ctx context.Context, n volume.Name, d *dataset) error {
	at, pause := d.value("mountpoint"), flushPause
	if !strings.HasPrefix(at, "/") {
		return nil // somebody has said none or legacy: ZFS does not mount it
	}
	if b.o.Local {
		mounts, err := mountinfo.Read() // and not what zfs said, which may be old
		if err != nil {
			return err
		}
		m, found := mountinfo.At(mounts, at)
		if found && m.Type == openZFS && m.Source == d.name {
			return b.unmountHere(ctx, n, m, mounts)
		}
		pause = busyFirst
	}
	err := b.whileBusy(ctx, pause, func() error {
		_, err := b.zfs(ctx, "unmount", d.name)
		return err
	})
	if said(err, saysUnmounted) {
		return nil
	}
	return err
}

// unmountHere unmounts m, the dataset of n, as one of the mounts of this host.
func (b *Backend) unmountHere(ctx context.Context, n volume.Name, m mountinfo.Mount, mounts []mountinfo.Mount) error {
	err := unmountNow(m.Point, 0)
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	for _, other := range mounts { // they would go along
		if strings.HasPrefix(other.Point, m.Point+"/") && !strings.HasPrefix(other.Source, m.Source+"@") {
			return fmt.Errorf("%w: there is something mounted in it, at %s: unmount that", volume.ErrBusy, other.Point)
		}
	}
	if b.o.Release != nil {
		if err := b.o.Release(ctx, m.Point, m.Device); err != nil {
			b.o.Log.Warn("the NFS server may keep the bytes of a deleted volume", "volume", n.String(), "err", err)
		}
	}
	// What a client has open it cannot close any more, as its file handle is not exported; it reaches
	// nothing by it either. So nobody waits for clients: the dataset goes out of sight, and Purge waits.
	return unmountNow(m.Point, unix.MNT_DETACH)
}

func unmountNow(at string, flags int) error {
	err := unix.Unmount(at, unix.UMOUNT_NOFOLLOW|flags)
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // not mounted any more
		return nil
	}
	return &os.PathError{Op: "unmount", Path: at, Err: err}
}

// destroy destroys a dataset that is discarded; dir is where it was mounted. A server may keep it
// busy for clients that are gone, also since before this process was started.
func (b *Backend) destroy(ctx context.Context, d *dataset, dir string) error {
	err := b.alone(ctx, func() error {
		_, err := b.zfs(ctx, "destroy", d.name)
		return err
	})
	if !said(err, saysBusy) {
		return err
	}
	if b.o.Release != nil {
		if err := b.o.Release(ctx, dir, 0); err != nil {
			return fmt.Errorf("having the NFS server let go of it: %w", err)
		}
	}
	return b.patiently(ctx, "destroy", d.name)
}
