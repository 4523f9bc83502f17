package zfs

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/berth-storage/berth/internal/volume"
)

// fresh is how long what was read may stand for what is.
const fresh = 5 * time.Second

// seen is what the last questions told beside what they were asked for, so that it
// is not asked again at once. What this process changes is forgotten.
type seen struct {
	mu       sync.Mutex
	datasets map[string]sight
	room     volume.Capacity
	roomAt   time.Time
}

type sight struct {
	at      time.Time
	mounted bool
	usage   volume.Usage
}

// note remembers what was read. The parent tells of the pool's room.
func (b *Backend) note(all []*dataset) {
	s := &b.seen
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.datasets == nil || len(all) > 2 {
		s.datasets = make(map[string]sight) // and nothing of what is gone
	}
	for _, d := range all {
		if d.name == b.o.Dataset {
			s.room, s.roomAt = capacity(d), now
			continue
		}
		s.datasets[d.name] = sight{now, d.value("mounted") == "yes", volume.Usage{Bytes: d.number("referenced"), LimitBytes: d.number("refquota")}}
	}
}

func capacity(parent *dataset) volume.Capacity {
	available := parent.number("available")
	return volume.Capacity{Total: available + parent.number("used"), Available: available}
}

// forget is for what was changed, or may have been.
func (b *Backend) forget(name string) {
	b.seen.mu.Lock()
	defer b.seen.mu.Unlock()
	delete(b.seen.datasets, name)
	b.seen.roomAt = time.Time{}
}

func (s *seen) find(name string) (sight, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, found := s.datasets[name]
	return d, found && time.Since(d.at) < fresh
}

// mount says that a dataset was just mounted; what it takes up is not known.
func (s *seen) mount(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.datasets == nil {
		s.datasets = make(map[string]sight)
	}
	s.datasets[name] = sight{mounted: true}
}

// mounted says whether the dataset was mounted when it was last looked at.
func (s *seen) mounted(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.datasets[name].mounted
}

// Capacity implements volume.Meter: what the parent may still use, with all that limits
// it, and that with what it uses. What is reserved for volumes counts as used.
func (b *Backend) Capacity(ctx context.Context) (volume.Capacity, error) {
	b.seen.mu.Lock()
	room, isFresh := b.seen.room, time.Since(b.seen.roomAt) < fresh
	b.seen.mu.Unlock()
	if isFresh {
		return room, nil
	}
	all, err := b.ask(ctx, []string{"available", "used"}, b.o.Dataset)
	if err != nil {
		return volume.Capacity{}, err
	}
	parent := find(all, b.o.Dataset)
	if parent == nil {
		return volume.Capacity{}, fmt.Errorf("%w: the pool's dataset %s does not exist", volume.ErrUnknown, b.o.Dataset)
	}
	return capacity(parent), nil
}

// Usage implements volume.UsageMeter: what the dataset refers to, as refquota counts it.
func (b *Backend) Usage(ctx context.Context, v volume.Volume) (volume.Usage, error) {
	if v.SnapshotOf != (volume.Name{}) {
		return volume.Usage{}, fmt.Errorf("%w: snapshot %s shares what it takes up with others", volume.ErrUnsupported, v.Name)
	}
	name := b.dataset(v.Name)
	if d, found := b.seen.find(name); found {
		return d.usage, nil
	}
	all, err := b.ask(ctx, []string{"mounted", "referenced", "refquota"}, name)
	if err != nil {
		return volume.Usage{}, fmt.Errorf("volume %s: %w", v.Name, err)
	}
	if find(all, name) == nil {
		return volume.Usage{}, fmt.Errorf("%w: %s", volume.ErrNotFound, v.Name)
	}
	b.note(all)
	d, _ := b.seen.find(name)
	return d.usage, nil
}
