package zfs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/berth-storage/berth/internal/run"
	"github.com/berth-storage/berth/internal/volume"
)

// Limit is what keeps a volume to its size: the property of that name. It counts
// what the volume refers to, without its snapshots.
const Limit volume.Limit = "refquota"

// Backend is an open pool. Volumes lie at <parent>/<path>, and when they are discarded at
// <parent>/.berth/<name>, which is never mounted.
type Backend struct {
	o        Options
	root     string   // where the parent is mounted
	rootDir  *os.File // if that is here; it bears the lock
	identity string
	isNew    bool

	mu sync.Mutex
	// places are where volumes lie whose path is not their name: adopted ones.
	places map[volume.Name]volume.RelPath
	// discarded are those in the private dataset, unsure those that may be there: it is not known
	// what became of the command.
	discarded, unsure map[volume.Name]bool
	// shared are the datasets that this process has shared, remounted those that it has mounted
	// and not shared.
	shared, remounted map[string]bool
	seen              seen
	index             *snapshotIndex

	unmounting chan struct{} // holds one token while something is unmounted
}

var (
	_ volume.Backend        = (*Backend)(nil)
	_ volume.Meter          = (*Backend)(nil)
	_ volume.UsageMeter     = (*Backend)(nil)
	_ volume.Mounter        = (*Backend)(nil)
	_ volume.Cloner         = (*Backend)(nil)
	_ volume.Snapshotter    = (*Backend)(nil)
	_ volume.Reader         = (*Backend)(nil)
	_ volume.Filler         = (*Backend)(nil)
	_ volume.Configurable   = (*Backend)(nil)
	_ volume.DiscardChecker = (*Backend)(nil)
)

// Identity is the pool's own name, a UUID made when the parent was first opened.
func (b *Backend) Identity() string { return b.identity }

// New says whether the pool was made by Open.
func (b *Backend) New() bool { return b.isNew }

// Root is where the parent is mounted, on the host that has the pool.
func (b *Backend) Root() string { return b.root }

// private is Berth's own dataset.
func (b *Backend) private() string { return b.o.Dataset + "/.berth" }

// aside is the dataset of n when it is discarded.
func (b *Backend) aside(n volume.Name) string { return b.private() + "/" + n.String() }

// dataset is that of n, wherever it is.
func (b *Backend) dataset(n volume.Name) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.discarded[n] {
		return b.aside(n)
	}
	if p, elsewhere := b.places[n]; elsewhere {
		return b.o.Dataset + "/" + p.String()
	}
	return b.o.Dataset + "/" + n.String()
}

func (b *Backend) setDiscarded(n volume.Name, is bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.unsure, n)
	if is {
		b.discarded[n] = true
		return
	}
	delete(b.discarded, n)
	delete(b.places, n)
}

// CheckSettings implements volume.Configurable.
func (b *Backend) CheckSettings(s volume.Settings) error {
	if s.Share != "" && s.Share != off && b.Sharer() == nil {
		return fmt.Errorf("%w: nothing of dataset %s is shared by ZFS, so no volume can be shared in its own way", volume.ErrUnsupported, b.o.Dataset)
	}
	return checkSettings(s)
}

// check says whether s can be asked of this backend at all.
func (b *Backend) check(ctx context.Context, s volume.Spec) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := s.Validate(); err != nil {
		return err
	}
	switch {
	case s.Inodes != 0:
		return fmt.Errorf("%w: volume %s: ZFS does not limit the number of files of a dataset", volume.ErrUnsupported, s.Name)
	case s.From != nil && s.From.Archive != volume.Name{}:
		return fmt.Errorf("%w: volume %s: a pool of datasets restores no archives", volume.ErrUnsupported, s.Name)
	case s.Existing != "" && s.Existing != volume.ExistingRefuse:
		return fmt.Errorf("%w: volume %s: a dataset that is there already is taken over by adopting it only", volume.ErrUnsupported, s.Name)
	case s.Path != s.Name.RelPath():
		return fmt.Errorf("%w: volume %s: a dataset has the name of its volume, and no other path like %s", volume.ErrUnsupported, s.Name, s.Path)
	case len(b.private())+2*len("/")+2*len(s.Name.String())+len(clonePrefix) > maxDataset:
		return fmt.Errorf("%w: volume %s: the name of its dataset is longer than ZFS allows: choose a parent dataset with a shorter name", volume.ErrInvalid, s.Name)
	}
	if err := b.CheckSettings(s.Settings); err != nil {
		return fmt.Errorf("volume %s: %w", s.Name, err)
	}
	if name, err := b.findSnapshot(ctx, s.Name); err != nil {
		return err
	} else if name != "" {
		return fmt.Errorf("%w: %s is the name of snapshot %s", volume.ErrExists, s.Name, name)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.discarded[s.Name] {
		return fmt.Errorf("%w: volume %s is being deleted", volume.ErrBusy, s.Name)
	}
	return nil
}

