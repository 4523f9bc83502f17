package volume

import (
	"context"
	"fmt"
	"os"
	"sync"
)

// Origin is the volume of another pool that a volume was copied from, or the snapshot of it.
type Origin struct {
	Pool     string `json:"pool"`
	Volume   Name   `json:"volume"`
	Snapshot Name   `json:"snapshot,omitzero"`
}

// Source is that of whoever goes on with the copy.
func (o Origin) Source() *Source {
	return &Source{Pool: o.Pool, Volume: o.Volume, Snapshot: o.Snapshot}
}

// Content is what a volume is filled with.
type Content struct {
	Tree *os.File // its top directory, on this host
	// Still gives an error if not all that belongs to it may be there any more.
	Still func(ctx context.Context) error
}

// Reader is the ability to show on this host what a volume holds.
type Reader interface {
	// OpenTree opens the top directory of v, which is ready, or a complete snapshot. All that has to be
	// copied is below it. ErrUnsupported if it is not to be seen on this host.
	OpenTree(ctx context.Context, v Volume) (*os.File, error)
}

// Filler is the ability to make a volume that holds a copy of what another backend has.
type Filler interface {
	// Fill makes the volume of s, whose source is of another pool, or goes on making it, and returns
	// it ready. It has what is in the content, but its own owner and mode. If c.Still fails after all
	// was copied, the error is that, and the volume is not ready. What is there of an earlier try is replaced.
	// Other errors are those of Create; of ErrNoSpace and ErrUnsupported nothing is left that takes up room.
	Fill(ctx context.Context, s Spec, c Content, p *Progress) (Volume, error)
}

// Pools are pools that can get their volumes' content from each other. The zero value has none.
type Pools struct {
	mu  sync.Mutex
	all map[string]*Manager
}

// join has m be the pool of its name from now on.
func (p *Pools) join(m *Manager) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == nil {
		p.all = make(map[string]*Manager)
	}
	p.all[m.pool.Name] = m
}

func (p *Pools) find(name string) *Manager {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all[name]
}

// copied says whether s shall be a copy of what another pool has.
func (s Spec) copied() bool { return s.From != nil && s.From.Pool != "" }

// content opens what s shall be a copy of, and gives its group. It is not deleted until it is closed.
func (m *Manager) content(ctx context.Context, s Spec) (c Content, gid uint32, closed func(), err error) {
	from := m.pool.Among.find(s.From.Pool)
	if from == nil || from == m {
		return Content{}, 0, nil, fmt.Errorf("%w: volume %s: what it shall be a copy of is in pool %s, which is not there now", ErrBusy, s.Name, s.From.Pool)
	}
	if from.reader == nil {
		return Content{}, 0, nil, fmt.Errorf("%w: volume %s: of pool %s nothing can be copied to another pool: use a class of that pool", ErrUnsupported, s.Name, s.From.Pool)
	}
	v, unpin, err := from.original(ctx, s)
	if err != nil {
		return Content{}, 0, nil, err
	}
	tree, err := from.reader.OpenTree(ctx, v)
	if err != nil {
		unpin()
		return Content{}, 0, nil, fmt.Errorf("volume %s: opening what it shall be a copy of, %s of pool %s: %w", s.Name, v.Name, s.From.Pool, err)
	}
	still := func(ctx context.Context) error {
		now, err := from.get(ctx, v.Name)
		if err == nil && now.State != v.State {
			err = fmt.Errorf("%w: it is %s", ErrNotFound, now.State)
		}
		if err != nil {
			return fmt.Errorf("volume %s: what it is being copied from, %s of pool %s: %w", s.Name, v.Name, s.From.Pool, err)
		}
		return nil
	}
	closed = func() {
		if err := tree.Close(); err != nil {
			m.pool.Log.Warn("closing what was copied", "volume", v.Name, "pool", s.From.Pool, "err", err)
		}
		unpin()
	}
	return Content{Tree: tree, Still: still}, v.Owner.GID, closed, nil
}
