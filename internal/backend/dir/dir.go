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
//	<root>/.berth/trash/<name>               discarded volumes until they are purged
//
// What a volume takes up is limited by what the file system has for that: project
// quotas of xfs and ext4, subvolumes with qgroups of btrfs. On others, and where no
// quotas are enabled, sizes are advisory.
package dir

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
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
	lock     *os.File
	// Both stay open, so that a file system unmounted underneath or a renamed
	// root is not taken for an empty pool.
	root    *os.Root
	rootDir *os.File
	trash   *os.File
	records recordStore

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
)

// Options of Open.
type Options struct {
	// Wait, if not nil, is called with the holder when another process has the
	// pool open; Open then waits for that process to end instead of giving up.
	Wait func(Holder)
	// Quota says whether new volumes are kept to their sizes.
	Quota Quota
	// MountVolumes: the NFS server needs each subvolume of btrfs mounted by itself.
	MountVolumes bool
}

// Open opens the pool at root, an absolute path of an existing directory, and
// takes its lock: at any time one process works on a root. A pool that another
// process has open is a *LockedError.
func Open(ctx context.Context, root string, o Options) (_ *Backend, err error) {
	if !filepath.IsAbs(root) || filepath.Clean(root) != root {
		return nil, fmt.Errorf("pool root %q: not a clean absolute path", root)
	}
	b := &Backend{path: root, mountVolumes: o.MountVolumes, mounts: map[volume.Name]volume.Volume{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if b.root, err = os.OpenRoot(root); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("pool root %s does not exist: make it (mkdir -p %s), or mount its file system", root, root)
	} else if err != nil {
		return nil, fmt.Errorf("pool root: %w", err)
	}
	if b.rootDir, err = b.root.Open("."); err != nil {
		return nil, fmt.Errorf("pool root: %w", err)
	}
	for _, folder := range []string{Private, Private + "/volumes", Private + "/trash"} {
		if err := b.root.Mkdir(folder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("pool root: %w", err)
		}
	}
	if b.lock, err = acquire(ctx, b.root, root, o.Wait); err != nil {
		return nil, err
	}
	if b.identity, b.isNew, err = loadIdentity(b.root); err != nil {
		return nil, err
	}
	if b.trash, err = b.root.Open(Private + "/trash"); err != nil {
		return nil, fmt.Errorf("pool root: %w", err)
	}
	if b.records, err = openRecords(b.root); err != nil {
		return nil, err
	}
	if err := b.records.clean(); err != nil {
		return nil, err
	}
	if err := b.openLimiter(ctx, o.Quota); err != nil {
		return nil, fmt.Errorf("pool root %s: %w", root, err)
	}
	return b, nil
}

// Close lets go of the root and its lock.
func (b *Backend) Close() error {
	errs := []error{b.unmountAll()}
	if b.lock != nil {
		errs = append(errs, b.lock.Close())
	}
	if b.records.dir != nil {
		errs = append(errs, b.records.Close())
	}
	if b.trash != nil {
		errs = append(errs, b.trash.Close())
	}
	if b.rootDir != nil {
		errs = append(errs, b.rootDir.Close())
	}
	if b.root != nil {
		errs = append(errs, b.root.Close())
	}
	return errors.Join(errs...)
}

// Identity is the pool's own name, a UUID made when the root was first opened.
func (b *Backend) Identity() string { return b.identity }

// New says whether the pool was made by Open: the root held none before.
func (b *Backend) New() bool { return b.isNew }

func loadIdentity(root *os.Root) (identity string, isNew bool, err error) {
	const file = Private + "/identity"
	text, err := root.ReadFile(file)
	if id := strings.TrimSpace(string(text)); err == nil && id != "" {
		return id, false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", false, fmt.Errorf("pool identity: %w", err)
	}
	var u [16]byte
	if _, err := rand.Read(u[:]); err != nil {
		return "", false, fmt.Errorf("pool identity: %w", err)
	}
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80 // version 4, RFC 9562
	id := fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
	private, err := root.OpenRoot(Private)
	if err != nil {
		return "", false, fmt.Errorf("pool identity: %w", err)
	}
	defer private.Close()
	if err := writeFile(private, "identity", []byte(id+"\n")); err != nil {
		return "", false, fmt.Errorf("pool identity: %w", err)
	}
	return id, true, nil
}

// Create implements volume.Backend.
func (b *Backend) Create(ctx context.Context, s volume.Spec) (volume.Volume, error) {
	if err := s.Validate(); err != nil {
		return volume.Volume{}, err
	}
	if err := ctx.Err(); err != nil {
		return volume.Volume{}, err
	}
	if s.From != nil {
		return volume.Volume{}, fmt.Errorf("%w: volume %s: a directory pool cannot copy another volume yet", volume.ErrUnsupported, s.Name)
	}
	v, err := b.Get(ctx, s.Name)
	begun := err == nil // by an earlier call
	switch {
	case errors.Is(err, volume.ErrNotFound):
		if err := b.refuseForeign(s); err != nil {
			return volume.Volume{}, err
		}
		v = volume.New(s, time.Now())
	case err != nil:
		return volume.Volume{}, err
	case !v.Is(s):
		return volume.Volume{}, fmt.Errorf("%w: volume %s is of claim %s (uid %s)", volume.ErrExists, s.Name, v.Claim, v.Claim.UID)
	case v.State == volume.StateDiscarded:
		return volume.Volume{}, fmt.Errorf("%w: volume %s is discarded and not purged yet", volume.ErrBusy, s.Name)
	case v.State == volume.StateReady:
		return v, nil
	}
	// The record comes first. A crash after it leaves a volume that is "creating":
	// the next call goes on with it, or it is scavenged.
	if v, err = b.announce(v, begun); err != nil {
		return volume.Volume{}, err
	}
	ready, err := b.finish(v)
	if errors.Is(err, volume.ErrNoSpace) && !begun {
		err = errors.Join(err, b.undo(context.WithoutCancel(ctx), v.Name))
	}
	return ready, err
}

// announce writes the record of a volume that is going to be made. One that was begun
// has a record, but what limits it may not have been there then.
func (b *Backend) announce(v volume.Volume, begun bool) (volume.Volume, error) {
	admitted := v
	if err := b.limiter.admit(&admitted); err != nil {
		return volume.Volume{}, err
	}
	if begun && admitted == v {
		return v, nil
	}
	saved, err := b.save(admitted)
	if err != nil && !begun {
		b.limiter.forget(admitted)
	}
	return saved, err
}

// finish makes what v's record announces.
func (b *Backend) finish(v volume.Volume) (volume.Volume, error) {
	if err := b.makeTree(&v); err != nil {
		return volume.Volume{}, fmt.Errorf("volume %s: %w", v.Name, noSpace(err))
	}
	v.State = volume.StateReady
	return b.save(v)
}

// undo takes back what little of a volume could be made on a full file system. What it
// cannot remove stays as after a crash.
func (b *Backend) undo(ctx context.Context, n volume.Name) error {
	if err := b.Discard(ctx, n); err != nil {
		return err
	}
	return b.Purge(ctx, n)
}

// refuseForeign looks for something at the volume's path that no record names.
func (b *Backend) refuseForeign(s volume.Spec) error {
	switch _, err := b.root.Lstat(s.Path.String()); {
	case err == nil:
		return fmt.Errorf("%w: volume %s: %s exists and no record names it; move it away", volume.ErrForeign, s.Name, s.Path.Below(b.path))
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return fmt.Errorf("volume %s: %w", s.Name, err)
	}
}

// makeTree makes v's directory with its limit, owner and mode. It may have been made by
// a run that was cut off.
func (b *Backend) makeTree(v *volume.Volume) error {
	d, err := b.limiter.build(*v)
	if err != nil {
		return err
	}
	defer d.Close()
	// In this order, because chown(2) clears the set-group-ID bit; and by fchmod,
	// because mkdir's mode goes through the umask.
	if err := unix.Fchown(int(d.Fd()), int(v.Owner.UID), int(v.Owner.GID)); err != nil {
		return &os.PathError{Op: "chown", Path: v.Dir, Err: err}
	}
	if err := unix.Fchmod(int(d.Fd()), v.Owner.Mode); err != nil {
		return &os.PathError{Op: "chmod", Path: v.Dir, Err: err}
	}
	if err := b.limiter.limit(v, d); err != nil {
		return err
	}
	return b.limiter.settle(d)
}

// openTree opens v's directory without following a symbolic link anywhere.
func (b *Backend) openTree(v volume.Volume) (*os.File, error) {
	fd, err := unix.Openat2(int(b.rootDir.Fd()), v.Path.String(), &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: v.Dir, Err: err}
	}
	return os.NewFile(uintptr(fd), v.Dir), nil
}