// Create implements volume.Backend. The dataset comes to be with its record, by one
// command.
func (b *Backend) Create(ctx context.Context, s volume.Spec) (volume.Volume, error) {
	if err := b.check(ctx, s); err != nil {
		return volume.Volume{}, err
	}
	if s.From != nil {
		return volume.Volume{}, fmt.Errorf("%w: volume %s: a clone is made by Clone", volume.ErrUnsupported, s.Name)
	}
	v := b.plan(s)
	args, err := b.options(v, s.Settings, false)
	if err != nil {
		return volume.Volume{}, err
	}
	switch err := b.make(ctx, v, append([]string{"create"}, args...)); {
	case err == nil:
		return b.settle(ctx, v)
	case said(err, saysCreated), said(err, saysExists):
		return b.resume(ctx, s, err)
	default:
		return volume.Volume{}, b.refused("making", v, err)
	}
}

// make makes the dataset of v, by zfs with args before its name.
func (b *Backend) make(ctx context.Context, v volume.Volume, args []string) error {
	name := b.dataset(v.Name)
	_, err := b.zfs(ctx, append(args, name)...)
	b.forget(name)
	if err == nil {
		b.seen.mount(name)
		b.setShared(name, b.share(v))
	}
	return err
}

// plan is the volume that s asks for, as its first record tells of it.
func (b *Backend) plan(s volume.Spec) volume.Volume {
	v := volume.New(s, time.Now())
	if v.Sizing == "" {
		v.Sizing = b.o.Sizing
	}
	// A dataset refers to some blocks when it is empty; with less than that it cannot be made.
	v.Size = max(v.Size, minSize)
	if v.Sizing == volume.SizingQuota || v.Sizing == volume.SizingBoth {
		v.Limit = Limit
	}
	v.Dir, v.Rev = path.Join(b.root, v.Path.String()), 1
	if v.Owner == factory && !v.IsCopy() {
		v.State = volume.StateReady // as soon as it is there
	}
	return v
}

// minSize is 64 KiB: what an empty dataset refers to at least.
const minSize = 1 << 16

// factory is the owner and mode of a new dataset's top directory.
var factory = volume.Owner{Mode: 0o755}

// resume goes on with the volume of s, whose dataset is there already. why is what zfs
// said of that.
func (b *Backend) resume(ctx context.Context, s volume.Spec, why error) (volume.Volume, error) {
	v, d, err := b.read(ctx, s.Name)
	switch {
	case errors.Is(err, volume.ErrNotFound):
		return volume.Volume{}, fmt.Errorf("%w: dataset %s is there and has no record of Berth's: it is somebody else's; rename or destroy it", volume.ErrForeign, b.dataset(s.Name))
	case err != nil:
		return volume.Volume{}, err
	case !v.Is(s):
		return volume.Volume{}, fmt.Errorf("%w: volume %s belongs to claim %s (uid %s)", volume.ErrExists, s.Name, v.Claim, v.Claim.UID)
	case !v.Ended.IsZero(), v.CopiedFrom != volume.Origin{} && v.State != volume.StateReady:
		return volume.Volume{}, fmt.Errorf("%w: volume %s is %s", volume.ErrExists, s.Name, v.State)
	case s.From != nil:
		return b.finishClone(ctx, v, d.value("origin"))
	case v.State == volume.StateReady && !said(why, saysCreated):
		return v, nil
	}
	if err := b.Mount(ctx, v); err != nil {
		return volume.Volume{}, err
	}
	return b.settle(ctx, v)
}

// settle does what cannot be said to zfs create: the owner and the mode.
func (b *Backend) settle(ctx context.Context, v volume.Volume) (volume.Volume, error) {
	if v.State == volume.StateReady {
		return v, nil
	}
	if err := b.own(ctx, v); err != nil {
		return volume.Volume{}, fmt.Errorf("volume %s: its owner and mode: %w", v.Name, err)
	}
	v.State = volume.StateReady
	if b.o.Local && !v.IsCopy() {
		return v, nil // as everybody sees by the owner; see isSettled
	}
	return b.save(ctx, v)
}

