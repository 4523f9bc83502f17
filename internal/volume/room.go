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

// Room is how many bytes of the pool are neither used nor promised to a volume;
// 0 if it may have no more volumes. A pool whose backend cannot tell has no bounds.
func (m *Manager) Room(ctx context.Context) (int64, error) {
	volumes, promised := m.tally.read()
	if m.pool.MaxVolumes > 0 && volumes >= m.pool.MaxVolumes {
		return 0, nil
	}
	if m.meter == nil {
		return math.MaxInt64, nil
	}
	c, err := m.meter.Capacity(ctx)
	if err != nil {
		return 0, fmt.Errorf("measuring pool %s: %w", m.pool.Name, err)
	}
	total, available := toInt64(c.Total), toInt64(c.Available)
	return max(0, min(available, total-promised)), nil
}

// toInt64 bounds what file systems report: some say 8 EiB and more.
func toInt64(n uint64) int64 { return int64(min(n, math.MaxInt64)) }