// Get implements volume.Backend.
func (b *Backend) Get(ctx context.Context, n volume.Name) (volume.Volume, error) {
	if err := ctx.Err(); err != nil {
		return volume.Volume{}, err
	}
	v, err := b.records.read(n)
	if err != nil {
		return volume.Volume{}, err
	}
	v.Dir = v.Path.Below(b.path)
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
	v.Dir = v.Path.Below(b.path)
	if err := b.records.write(v); err != nil {
		return volume.Volume{}, noSpace(err)
	}
	return v, nil
}

// Discard implements volume.Backend.
func (b *Backend) Discard(ctx context.Context, n volume.Name) error {
	v, err := b.Get(ctx, n)
	if err != nil {
		return err
	}
	if v.State != volume.StateDiscarded {
		// First the record: after a crash here the next Discard, or Recover,
		// knows that the directory has to go.
		if err := b.records.discard(n); err != nil {
			return err
		}
	} else if _, err := b.root.Lstat(trash(n)); err == nil {
		return nil // done before; what lies at its path since then is another thing
	}
	if err := b.unmount(ctx, v); err != nil {
		return err
	}
	// The directory may never have been made.
	if err := b.root.Rename(v.Path.String(), trash(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("volume %s: moving it to the trash: %w", n, err)
	}
	return nil
}

func trash(n volume.Name) string { return Private + "/trash/" + n.String() }

// Purge implements volume.Backend.
func (b *Backend) Purge(ctx context.Context, n volume.Name) error {
	v, err := b.Get(ctx, n)
	if err != nil {
		return err
	}
	if v.State != volume.StateDiscarded {
		return fmt.Errorf("%w: volume %s is %s, not discarded", volume.ErrConflict, n, v.State)
	}
	// The limit goes with the bytes that it limits, and not before.
	if err := b.limiter.remove(ctx, v, b.trash, n.String()); err != nil {
		return fmt.Errorf("volume %s: emptying the trash: %w", n, err)
	}
	// The record goes last: as long as there is one, there may be bytes to free.
	if err := b.records.remove(n, discardedSuffix); err != nil {
		return err
	}
	b.limiter.forget(v)
	return nil
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
