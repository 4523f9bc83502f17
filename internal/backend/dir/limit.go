package dir

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/btrfs"
	"github.com/berth-storage/berth/internal/quota"
	"github.com/berth-storage/berth/internal/volume"
)

// Quota says whether new volumes are kept to their sizes.
type Quota string

// The values of Quota.
const (
	QuotaAuto     Quota = "auto"     // by what the file system has for that; the same as ""
	QuotaRequired Quota = "required" // or the pool cannot be opened
	QuotaOff      Quota = "off"      // sizes are advisory
)

// What keeps a volume to its size.
const (
	LimitXFS   volume.Limit = "xfs project quota"
	LimitExt4  volume.Limit = "ext4 project quota"
	LimitBtrfs volume.Limit = "btrfs qgroup"
)

// limiter makes and removes the directories of volumes, and limits what they take up
// by what the pool's file system has for that. It also deals with volumes that were
// made when that was not there, or not wanted.
type limiter interface {
	// admit completes v, which is new or was begun by a run that was cut off, before its
	// record says that it is going to be made. ErrUnsupported if what v asks for cannot
	// be limited.
	admit(v *volume.Volume) error
	// build makes v's directory, or opens what a run that was cut off has made.
	build(v volume.Volume) (*os.File, error)
	// limit limits v's directory, in which nothing is yet, and notes that in v. The
	// record is the caller's to save, unless it has to come first.
	limit(v *volume.Volume, built *os.File) error
	// settle makes what was built durable.
	settle(v volume.Volume, built *os.File) error
	// notice notes what limits v now, where that is somebody else's doing.
	notice(v *volume.Volume) error
	// resize brings the limit of v, which has one, to its Size and Inodes, so that it is
	// durable before a record that tells of it.
	resize(v volume.Volume) error
	// round gives the size that the file system makes of one.
	round(bytes uint64) uint64
	// usage of v, which has a limit.
	usage(v volume.Volume) (volume.Usage, error)
	// remove removes v's directory, which is called name in parent, with all that is in
	// it, and takes back its limit. What is done is not done again.
	remove(ctx context.Context, v volume.Volume, parent *os.File, name string) error
	// forget gives back what identified v, whose record is gone.
	forget(v volume.Volume)
}

// openLimiter finds what the pool's file system limits volumes by.
func (b *Backend) openLimiter(ctx context.Context, want Quota) error {
	found, limited, err := b.findLimiter(ctx)
	if err != nil {
		return err
	}
	b.limiter = found
	switch {
	case want == QuotaOff:
		b.advisory = errors.New("quotas are off in the pool's configuration")
	case limited != nil && want == QuotaRequired:
		return fmt.Errorf("quotas are required: %w", limited)
	default:
		b.advisory = limited
	}
	return nil
}

// findLimiter gives the limiter for the file system of b, and why it cannot limit.
func (b *Backend) findLimiter(ctx context.Context) (l limiter, cannot, err error) {
	isBtrfs, err := btrfs.Is(b.rootDir)
	if err != nil {
		return nil, nil, err
	}
	if isBtrfs {
		return subvolumes{b}, b.btrfsQuota(), nil
	}
	if b.onNFS {
		return served{plain{b}}, errShare, nil
	}
	fs, cannot := quota.Open(b.rootDir)
	if _, unavailable := errors.AsType[*quota.UnavailableError](cannot); cannot != nil && !unavailable {
		return nil, nil, cannot
	}
	if cannot != nil {
		return plain{b}, cannot, nil
	}
	// Volumes would leave what somebody else counts and limits.
	if id, _, err := quota.Project(b.rootDir); err != nil {
		return nil, nil, err
	} else if id != 0 {
		return plain{b}, fmt.Errorf("the pool's root belongs to project %d of somebody else: choose one outside of any project", id), nil
	}
	p, err := newProjects(ctx, b, fs)
	return p, nil, err
}