// Get implements volume.Backend.
func (b *Backend) Get(ctx context.Context, n volume.Name) (volume.Volume, error) {
	if v, name, err := b.snapshotCalled(ctx, n); err != nil || name != "" {
		return v, err
	}
	v, _, err := b.read(ctx, n)
	return v, err
}

// Properties that tell all of a volume.
var volumeProperties = []string{propRecord, "mounted", "mountpoint", "origin", "sharenfs", "referenced", "refquota", "quota", "refreservation", "available", "used"}

// read reads the dataset of n, and with it the pool's room.
func (b *Backend) read(ctx context.Context, n volume.Name) (volume.Volume, *dataset, error) {
	all, err := b.askOf(ctx, n)
	if err != nil {
		return volume.Volume{}, nil, fmt.Errorf("volume %s: %w", n, err)
	}
	return b.among(all, n)
}

// askOf asks for the datasets of volumes and the pool's own, by one command; among finds one in the answer.
func (b *Backend) askOf(ctx context.Context, volumes ...volume.Name) ([]*dataset, error) {
	names := []string{b.o.Dataset}
	for _, n := range volumes {
		names = append(names, b.dataset(n))
		if b.isUnsure(n) {
			names = append(names, b.aside(n))
		}
	}
	all, err := b.ask(ctx, volumeProperties, names...)
	if err == nil {
		b.note(all)
	}
	return all, err
}

func (b *Backend) among(all []*dataset, n volume.Name) (volume.Volume, *dataset, error) {
	name, aside := b.dataset(n), b.aside(n)
	d := find(all, name)
	if discarded := find(all, aside); d == nil && discarded != nil {
		name, d = aside, discarded
		b.setDiscarded(n, true)
	}
	switch {
	case find(all, b.o.Dataset) == nil:
		return volume.Volume{}, nil, fmt.Errorf("%w: volume %s: the pool's own dataset %s does not exist", volume.ErrUnknown, n, b.o.Dataset)
	case d == nil:
		return volume.Volume{}, nil, fmt.Errorf("%w: %s", volume.ErrNotFound, n)
	}
	v, ours, err := b.decode(d)
	if err == nil && !ours {
		err = fmt.Errorf("%w: %s: dataset %s is somebody else's", volume.ErrNotFound, n, name)
	}
	return v, d, err
}

// ask reads properties of datasets. Those that do not exist are left out.
func (b *Backend) ask(ctx context.Context, properties []string, names ...string) ([]*dataset, error) {
	out, err := b.zfs(ctx, get(properties, names...)...)
	if exit, refused := errors.AsType[*run.ExitError](err); refused && said(err, saysMissing) {
		out, err = exit.Stdout, nil
	}
	return b.told(out, err)
}

// told reads what zfs get printed, if err is nil.
func (b *Backend) told(out []byte, err error) ([]*dataset, error) {
	if err != nil {
		return nil, err
	}
	all, err := parse(out)
	if err != nil {
		b.o.Log.Warn("a property of a dataset cannot be read", "err", err)
	}
	return all, nil
}

func find(all []*dataset, name string) *dataset {
	for _, d := range all {
		if d.name == name {
			return d
		}
	}
	return nil
}

// List implements volume.Backend.
func (b *Backend) List(ctx context.Context) iter.Seq2[volume.Volume, error] {
	return func(yield func(volume.Volume, error) bool) {
		l := b.index.list()
		defer b.index.end(l, nil)
		// In this order, which zfs keeps to: what is discarded meanwhile is in both, and never in none.
		out, err := b.zfs(ctx, get(volumeProperties, "-d1", b.o.Dataset, b.private())...)
		if exit, refused := errors.AsType[*run.ExitError](err); refused && b.identity == "" && said(err, saysMissing) {
			out, err = exit.Stdout, nil // looked at, and never opened yet
		}
		if err != nil {
			yield(volume.Volume{}, untold(ctx, err))
			return
		}
		all, err := parse(out)
		if err == nil && find(all, b.o.Dataset) == nil {
			err = fmt.Errorf("%w: the pool's dataset %s does not exist", volume.ErrUnknown, b.o.Dataset)
		}
		if err != nil && !yield(volume.Volume{}, err) {
			return
		}
		b.note(all)
		if !b.yield(all, yield) {
			return
		}
		b.listSnapshots(ctx, l, all)(yield)
	}
}

