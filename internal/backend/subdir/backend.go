package subdir

import (
	"context"
	"fmt"
	"iter"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/volume"
)

// directories is the backend that does the work: *dir.Backend.
type directories interface {
	volume.Backend
	volume.Meter
	volume.UsageMeter
	volume.Archiver
	volume.Cloner
	volume.Snapshotter
	volume.Filler
}

// Backend is an open share. Its methods are those of the backend of directories, and
// return when the share does not answer: ErrBusy if nothing was begun, else ErrUnknown.
type Backend struct {
	guard *guard
	inner directories
	dir   *dir.Backend // the same
}

var (
	_ directories    = (*Backend)(nil)
	_ volume.Backend = (*Backend)(nil)
)

// Identity is the pool's own name; see dir.Backend.
func (b *Backend) Identity() string { return b.dir.Identity() }

// New says whether the pool was made just now; see dir.Backend.
func (b *Backend) New() bool { return b.dir.New() }

// Do has f work on the share by its backend of directories.
func (b *Backend) Do(ctx context.Context, f func(context.Context, *dir.Backend) error) error {
	return do(ctx, b.guard, volume.Name{}, func(ctx context.Context) error { return f(ctx, b.dir) })
}

// Create implements volume.Backend.
func (b *Backend) Create(ctx context.Context, s volume.Spec) (volume.Volume, error) {
	return call(ctx, b.guard, s.Name, func(ctx context.Context) (volume.Volume, error) { return b.inner.Create(ctx, s) })
}

// Clone implements volume.Cloner.
func (b *Backend) Clone(ctx context.Context, s volume.Spec, p *volume.Progress) (volume.Volume, error) {
	return call(ctx, b.guard, s.Name, func(ctx context.Context) (volume.Volume, error) { return b.inner.Clone(ctx, s, p) })
}

// Fill implements volume.Filler. A copy that is left at work has a descriptor of its own of the source.
func (b *Backend) Fill(ctx context.Context, s volume.Spec, c volume.Content, p *volume.Progress) (volume.Volume, error) {
	fd, err := unix.FcntlInt(c.Tree.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return volume.Volume{}, fmt.Errorf("volume %s: %w", s.Name, &os.PathError{Op: "dup", Path: c.Tree.Name(), Err: err})
	}
	c.Tree = os.NewFile(uintptr(fd), c.Tree.Name())
	// If the call is refused, nobody refers to it any more, which closes it too.
	return call(ctx, b.guard, s.Name, func(ctx context.Context) (volume.Volume, error) {
		defer c.Tree.Close()
		return b.inner.Fill(ctx, s, c, p)
	})
}

// Snapshot implements volume.Snapshotter.
func (b *Backend) Snapshot(ctx context.Context, s volume.SnapshotSpec, p *volume.Progress) (volume.Volume, error) {
	return call(ctx, b.guard, s.Name, func(ctx context.Context) (volume.Volume, error) { return b.inner.Snapshot(ctx, s, p) })
}

// Get implements volume.Backend.
func (b *Backend) Get(ctx context.Context, n volume.Name) (volume.Volume, error) {
	return call(ctx, b.guard, n, func(ctx context.Context) (volume.Volume, error) { return b.inner.Get(ctx, n) })
}

// listed is what List yields.
type listed struct {
	v   volume.Volume
	err error
}

// List implements volume.Backend.
func (b *Backend) List(ctx context.Context) iter.Seq2[volume.Volume, error] {
	return func(yield func(volume.Volume, error) bool) {
		all, err := call(ctx, b.guard, volume.Name{}, func(ctx context.Context) ([]listed, error) {
			var all []listed
			for v, err := range b.inner.List(ctx) {
				if ctx.Err() != nil {
					return nil, context.Cause(ctx)
				}
				all = append(all, listed{v, err})
			}
			return all, nil
		})
		if err != nil {
			// Of a list that could not be read nobody knows what is in it.
			yield(volume.Volume{}, fmt.Errorf("%w: %w", volume.ErrUnknown, err))
			return
		}
		for _, l := range all {
			if !yield(l.v, l.err) {
				return
			}
		}
	}
}

// Update implements volume.Backend.
func (b *Backend) Update(ctx context.Context, v volume.Volume) (volume.Volume, error) {
	return call(ctx, b.guard, v.Name, func(ctx context.Context) (volume.Volume, error) { return b.inner.Update(ctx, v) })
}

// Discard implements volume.Backend.
func (b *Backend) Discard(ctx context.Context, n volume.Name) error {
	return do(ctx, b.guard, n, func(ctx context.Context) error { return b.inner.Discard(ctx, n) })
}

// Purge implements volume.Backend.
func (b *Backend) Purge(ctx context.Context, n volume.Name) error {
	return do(ctx, b.guard, n, func(ctx context.Context) error { return b.inner.Purge(ctx, n) })
}

// Capacity implements volume.Meter.
func (b *Backend) Capacity(ctx context.Context) (volume.Capacity, error) {
	return call(ctx, b.guard, volume.Name{}, b.inner.Capacity)
}

// Usage implements volume.UsageMeter.
func (b *Backend) Usage(ctx context.Context, v volume.Volume) (volume.Usage, error) {
	return call(ctx, b.guard, volume.Name{}, func(ctx context.Context) (volume.Usage, error) { return b.inner.Usage(ctx, v) })
}

// Archive implements volume.Archiver.
func (b *Backend) Archive(ctx context.Context, n volume.Name, take func(volume.RelPath) error) (volume.Volume, error) {
	return call(ctx, b.guard, n, func(ctx context.Context) (volume.Volume, error) { return b.inner.Archive(ctx, n, take) })
}

// Release implements volume.Archiver.
func (b *Backend) Release(ctx context.Context, n volume.Name) error {
	return do(ctx, b.guard, n, func(ctx context.Context) error { return b.inner.Release(ctx, n) })
}

// Measure implements volume.Archiver.
func (b *Backend) Measure(ctx context.Context, v volume.Volume) (int64, error) {
	return call(ctx, b.guard, volume.Name{}, func(ctx context.Context) (int64, error) { return b.inner.Measure(ctx, v) })
}
