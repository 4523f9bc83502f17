package zfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/volume"
)

// flushPause is above the second in which Linux counts; see unmount.
const flushPause = 2500 * time.Millisecond

// superMagic is what statfs(2) calls a file system of OpenZFS.
const superMagic = 0x2fc12fc1

// unmount ends what Mount does, for a volume that is exported no more. On this host that is a system
// call, because zfs unmount has the NFS server flush what it remembers, also if it fails: Linux counts
// in seconds there, and of flushes within one second each puts off the forgetting by another second
// (write_flush in net/sunrpc/cache.c), for all that the server exports. Where only zfs can do it there are pauses.
// zfs-fuse has to do it itself: it has not done yet when the system call returns, and hangs with what comes next.
func (b *Backend) unmount(ctx context.Context, n volume.Name, d *dataset) error {
	if d.value("mounted") != "yes" {
		return nil
	}
	at, pause := d.value("mountpoint"), flushPause
	if b.o.Local {
		var here unix.Statfs_t
		if err := unix.Statfs(at, &here); err == nil && here.Type == superMagic {
			return b.unmountHere(ctx, n, at)
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

func (b *Backend) unmountHere(ctx context.Context, n volume.Name, at string) error {
	return b.alone(ctx, func() error {
		err := unmountNow(at, 0)
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		if err := b.letGo(ctx, n, at); err != nil {
			b.o.Log.Warn("the NFS server may keep the bytes of a deleted volume", "volume", n.String(), "err", err)
		}
		// What a client has open it cannot close any more, as its file handle is not exported; it reaches
		// nothing by it either. So nobody waits for clients: the dataset goes out of sight, and Purge waits.
		return unmountNow(at, unix.MNT_DETACH)
	})
}

func unmountNow(at string, flags int) error {
	err := unix.Unmount(at, unix.UMOUNT_NOFOLLOW|flags)
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // not mounted any more
		return nil
	}
	return &os.PathError{Op: "unmount", Path: at, Err: err}
}

// letGo has a server let go of n, which is mounted at dir, and remembers how the server
// calls it, for when it is not mounted any more.
func (b *Backend) letGo(ctx context.Context, n volume.Name, dir string) error {
	if b.o.Release == nil {
		return nil
	}
	var top unix.Stat_t
	if err := unix.Stat(dir, &top); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	b.mu.Lock()
	b.devices[n] = top.Dev
	b.mu.Unlock()
	return b.o.Release(ctx, dir, top.Dev)
}

// destroy destroys the dataset of n, which is discarded. A server may keep it busy for clients that
// are gone.
func (b *Backend) destroy(ctx context.Context, n volume.Name, d *dataset, dir string) error {
	b.mu.Lock()
	device := b.devices[n]
	b.mu.Unlock()
	if device != 0 {
		if err := b.o.Release(ctx, dir, device); err != nil {
			return fmt.Errorf("having the NFS server let go of it: %w", err)
		}
	}
	err := b.patiently(ctx, "destroy", d.name)
	if err == nil {
		b.mu.Lock()
		delete(b.devices, n)
		b.mu.Unlock()
	}
	return err
}
