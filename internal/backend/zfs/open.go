package zfs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/volume"
)

// LockedError is Open's answer when another process has the pool open.
type LockedError struct{ Dataset string }

func (e *LockedError) Error() string {
	return fmt.Sprintf("dataset %s is in use by another process: stop it, or start this one with --standby to take over when it ends", e.Dataset)
}

const lockPoll = 500 * time.Millisecond

// Open opens the pool below o.Dataset; at any time one process works on it. A local pool
// that another one has open is a *LockedError. An error that is volume.ErrUnknown or ErrBusy
// says that the host of the pool did not answer; any other, what is wrong there.
func Open(ctx context.Context, o Options) (_ *Backend, err error) {
	b, err := look(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if err := b.lock(ctx); err != nil {
		return nil, err
	}
	if err := b.openPrivate(ctx); err != nil {
		return nil, fmt.Errorf("dataset %s: %w", b.private(), err)
	}
	all, err := b.ask(ctx, []string{propRecord, "mounted", "mountpoint"}, "-d1", o.Dataset, b.private())
	if err != nil {
		return nil, fmt.Errorf("dataset %s: %w", o.Dataset, err)
	}
	for _, d := range all {
		// For where it is; List tells of those that cannot be read.
		if v, ours, err := b.decode(d); err == nil && ours && v.State == volume.StateCreating {
			b.mountUnsettled(ctx, v)
		}
	}
	l := b.index.list()
	defer b.index.end(l, nil)
	found, err := b.ourSnapshots(ctx, l, all)
	if err != nil {
		return nil, fmt.Errorf("dataset %s: its snapshots: %w", o.Dataset, err)
	}
	return b, b.sweep(ctx, found)
}

// View is a pool to look at. It makes nothing there and takes no lock, so that it works
// beside a process that has the pool open, and on a parent that is no pool yet.
type View struct{ *Backend }

// OpenView opens the parent. ErrInvalid and ErrUnknown are those of Open.
func OpenView(ctx context.Context, o Options) (View, error) {
	b, err := look(ctx, o)
	if err != nil {
		return View{}, err
	}
	if _, err := b.readIdentity(ctx); err != nil {
		return View{}, errors.Join(err, b.Close())
	}
	return View{b}, nil
}

// look opens the parent without changing anything.
func look(ctx context.Context, o Options) (_ *Backend, err error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	b := &Backend{
		o: o, places: map[volume.Name]volume.RelPath{}, discarded: map[volume.Name]bool{}, unsure: map[volume.Name]bool{},
		shared: map[string]bool{}, remounted: map[string]bool{}, unmounting: make(chan struct{}, 1), index: newSnapshotIndex(),
	}
	all, err := b.ask(ctx, []string{"type", "mounted", "mountpoint", "sharenfs", propRecord}, o.Dataset)
	if err != nil {
		return nil, fmt.Errorf("dataset %s: %w", o.Dataset, meaning(err))
	}
	d := find(all, o.Dataset)
	if err := b.checkParent(ctx, d); err != nil {
		return nil, err
	}
	b.root = d.value("mountpoint")
	if b.o.Share == ShareInherit {
		if b.o.Share = d.value("sharenfs"); b.o.Share == off || !printable(b.o.Share) {
			return nil, fmt.Errorf("dataset %s is not shared (its sharenfs is %s), and the volumes are to be shared as it is: set it (zfs set sharenfs=on %s)",
				o.Dataset, b.o.Share, o.Dataset)
		}
	}
	if !o.Local {
		return b, nil
	}
	if b.rootDir, err = openMounted(b.root); err != nil {
		return nil, fmt.Errorf("dataset %s: %w", o.Dataset, err)
	}
	return b, nil
}

// checkParent says what is wrong with the parent, which is nil if it does not exist, and
// the command that mends it.
func (b *Backend) checkParent(ctx context.Context, d *dataset) error {
	name := b.o.Dataset
	pool, _, inPool := strings.Cut(name, "/")
	if d == nil {
		if inPool {
			all, err := b.ask(ctx, []string{"type"}, pool)
			if err != nil {
				return fmt.Errorf("dataset %s: %w", pool, meaning(err))
			}
			if find(all, pool) != nil {
				return fmt.Errorf("dataset %s does not exist: make it (zfs create -p %s)", name, name)
			}
		}
		return fmt.Errorf("dataset %s does not exist, because there is no pool %s: import it (zpool import %s), or make it (zpool create %s and its disks)", name, pool, pool, pool)
	}
	at := d.value("mountpoint")
	switch {
	case d.value("type") != "filesystem":
		return fmt.Errorf("dataset %s is a %s, in which there can be no volumes: make a file system (zfs create -p ANOTHER/NAME)", name, d.value("type"))
	case d.local(propRecord) != "":
		return fmt.Errorf("dataset %s is itself a volume of another pool: choose another one", name)
	case !strings.HasPrefix(at, "/"):
		return fmt.Errorf("dataset %s is mounted nowhere by itself (its mountpoint is %s): give it a place (zfs set mountpoint=/%s %s)", name, at, name, name)
	case d.value("mounted") != "yes":
		return fmt.Errorf("dataset %s is not mounted: mount it (zfs mount %s; if that is not the default here, zfs set canmount=on %s)", name, name, name)
	}
	return nil
}

// openMounted opens the top directory of a mounted file system.
func openMounted(dir string) (*os.File, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	var top, above unix.Stat_t
	err = errors.Join(unix.Fstat(int(d.Fd()), &top), unix.Stat(path.Dir(dir), &above))
	if err == nil && top.Dev == above.Dev && dir != "/" {
		err = fmt.Errorf("it is mounted at %s, and not in sight of this process: in a container, mount that folder of the host there too, with mountPropagation Bidirectional", dir)
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// lock takes the pool's lock, if it is here: a flock(2) on the parent's top directory, which
// ends with the process that holds it.
func (b *Backend) lock(ctx context.Context) error {
	if !b.o.Local {
		return nil
	}
	waited := false
	for {
		err := unix.Flock(int(b.rootDir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EWOULDBLOCK):
			return fmt.Errorf("dataset %s: locking %s: %w", b.o.Dataset, b.root, err)
		case b.o.Wait == nil:
			return &LockedError{b.o.Dataset}
		case !waited:
			b.o.Wait()
			waited = true
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(lockPoll):
		}
	}
}

// openPrivate makes Berth's own dataset, with the pool's identity, if it is not there.
func (b *Backend) openPrivate(ctx context.Context) error {
	found, err := b.readIdentity(ctx)
	if err != nil || found {
		return err
	}
	_, err = b.zfs(ctx, "create", "-o", "mountpoint=none", "-o", "canmount=off", "-o", "sharenfs=off", "-o", propPool+"="+newIdentity(), b.private())
	b.isNew = err == nil
	if err != nil && !said(err, saysExists) { // another process was quicker
		return meaning(err)
	}
	if found, err = b.readIdentity(ctx); err == nil && !found {
		err = fmt.Errorf("%w: it was made, and is not there", volume.ErrUnknown)
	}
	return err
}

func (b *Backend) readIdentity(ctx context.Context) (found bool, err error) {
	all, err := b.ask(ctx, []string{propPool}, b.o.Dataset, b.private())
	if err != nil {
		return false, meaning(err)
	}
	if find(all, b.o.Dataset) == nil {
		return false, fmt.Errorf("%w: dataset %s is not there any more", volume.ErrUnknown, b.o.Dataset)
	}
	d := find(all, b.private())
	if d == nil {
		return false, nil
	}
	if d.properties[propPool].source == received {
		return false, fmt.Errorf("%w: it is a copy that zfs receive made: if it is to take the place of the original, say so as docs/zfs.md tells under \"Moving to another pool\"", volume.ErrForeign)
	}
	if b.identity = d.local(propPool); b.identity == "" {
		return false, fmt.Errorf("%w: it has no property %s, so Berth did not make it: rename or destroy it", volume.ErrForeign, propPool)
	}
	return true, nil
}

// newIdentity gives a random UUID, version 4 of RFC 9562.
func newIdentity() string {
	var u [16]byte
	_, _ = rand.Read(u[:]) // never fails
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// Close lets go of the parent and its lock.
func (b *Backend) Close() error {
	if b.rootDir == nil {
		return nil
	}
	return b.rootDir.Close()
}
