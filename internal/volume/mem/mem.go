// Package mem is a backend that keeps volumes in memory. It passes the same
// contract as the real ones, so that tests of what is built on backends may use
// it honestly.
package mem

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/berth-storage/berth/internal/volume"
)

// Backend is a pool in memory. The zero value is an empty one without limits.
type Backend struct {
	// Total is the pool's size in bytes, 0 for one without end.
	Total uint64

	mu      sync.Mutex
	records map[volume.Name]volume.Volume
	trees   map[string]bool // the paths of directories
}

var (
	_ volume.Backend    = (*Backend)(nil)
	_ volume.Meter      = (*Backend)(nil)
	_ volume.UsageMeter = (*Backend)(nil)
	_ volume.Archiver   = (*Backend)(nil)
	_ volume.Cloner     = (*Backend)(nil)

	_ volume.Snapshotter = (*Backend)(nil)
	_ volume.Reader      = (*Backend)(nil)
	_ volume.Filler      = (*Backend)(nil)
)

// Root is where the Dir of each volume is, which is on no file system.
const Root = "/mem"

// Limit is what keeps a volume here to its size: nothing can be written to it.
const Limit volume.Limit = "memory"

// Create implements volume.Backend.
func (b *Backend) Create(ctx context.Context, s volume.Spec) (volume.Volume, error) {
	if err := s.Validate(); err != nil {
		return volume.Volume{}, err
	}
	if err := ctx.Err(); err != nil {
		return volume.Volume{}, err
	}
	if s.From != nil && s.From.Volume != (volume.Name{}) {
		return volume.Volume{}, fmt.Errorf("%w: a clone is made by Clone", volume.ErrUnsupported)
	}
	return b.make(s)
}

// Clone implements volume.Cloner.
func (b *Backend) Clone(ctx context.Context, s volume.Spec, _ *volume.Progress) (volume.Volume, error) {
	if err := s.Validate(); err != nil {
		return volume.Volume{}, err
	}
	if err := ctx.Err(); err != nil {
		return volume.Volume{}, err
	}
	if s.From == nil || s.From.Volume == (volume.Name{}) {
		return volume.Volume{}, fmt.Errorf("%w: nothing to clone", volume.ErrInvalid)
	}
	return b.make(s)
}

// Fill implements volume.Filler.
func (b *Backend) Fill(ctx context.Context, s volume.Spec, c volume.Content, _ *volume.Progress) (volume.Volume, error) {
	if err := s.Validate(); err != nil {
		return volume.Volume{}, err
	}
	if err := ctx.Err(); err != nil {
		return volume.Volume{}, err
	}
	if s.From == nil || s.From.Pool == "" {
		return volume.Volume{}, fmt.Errorf("%w: nothing to copy", volume.ErrInvalid)
	}
	v, err := b.Get(ctx, s.Name)
	if err == nil && !v.CopyOf(s) {
		return volume.Volume{}, fmt.Errorf("%w: %s was begun with another content", volume.ErrExists, s.Name)
	}
	if err != nil || v.State != volume.StateReady {
		if err := c.Still(ctx); err != nil {
			return volume.Volume{}, err
		}
	}
	return b.make(s)
}

// OpenTree implements volume.Reader: it gives an empty folder, which is nowhere.
func (b *Backend) OpenTree(ctx context.Context, v volume.Volume) (*os.File, error) {
	if _, err := b.Get(ctx, v.Name); err != nil {
		return nil, err
	}
	at, err := os.MkdirTemp("", "mem-")
	if err != nil {
		return nil, err
	}
	d, err := os.Open(at)
	if removed := os.Remove(at); err == nil {
		err = removed
	}
	return d, err
}

func (b *Backend) make(s volume.Spec) (volume.Volume, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v, found := b.records[s.Name]
	switch {
	case found && !v.Is(s):
		return volume.Volume{}, fmt.Errorf("%w: %s is of claim %s", volume.ErrExists, s.Name, v.Claim)
	case found && v.State == volume.StateDiscarded:
		return volume.Volume{}, fmt.Errorf("%w: %s is discarded", volume.ErrBusy, s.Name)
	case found && !v.Ended.IsZero():
		return volume.Volume{}, fmt.Errorf("%w: %s is %s", volume.ErrExists, s.Name, v.State)
	case found:
		return v, nil
	}
	v = volume.New(s, time.Now())
	v.State, v.Limit, v.Rev, v.Dir = volume.StateReady, Limit, 1, s.Path.Below(Root)
	if err := b.fill(&v, s); err != nil {
		return volume.Volume{}, err
	}
	b.put(v)
	return v, nil
}

