// Package dir is the backend whose volumes are directories below a root on a
// local file system.
//
// A root looks like this; everything in .berth is Berth's and never exported:
//
//	<root>/<path of a volume>
//	<root>/.berth/identity                   which pool this is
//	<root>/.berth/lock                       held by the one process that works here
//	<root>/.berth/volumes/<name>.json        the records
//	<root>/.berth/volumes/<name>.discarded   those of discarded volumes
//	<root>/.berth/volumes/<name>.trashed     those of which are being purged
//	<root>/.berth/trash/<name>               discarded volumes until they are purged
//	<root>/.berth/archive/<name>/<path>      archived ones
//	<root>/.berth/snapshots/<name>           what snapshots hold
//	<root>/.berth/parents/                   which of the folders that volumes lie in were made for them
//
// Where several clusters have one root, a share, each has all that for itself in
// .berth/clusters/<cluster>/.
//
// Tenants may be able to write to the folders that volumes lie in, and make them what
// they like at any time. So each path is resolved by openat2(2) from the root's descriptor,
// following no link and crossing no mount, and what is done is done in the folder
// that was opened, to one name.
//
// What a volume takes up is limited by what the file system has for that: project
// quotas of xfs and ext4, subvolumes with qgroups of btrfs. On others, and where no
// quotas are enabled, sizes are advisory.
package dir

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/volume"
)

// Private is the folder below a root that holds what is Berth's own.
const Private = ".berth"

// Backend is an open pool of directories. It holds the root's lock.
type Backend struct {
	path     string
	identity string
	isNew    bool
	folder   string // Private, or the one cluster's part of it
	beside   bool   // see Options.ArchiveBeside
	lock     *os.File
	holder   []byte // what is written in it; nil if others may write there too
	// All stay open, so that a file system unmounted underneath or a renamed
	// root is not taken for an empty pool.
	root    *os.Root
	rootDir *os.File
	private *os.Root // folder
	trash   *os.File
	records recordStore
	others  others

	parentsMu sync.RWMutex // held for writing while folders of volumes are removed
	makingMu  sync.Mutex   // held while they are made

	onNFS    bool
	limiter  limiter
	advisory error // why new volumes are not limited; nil: they are

	mountVolumes bool
	mountsMu     sync.Mutex
	mounts       map[volume.Name]volume.Volume
}

var (
	_ volume.Backend    = (*Backend)(nil)
	_ volume.Meter      = (*Backend)(nil)
	_ volume.UsageMeter = (*Backend)(nil)
	_ volume.Mounter    = (*Backend)(nil)
	_ volume.Archiver   = (*Backend)(nil)

	_ volume.Cloner      = (*Backend)(nil)
	_ volume.Snapshotter = (*Backend)(nil)
	_ volume.Reader      = (*Backend)(nil)
	_ volume.Filler      = (*Backend)(nil)
)

// Create implements volume.Backend.
func (b *Backend) Create(ctx context.Context, s volume.Spec) (volume.Volume, error) {
	if err := s.Validate(); err != nil {
		return volume.Volume{}, err
	}
	if err := ctx.Err(); err != nil {
		return volume.Volume{}, err
	}
	if s.IsCopy() {
		return volume.Volume{}, fmt.Errorf("%w: volume %s: Create makes no clones", volume.ErrUnsupported, s.Name)
	}
	return b.create(ctx, s, filling{})
}

// create is Create for clones too, for which f is.
func (b *Backend) create(ctx context.Context, s volume.Spec, f filling) (volume.Volume, error) {
	v, err := b.Get(ctx, s.Name)
	begun := err == nil // by an earlier call
	switch {
	case errors.Is(err, volume.ErrNotFound):
		if v, err = b.plan(ctx, s); err != nil {
			return volume.Volume{}, err
		}
	case err != nil:
		return volume.Volume{}, err
	case !v.Is(s):
		return volume.Volume{}, fmt.Errorf("%w: volume %s is of claim %s (uid %s)", volume.ErrExists, s.Name, v.Claim, v.Claim.UID)
	case v.State == volume.StateDiscarded:
		return volume.Volume{}, fmt.Errorf("%w: volume %s is discarded and not purged yet", volume.ErrBusy, s.Name)
	case s.From != nil && !v.CopyOf(s), v.CopiedFrom != (volume.Origin{}) && f.content == nil:
		return volume.Volume{}, fmt.Errorf("%w: volume %s was begun with another content", volume.ErrExists, s.Name)
	case v.State == volume.StateReady:
		return v, nil
	case v.State != volume.StateCreating:
		return volume.Volume{}, fmt.Errorf("%w: volume %s is %s", volume.ErrExists, s.Name, v.State)
	case v.TookOver: // what was there then may have been a folder that was about to go
		if v.TookOver, err = b.exists(v.Path.String()); err != nil {
			return volume.Volume{}, fmt.Errorf("volume %s: %w", v.Name, err)
		}
	}
	// The record comes first. A crash after it leaves a volume that is "creating":
	// the next call goes on with it, or it is scavenged.
	if v, err = b.announce(v, begun); err != nil {
		return volume.Volume{}, err
	}
	if err := b.others.check(ctx, b, v, v.Path); err != nil {
		return volume.Volume{}, errors.Join(err, b.recant(v, begun))
	}
	ready, err := b.finish(ctx, v, f)
	if errors.Is(err, volume.ErrNoSpace) || errors.Is(err, volume.ErrUnsupported) {
		switch after := context.WithoutCancel(ctx); {
		case !begun:
			err = errors.Join(err, b.undo(after, v))
		case v.IsCopy(): // what was copied must not fill the pool
			v, getErr := b.Get(after, v.Name) // with its limit
			if getErr == nil {
				getErr = b.clear(after, v)
			}
			err = errors.Join(err, getErr)
		}
	}
	return ready, err
}

