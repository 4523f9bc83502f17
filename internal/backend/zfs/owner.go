package zfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/volume"
)

// own gives the top directory of v its owner and mode.
func (b *Backend) own(ctx context.Context, v volume.Volume) error {
	if !b.o.Local {
		return b.ownByCommands(ctx, v)
	}
	d, err := b.open(v.Path)
	if err != nil {
		return err
	}
	defer d.Close()
	// In this order, because a change of the owner may take away set-id bits (chown(2)).
	if err := d.Chown(int(v.Owner.UID), int(v.Owner.GID)); err != nil {
		return err
	}
	return unix.Fchmod(int(d.Fd()), v.Owner.Mode)
}

// ownByCommands needs v mounted: else what lies below its mountpoint would be changed.
func (b *Backend) ownByCommands(ctx context.Context, v volume.Volume) error {
	if _, err := b.run(ctx, "chown", fmt.Sprintf("%d:%d", v.Owner.UID, v.Owner.GID), v.Dir); err != nil {
		return err
	}
	_, err := b.run(ctx, "chmod", fmt.Sprintf("%04o", v.Owner.Mode), v.Dir)
	return err
}

// open opens the top directory of the dataset at p, and nothing else: a dataset that is
// not mounted, or not in sight of this process, has the parent's device number.
func (b *Backend) open(p volume.RelPath) (*os.File, error) {
	at := p.Below(b.root)
	fd, err := unix.Openat2(int(b.rootDir.Fd()), p.String(), &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: at, Err: err}
	}
	d := os.NewFile(uintptr(fd), at)
	var top, root unix.Stat_t
	err = errors.Join(unix.Fstat(fd, &top), unix.Fstat(int(b.rootDir.Fd()), &root))
	if err == nil && top.Dev == root.Dev {
		err = fmt.Errorf("the dataset is not mounted at %s as far as this process can see: in a container, that needs mountPropagation Bidirectional or HostToContainer", at)
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// owner reads the owner and mode of the dataset at p.
func (b *Backend) owner(p volume.RelPath) (volume.Owner, error) {
	d, err := b.open(p)
	if err != nil {
		return volume.Owner{}, err
	}
	defer d.Close()
	var s unix.Stat_t
	if err := unix.Fstat(int(d.Fd()), &s); err != nil {
		return volume.Owner{}, &os.PathError{Op: "stat", Path: d.Name(), Err: err}
	}
	return volume.Owner{UID: s.Uid, GID: s.Gid, Mode: s.Mode & 0o7777}, nil
}

// isSettled says whether v, whose record says that it is being made, was made by a
// process that is gone: its owner and mode came last, so they tell, unless they are the
// same as before. Its user may have changed them since; then the volume is made once
// more, which is no more than setting them again.
func (b *Backend) isSettled(v volume.Volume, d *dataset) bool {
	if !b.o.Local || v.IsCopy() || d.value("mounted") != "yes" || d.value("mountpoint") != v.Path.Below(b.root) {
		return false
	}
	has, err := b.owner(v.Path)
	left := has.UID == factory.UID && v.Owner.UID != factory.UID || has.GID == factory.GID && v.Owner.GID != factory.GID ||
		has.Mode == factory.Mode && v.Owner.Mode != factory.Mode
	return err == nil && !left
}

// mountUnsettled mounts v, whose record says that it is being made, if the host has not: isSettled can tell then whether
// it was made to its end. A claim may have it already, and would find it neither mounted nor shared.
func (b *Backend) mountUnsettled(ctx context.Context, v volume.Volume) {
	if !b.o.Local || v.IsCopy() {
		return
	}
	if err := b.Mount(ctx, v); err != nil {
		b.o.Log.Warn("cannot see whether a volume was made to its end", "volume", v.Name.String(), "err", err)
	}
}

// Mount implements volume.Mounter. ZFS mounts its datasets by itself when they are made
// and when the host starts; this is for those that it could not mount then.
func (b *Backend) Mount(ctx context.Context, v volume.Volume) error {
	name := b.dataset(v.Name)
	if b.seen.mounted(name) {
		return nil
	}
	if _, d, err := b.read(ctx, v.Name); err != nil || d.value("mounted") == "yes" {
		return err
	}
	if _, err := b.zfs(ctx, "mount", name); err != nil && !said(err, saysMounted) {
		if strings.Contains(err.Error(), "directory is not empty") {
			err = fmt.Errorf("something lies where it is to be mounted; move it away: %w", err)
		}
		return fmt.Errorf("mounting volume %s: %w", v.Name, meaning(err))
	}
	b.seen.mount(name)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.remounted[name] = true
	return nil
}

// wasMounted says whether Mount has mounted a dataset; shares ZFS makes when the host starts, of what
// is mounted then.
func (b *Backend) wasMounted(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.remounted[name]
}