func (b *Backend) put(v volume.Volume) {
	if b.records == nil {
		b.records = make(map[volume.Name]volume.Volume)
	}
	b.records[v.Name] = v
}

// Snapshot implements volume.Snapshotter.
func (b *Backend) Snapshot(ctx context.Context, s volume.SnapshotSpec, _ *volume.Progress) (volume.Volume, error) {
	if err := s.Validate(); err != nil {
		return volume.Volume{}, err
	}
	if err := ctx.Err(); err != nil {
		return volume.Volume{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	v, found := b.records[s.Name]
	switch {
	case found && !v.IsSnapshot(s):
		return volume.Volume{}, fmt.Errorf("%w: %s is something else", volume.ErrExists, s.Name)
	case found && v.State == volume.StateDiscarded:
		return volume.Volume{}, fmt.Errorf("%w: %s is discarded", volume.ErrBusy, s.Name)
	case found:
		return v, nil
	}
	of, found := b.records[s.Of]
	if !found || of.State != volume.StateReady {
		return volume.Volume{}, fmt.Errorf("%w: there is no %s to take a snapshot of", volume.ErrNotFound, s.Of)
	}
	v = volume.NewSnapshot(s, of, time.Now())
	v.State, v.Rev = volume.StateSnapshot, 1
	v.Dir = path.Join(Root, ".snapshots", s.Name.String())
	b.put(v)
	return v, nil
}

// fill makes v's directory, or takes what is there.
func (b *Backend) fill(v *volume.Volume, s volume.Spec) error {
	if b.trees == nil {
		b.trees = make(map[string]bool)
	}
	if s.From != nil && s.From.Archive != (volume.Name{}) {
		from, found := b.records[s.From.Archive]
		if !found || from.State != volume.StateArchived && from.State != volume.StateRetained {
			return fmt.Errorf("%w: %s is not kept", volume.ErrNotFound, s.From.Archive)
		}
		if place(from) != place(*v) && b.trees[place(*v)] {
			return fmt.Errorf("%w: %s: something lies at %s", volume.ErrForeign, v.Name, v.Path)
		}
		delete(b.trees, place(from))
		delete(b.records, from.Name)
	} else if v.FromSnapshot != (volume.Name{}) && b.records[v.FromSnapshot].State != volume.StateSnapshot {
		return fmt.Errorf("%w: snapshot %s is not there to be cloned", volume.ErrNotFound, v.FromSnapshot)
	} else if v.ClonedFrom != (volume.Name{}) && v.FromSnapshot == (volume.Name{}) && b.records[v.ClonedFrom].State != volume.StateReady {
		return fmt.Errorf("%w: %s is not there to be cloned", volume.ErrNotFound, v.ClonedFrom)
	} else if v.TookOver = b.trees[place(*v)]; v.TookOver && (s.Existing == "" || s.Existing == volume.ExistingRefuse) {
		return fmt.Errorf("%w: %s: something lies at %s", volume.ErrForeign, v.Name, v.Path)
	}
	b.trees[place(*v)] = true
	return nil
}

// place is where v's directory is.
func place(v volume.Volume) string {
	if v.ArchivePath != "" {
		return v.ArchivePath
	}
	return v.Path.String()
}

// Archive implements volume.Archiver. Archives lie beside the volumes.
func (b *Backend) Archive(ctx context.Context, n volume.Name, take func(volume.RelPath) error) (volume.Volume, error) {
	if v, err := b.Get(ctx, n); err != nil || v.State == volume.StateArchived {
		return v, err
	}
	return b.change(ctx, n, func(old volume.Volume) (volume.Volume, error) {
		switch {
		case old.State == volume.StateArchiving: // the record says where to
		case old.State != volume.StateReady && old.State != volume.StateCreating:
			return old, fmt.Errorf("%w: %s is %s", volume.ErrConflict, n, old.State)
		case !b.trees[place(old)]:
			return old, fmt.Errorf("%w: %s has no directory", volume.ErrNotFound, n)
		default:
			old.ArchivePath, old.Ended = b.archivePlace(old, take), time.Now().UTC().Truncate(time.Second)
		}
		delete(b.trees, old.Path.String())
		b.trees[old.ArchivePath] = true
		old.State, old.Dir = volume.StateArchived, path.Join(Root, old.ArchivePath)
		return old, nil
	})
}

func (b *Backend) archivePlace(v volume.Volume, take func(volume.RelPath) error) string {
	beside, err := volume.ParseRelPath("archived-" + v.Path.String())
	if err != nil || b.trees[beside.String()] || take(beside) != nil {
		return ".archive/" + v.Name.String() + "/" + v.Path.String()
	}
	return beside.String()
}

// Release implements volume.Archiver.
func (b *Backend) Release(ctx context.Context, n volume.Name) error {
	if _, err := b.Get(ctx, n); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.records, n)
	return nil
}

// Measure implements volume.Archiver: what is in memory is as big as it may become.
func (b *Backend) Measure(ctx context.Context, v volume.Volume) (int64, error) {
	v, err := b.Get(ctx, v.Name)
	return v.Size, err
}

// Get implements volume.Backend.
func (b *Backend) Get(ctx context.Context, n volume.Name) (volume.Volume, error) {
	if err := ctx.Err(); err != nil {
		return volume.Volume{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	v, found := b.records[n]
	if !found {
		return volume.Volume{}, fmt.Errorf("%w: %s", volume.ErrNotFound, n)
	}
	return v, nil
}

// List implements volume.Backend.
func (b *Backend) List(context.Context) iter.Seq2[volume.Volume, error] {
	return func(yield func(volume.Volume, error) bool) {
		b.mu.Lock()
		all := slices.SortedFunc(maps.Values(b.records), func(x, y volume.Volume) int {
			return strings.Compare(x.Name.String(), y.Name.String())
		})
		b.mu.Unlock()
		for _, v := range all {
			if !yield(v, nil) {
				return
			}
		}
	}
}

// Update implements volume.Backend.
func (b *Backend) Update(ctx context.Context, v volume.Volume) (volume.Volume, error) {
	return b.change(ctx, v.Name, func(old volume.Volume) (volume.Volume, error) {
		if old.Rev != v.Rev {
			return old, fmt.Errorf("%w: %s is at revision %d, not %d", volume.ErrConflict, v.Name, old.Rev, v.Rev)
		}
		return v, nil
	})
}

// Discard implements volume.Backend.
func (b *Backend) Discard(ctx context.Context, n volume.Name) error {
	_, err := b.change(ctx, n, func(old volume.Volume) (volume.Volume, error) {
		if old.State != volume.StateDiscarded && old.SnapshotOf == (volume.Name{}) {
			delete(b.trees, place(old))
		}
		old.State = volume.StateDiscarded
		return old, nil
	})
	return err
}

// Purge implements volume.Backend.
func (b *Backend) Purge(ctx context.Context, n volume.Name) error {
	v, err := b.Get(ctx, n)
	if err != nil {
		return err
	}
	if v.State != volume.StateDiscarded {
		return fmt.Errorf("%w: %s is %s, not discarded", volume.ErrConflict, n, v.State)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, o := range b.records {
		if o.ClonedFrom == n || o.FromSnapshot == n || o.SnapshotOf == n {
			return fmt.Errorf("%w: %s needs what is in %s", volume.ErrCloned, o.Name, n)
		}
	}
	delete(b.records, n)
	return nil
}

// Capacity implements volume.Meter.
func (b *Backend) Capacity(context.Context) (volume.Capacity, error) {
	if b.Total == 0 {
		return volume.Capacity{Total: 1 << 62, Available: 1 << 62}, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var used uint64
	for _, v := range b.records {
		used += uint64(v.Size)
	}
	return volume.Capacity{Total: b.Total, Available: b.Total - min(used, b.Total)}, nil
}

// Usage implements volume.UsageMeter.
func (b *Backend) Usage(ctx context.Context, v volume.Volume) (volume.Usage, error) {
	v, err := b.Get(ctx, v.Name)
	return volume.Usage{LimitBytes: uint64(v.Size), LimitInodes: uint64(v.Inodes)}, err
}

func (b *Backend) change(ctx context.Context, n volume.Name, f func(volume.Volume) (volume.Volume, error)) (volume.Volume, error) {
	if err := ctx.Err(); err != nil {
		return volume.Volume{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	v, found := b.records[n]
	if !found {
		return volume.Volume{}, fmt.Errorf("%w: %s", volume.ErrNotFound, n)
	}
	changed, err := f(v)
	if err != nil {
		return volume.Volume{}, err
	}
	changed.Rev = v.Rev + 1
	b.records[n] = changed
	return changed, nil
}