// plan looks at what is there, and gives the volume of s as its first record is to be.
func (b *Backend) plan(ctx context.Context, s volume.Spec) (volume.Volume, error) {
	v := volume.New(s, time.Now())
	v.Dir = s.Path.Below(b.path)
	there, err := b.exists(v.Path.String())
	if err != nil {
		return v, fmt.Errorf("volume %s: %w", v.Name, err)
	}
	if err := b.outsideOfPools(v); err != nil {
		return v, err
	}
	foreign := fmt.Errorf("%w: volume %s: %s exists and no record names it; move it away", volume.ErrForeign, v.Name, v.Dir)
	switch {
	case v.IsCopy():
		if there {
			return v, foreign
		}
		if v.CopiedFrom != (volume.Origin{}) {
			return v, nil // it is open already
		}
		_, err := b.original(ctx, v)
		return v, err
	case s.From != nil:
		from, err := b.source(ctx, v)
		if err != nil {
			return v, err
		}
		if there && b.place(from) != v.Path.String() {
			return v, foreign
		}
		v.QuotaID, v.Limit = from.QuotaID, from.Limit
	case there && (s.Existing == "" || s.Existing == volume.ExistingRefuse || overlap(lostFound, v.Path.String())):
		return v, foreign
	case there:
		d, err := b.openFound(v.Path)
		if err != nil {
			return v, fmt.Errorf("volume %s: %w", v.Name, err)
		}
		v.TookOver = true
		isPool, err := existsIn(d, Private)
		if err := errors.Join(err, d.Close()); err != nil || !isPool {
			return v, err
		}
		return v, anotherPool(v, v.Dir)
	}
	return v, nil
}

// had says whether v's directory was there before it. What limits such a one stays as
// it is: what is in it cannot be counted by another project or qgroup all at once.
func had(v volume.Volume) bool { return v.TookOver || v.RestoredFrom != volume.Name{} }

// announce writes the record of a volume that is going to be made. One that was begun
// has a record, but what limits it may not have been there then.
func (b *Backend) announce(v volume.Volume, begun bool) (volume.Volume, error) {
	admitted := v
	switch {
	case !had(v):
		if err := b.limiter.admit(&admitted); err != nil {
			return volume.Volume{}, err
		}
	case v.Limit != volume.LimitNone:
		admitted.Size = int64(b.limiter.round(uint64(v.Size)))
	case v.Inodes > 0:
		return volume.Volume{}, inodesUnsupported(v)
	}
	if begun && admitted == v {
		return v, nil
	}
	saved, err := b.save(admitted)
	if err != nil && !begun && !had(v) {
		b.limiter.forget(admitted)
	}
	return saved, err
}

// recant removes the record of a volume that must not be made, unless a run that was cut
// off may have made it.
func (b *Backend) recant(v volume.Volume, begun bool) error {
	if begun {
		if there, err := b.exists(v.Path.String()); err != nil || there {
			return err
		}
	}
	if err := b.records.remove(v.Name, recordSuffix); err != nil {
		return err
	}
	if !had(v) {
		b.limiter.forget(v)
	}
	return nil
}

// finish makes what v's record announces.
func (b *Backend) finish(ctx context.Context, v volume.Volume, f filling) (volume.Volume, error) {
	if err := b.makeTree(ctx, &v, f); err != nil {
		return volume.Volume{}, fmt.Errorf("volume %s: %w", v.Name, noSpace(err))
	}
	v.State = volume.StateReady
	return b.save(v)
}

// makeTree makes v's directory with its limit, owner and mode. It may have been made by
// a run that was cut off.
func (b *Backend) makeTree(ctx context.Context, v *volume.Volume, f filling) (err error) {
	if err := b.occupy(v.Path.String()); err != nil {
		return err
	}
	if v.IsCopy() {
		return b.makeClone(ctx, v, f)
	}
	var d *os.File
	switch {
	case v.RestoredFrom != volume.Name{}:
		d, err = b.restore(ctx, *v)
	case v.TookOver:
		if d, err = b.openFound(v.Path); errors.Is(err, volume.ErrNotFound) { // taken away since then
			d, err = b.limiter.build(*v)
		}
	default:
		d, err = b.limiter.build(*v)
	}
	if err != nil {
		return err
	}
	defer d.Close()
	if err := own(v, d); err != nil {
		return err
	}
	switch {
	case !had(*v):
		err = b.limiter.limit(v, d)
	case v.Limit != volume.LimitNone:
		err = b.limiter.resize(*v)
	}
	if err != nil {
		return err
	}
	return b.limiter.settle(*v, d)
}

