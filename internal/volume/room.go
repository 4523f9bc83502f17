package volume

import (
	"context"
	"fmt"
	"math"
	"sync"
)

// tally is what the volumes of a pool were promised, without reading all records.
type tally struct {
	mu    sync.Mutex
	sizes map[Name]int64
	bytes int64
}

// add counts n with size bytes, unless there are limit volumes already (0: no limit).
func (t *tally) add(n Name, size int64, limit int) (added bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, counted := t.sizes[n]; !counted && limit > 0 && len(t.sizes) >= limit {
		return false
	}
	if t.sizes == nil {
		t.sizes = make(map[Name]int64)
	}
	t.bytes += size - t.sizes[n]
	t.sizes[n] = size
	return true
}

// remove counts n no more.
func (t *tally) remove(n Name) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bytes -= t.sizes[n]
	delete(t.sizes, n)
}

func (t *tally) read() (volumes int, bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.sizes), t.bytes
}

// Room is what a pool has left, in bytes.
type Room struct {
	// Free is what is not used. A volume that is bigger cannot be made.
	Free int64
	// Unpromised is what is neither used nor promised to a volume. It is below 0 in a
	// pool that has promised more than there is, as it may.
	Unpromised int64
}

// Room tells what the pool has left: nothing is free if it may have no more volumes.
// A pool whose backend cannot tell has no bounds.
func (m *Manager) Room(ctx context.Context) (Room, error) {
	volumes, promised := m.tally.read()
	r := Room{Free: math.MaxInt64, Unpromised: math.MaxInt64}
	if m.meter != nil {
		c, err := m.meter.Capacity(ctx)
		if err != nil {
			return Room{}, fmt.Errorf("measuring pool %s: %w", m.pool.Name, err)
		}
		r.Free = toInt64(c.Available)
		r.Unpromised = min(r.Free, toInt64(c.Total)-promised)
	}
	if m.pool.MaxVolumes > 0 && volumes >= m.pool.MaxVolumes {
		r.Free = 0
	}
	return r, nil
}

// toInt64 bounds what file systems report: some say 8 EiB and more.
func toInt64(n uint64) int64 { return int64(min(n, math.MaxInt64)) }
