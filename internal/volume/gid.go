package volume

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
)

// GIDRange are the group ids that volumes get one of, each its own. The zero value
// gives none.
type GIDRange struct{ First, Last uint32 }

// ParseGIDRange reads a range like 5000-5999.
func ParseGIDRange(s string) (GIDRange, error) {
	low, high, _ := strings.Cut(s, "-")
	first, errFirst := strconv.ParseUint(low, 10, 32)
	last, errLast := strconv.ParseUint(high, 10, 32)
	// chown(2) takes the greatest number for "as it is"; 0 is root's group.
	if errFirst != nil || errLast != nil || first == 0 || first > last || last == math.MaxUint32 {
		return GIDRange{}, fmt.Errorf("%q is not a range of group ids like 5000-5999", s)
	}
	return GIDRange{uint32(first), uint32(last)}, nil
}

// gids knows which group ids of ranges are given out.
type gids struct {
	mu    sync.Mutex
	taken map[uint32]int
}

// use says that a volume has gid.
func (g *gids) use(gid uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.taken == nil {
		g.taken = make(map[uint32]int)
	}
	g.taken[gid]++
}

// free is the end of one use.
func (g *gids) free(gid uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.taken[gid]--; g.taken[gid] <= 0 {
		delete(g.taken, gid)
	}
}

// take gives an id of r that no volume has, and not one that can be guessed from
// the others: whoever is in a group gets in.
func (g *gids) take(r GIDRange) (uint32, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	size := uint64(r.Last-r.First) + 1
	start := rand.Uint64N(size) //nolint:gosec // a number of 16 to 32 bits is no secret; it only must not be in use
	for i := range size {
		gid := r.First + uint32((start+i)%size)
		if g.taken[gid] == 0 {
			if g.taken == nil {
				g.taken = make(map[uint32]int)
			}
			g.taken[gid]++
			return gid, true
		}
	}
	return 0, false
}