// own gives d, which is v's directory, v's owner and mode, and notes in v what they
// are then. What was there before keeps an owner that nobody asks for another than
// root of, and all if it is shared. A server that takes root for nobody (root_squash)
// lets nobody give a directory away: it stays that user's.
func own(v *volume.Volume, d *os.File) error {
	uid, gid := int(v.Owner.UID), int(v.Owner.GID)
	if had(*v) && uid == 0 {
		uid = -1
	}
	if had(*v) && gid == 0 {
		gid = -1
	}
	if !v.TookOver || !v.Shared {
		// In this order, because chown(2) clears the set-group-ID bit; and by fchmod,
		// because mkdir's mode goes through the umask.
		chownErr := unix.Fchown(int(d.Fd()), uid, gid)
		if chownErr != nil && !errors.Is(chownErr, unix.EPERM) {
			return &os.PathError{Op: "chown", Path: v.Dir, Err: chownErr}
		}
		if err := unix.Fchmod(int(d.Fd()), v.Owner.Mode); err != nil && (!had(*v) || !errors.Is(err, unix.EPERM)) {
			return &os.PathError{Op: "chmod", Path: v.Dir, Err: err}
		}
		is, err := describe(d)
		if err != nil {
			return err
		}
		if uid > 0 && is.Owner.UID != uint32(uid) || gid > 0 && is.Owner.GID != uint32(gid) {
			return fmt.Errorf("%w: %s cannot be given to uid %d, gid %d: the NFS server takes root for somebody else (root_squash); "+
				"export the share to this host with no_root_squash, or ask for no uid and gid: %w", volume.ErrUnsupported, v.Dir, v.Owner.UID, v.Owner.GID, chownErr)
		}
	}
	is, err := describe(d)
	v.Owner = is.Owner
	return err
}

// openTree opens v's directory without following a symbolic link anywhere.
func (b *Backend) openTree(v volume.Volume) (*os.File, error) {
	parent, name, err := b.openParent(b.home(v))
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	return openBelow(parent, name, resolve&^unix.RESOLVE_NO_XDEV)
}

// Get implements volume.Backend.
func (b *Backend) Get(ctx context.Context, n volume.Name) (volume.Volume, error) {
	if err := ctx.Err(); err != nil {
		return volume.Volume{}, err
	}
	v, _, err := b.records.read(n)
	if err != nil {
		return volume.Volume{}, err
	}
	v.Dir = path.Join(b.path, b.place(v))
	return v, nil
}

// List implements volume.Backend.
func (b *Backend) List(ctx context.Context) iter.Seq2[volume.Volume, error] {
	return func(yield func(volume.Volume, error) bool) {
		names, err := b.records.names()
		if err != nil {
			yield(volume.Volume{}, err)
			return
		}
		for _, file := range names {
			n, err := recordName(file)
			var v volume.Volume
			if err == nil {
				v, err = b.Get(ctx, n)
			}
			if errors.Is(err, volume.ErrNotFound) {
				continue // purged since the folder was read
			}
			if !yield(v, err) {
				return
			}
		}
	}
}

// Update implements volume.Backend.
func (b *Backend) Update(ctx context.Context, v volume.Volume) (volume.Volume, error) {
	old, err := b.Get(ctx, v.Name)
	if err != nil {
		return volume.Volume{}, err
	}
	if old.Rev != v.Rev {
		return volume.Volume{}, fmt.Errorf("%w: volume %s is at revision %d, not %d", volume.ErrConflict, v.Name, old.Rev, v.Rev)
	}
	// A crash between the two leaves the new limit under the old record; whoever asked
	// for it asks again.
	if v, err = b.relimit(old, v); err != nil {
		return volume.Volume{}, err
	}
	return b.save(v)
}

func (b *Backend) save(v volume.Volume) (volume.Volume, error) {
	v.Rev++
	v.Dir = path.Join(b.path, b.place(v))
	if err := b.records.write(v); err != nil {
		return volume.Volume{}, noSpace(err)
	}
	return v, nil
}

// Capacity implements volume.Meter: the room of the file system that holds the root.
func (b *Backend) Capacity(context.Context) (volume.Capacity, error) {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(b.rootDir.Fd()), &s); err != nil {
		return volume.Capacity{}, fmt.Errorf("measuring %s: %w", b.path, err)
	}
	unit := uint64(s.Bsize)
	return volume.Capacity{Total: s.Blocks * unit, Available: s.Bavail * unit}, nil
}

func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", volume.ErrNoSpace, err)
	}
	return err
}