// btrfsQuota says why subvolumes are not limited. To enable quotas is the
// administrator's decision: everybody's writes cost a little more with them.
func (b *Backend) btrfsQuota() error {
	err := btrfs.Quota(b.rootDir)
	switch {
	case errors.Is(err, btrfs.ErrNoQuota):
		return fmt.Errorf("quotas are not enabled on this btrfs; its administrator can do that: btrfs quota enable %s", b.path)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("limiting subvolumes of btrfs needs the capability SYS_ADMIN: %w", err)
	default:
		return err
	}
}

// Advisory says why the sizes of new volumes are not enforced, nil if they are.
func (b *Backend) Advisory() error { return b.advisory }

func (b *Backend) enforces() bool { return b.advisory == nil }

// Usage implements volume.UsageMeter.
func (b *Backend) Usage(ctx context.Context, v volume.Volume) (volume.Usage, error) {
	if err := ctx.Err(); err != nil {
		return volume.Usage{}, err
	}
	if err := b.limiter.notice(&v); err != nil {
		return volume.Usage{}, fmt.Errorf("volume %s: %w", v.Name, err)
	}
	if v.Limit == volume.LimitNone {
		return volume.Usage{}, fmt.Errorf("%w: nothing counts what volume %s takes up", volume.ErrUnsupported, v.Name)
	}
	u, err := b.limiter.usage(v)
	if err != nil {
		return volume.Usage{}, fmt.Errorf("volume %s: %w", v.Name, err)
	}
	return u, nil
}

// relimit makes a new Size or Inodes of v the real limit, and gives v with the size
// that it got.
func (b *Backend) relimit(old, v volume.Volume) (volume.Volume, error) {
	if old.Size == v.Size && old.Inodes == v.Inodes {
		return v, nil
	}
	if err := b.limiter.notice(&v); err != nil {
		return v, fmt.Errorf("volume %s: %w", v.Name, err)
	}
	if v.Limit == volume.LimitNone {
		if v.Inodes > 0 {
			return v, inodesUnsupported(v)
		}
		return v, nil
	}
	v.Size = int64(b.limiter.round(uint64(v.Size)))
	if err := b.limiter.resize(v); err != nil {
		return v, fmt.Errorf("volume %s: %w", v.Name, err)
	}
	return v, nil
}

func inodesUnsupported(v volume.Volume) error {
	return fmt.Errorf("%w: volume %s: nothing here can limit it to %d inodes", volume.ErrUnsupported, v.Name, v.Inodes)
}

// plain makes directories without limits.
type plain struct{ b *Backend }

func (plain) admit(v *volume.Volume) error {
	if v.Inodes > 0 {
		return inodesUnsupported(*v)
	}
	return nil
}

func (p plain) build(v volume.Volume) (*os.File, error) {
	err := p.b.inParent(p.b.home(v), func(parent *os.File, name string) error {
		if err := unix.Mkdirat(int(parent.Fd()), name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return &os.PathError{Op: "mkdir", Path: v.Dir, Err: err}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return p.b.openTree(v)
}

func (plain) limit(*volume.Volume, *os.File) error { return nil }

// settle: a record that says "ready" must not outlive its directory in a power failure.
func (p plain) settle(v volume.Volume, built *os.File) error {
	return errors.Join(built.Sync(), p.b.syncParent(v))
}

func (plain) notice(*volume.Volume) error { return nil }

func (p plain) resize(v volume.Volume) error { return p.noQuota(v) }

func (plain) round(bytes uint64) uint64 { return bytes }

func (p plain) usage(v volume.Volume) (volume.Usage, error) { return volume.Usage{}, p.noQuota(v) }

// noQuota is of a volume whose record tells of a limit.
func (p plain) noQuota(v volume.Volume) error {
	return fmt.Errorf("%w: its limit (%s) is out of reach: %w", volume.ErrUnsupported, v.Limit, p.b.advisory)
}

func (plain) remove(ctx context.Context, _ volume.Volume, parent *os.File, name string) error {
	return removeTree(ctx, parent, name, nil)
}

func (plain) forget(volume.Volume) {}