func (b *Backend) yield(all []*dataset, yield func(volume.Volume, error) bool) (more bool) {
	aside := func(d *dataset) bool { return strings.HasPrefix(d.name, b.private()+"/") }
	slices.SortStableFunc(all, func(x, y *dataset) int { // the discarded ones first
		switch {
		case aside(x) == aside(y):
			return 0
		case aside(x):
			return -1
		default:
			return 1
		}
	})
	discarded := map[volume.Name]bool{}
	for _, d := range all {
		v, ours, err := b.decode(d)
		if err == nil && (!ours || discarded[v.Name]) {
			continue
		}
		if err == nil && v.State == volume.StateDiscarded {
			discarded[v.Name] = true
		}
		if !yield(v, err) {
			return false
		}
	}
	return true
}

// Update implements volume.Backend.
func (b *Backend) Update(ctx context.Context, v volume.Volume) (volume.Volume, error) {
	if now, name, err := b.snapshotCalled(ctx, v.Name); err != nil {
		return volume.Volume{}, err
	} else if name != "" {
		return b.updateSnapshot(ctx, now, v, name)
	}
	old, d, err := b.read(ctx, v.Name)
	if err != nil {
		return volume.Volume{}, err
	}
	switch {
	case old.Rev != v.Rev:
		return volume.Volume{}, fmt.Errorf("%w: the record of volume %s is at revision %d, not %d", volume.ErrConflict, v.Name, old.Rev, v.Rev)
	case v.Inodes != 0:
		return volume.Volume{}, fmt.Errorf("%w: volume %s: ZFS does not limit the number of files of a dataset", volume.ErrUnsupported, v.Name)
	}
	if v.Size != old.Size {
		v.Size = max(v.Size, minSize)
		if err := b.resize(ctx, v, d); err != nil {
			return volume.Volume{}, b.refused("resizing", v, err)
		}
	}
	if v.Published && v.State == volume.StateCreating {
		v.State = volume.StateReady // or else it would not have been handed out
	}
	return b.save(ctx, v)
}

// resize changes the limits of v, whose dataset is d, to its size.
func (b *Backend) resize(ctx context.Context, v volume.Volume, d *dataset) error {
	defer b.forget(d.name)
	size := strconv.FormatInt(v.Size, 10)
	if quota := d.number("quota"); quota > 0 && quota < uint64(v.Size) { // which another program has set; see Adopt
		if _, err := b.zfs(ctx, "set", "quota="+size, d.name); err != nil {
			return err
		}
	}
	if v.Sizing == volume.SizingQuota || v.Sizing == volume.SizingBoth {
		// First, because a reservation may not be more. After a crash between the two it is asked again.
		if _, err := b.zfs(ctx, "set", "refquota="+size, d.name); err != nil {
			return err
		}
	}
	if v.Sizing == volume.SizingReservation || v.Sizing == volume.SizingBoth {
		_, err := b.zfs(ctx, "set", "refreservation="+size, d.name)
		if old := d.local("refquota"); err != nil && old != "" && v.Sizing == volume.SizingBoth && !errors.Is(err, volume.ErrUnknown) {
			_, undone := b.zfs(ctx, "set", "refquota="+old, d.name)
			return errors.Join(err, undone)
		}
		return err
	}
	return nil
}

// save writes the record of v, with the next revision.
func (b *Backend) save(ctx context.Context, v volume.Volume) (volume.Volume, error) {
	v.Rev++
	record, err := encode(v)
	if err != nil {
		return volume.Volume{}, err
	}
	if _, err := b.zfs(ctx, "set", propRecord+"="+record, b.dataset(v.Name)); err != nil {
		return volume.Volume{}, b.refused("recording", v, err)
	}
	return v, nil
}

// refused says what zfs did not do to v, and why.
func (b *Backend) refused(what string, v volume.Volume, err error) error {
	if said(err, saysFull) && v.Size < 1<<20 {
		return fmt.Errorf("%s volume %s of %d bytes, of which an empty dataset takes some 100 KiB: %w", what, v.Name, v.Size, meaning(err))
	}
	if said(err, saysMissing) {
		return fmt.Errorf("%w: %s volume %s: %w", volume.ErrNotFound, what, v.Name, err)
	}
	return fmt.Errorf("%s volume %s: %w", what, v.Name, meaning(err))
}
