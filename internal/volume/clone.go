package volume

import (
	"context"
	"errors"
	"fmt"
)

// IsCopy says whether s asks for what another volume or a snapshot holds, of the same pool or another one.
func (s Spec) IsCopy() bool { return s.From != nil && s.From.Volume != Name{} }

// clone says which volume of the same pool s shall be a clone of; the zero Name if of none.
func (s Spec) clone() Name {
	if s.From == nil || s.copied() {
		return Name{}
	}
	return s.From.Volume
}

// original gives the volume or snapshot of this pool that s shall be a clone or copy of, which is not deleted
// until unpin is called.
func (m *Manager) original(ctx context.Context, s Spec) (v Volume, unpin func(), err error) {
	n := s.From.Volume
	if s.From.Snapshot != (Name{}) {
		n = s.From.Snapshot
	}
	if n == s.Name && !s.copied() {
		return Volume{}, nil, fmt.Errorf("%w: volume %s cannot be a clone of itself", ErrInvalid, n)
	}
	v, unpin, err = m.pinned(ctx, n, func(v Volume) error {
		switch {
		case !v.mayBecome(s):
			return fmt.Errorf("%w: only a claim of the same namespace and cluster gets a clone of %s, which is that of claim %s", ErrForeign, n, v.Claim)
		case s.From.Snapshot == (Name{}):
			return v.readyFor("its clone")
		case v.SnapshotOf != s.From.Volume:
			return fmt.Errorf("%w: %s is no snapshot of %s", ErrInvalid, n, s.From.Volume)
		case v.State == StateCreating:
			return fmt.Errorf("%w: snapshot %s is not complete yet", ErrBusy, n)
		case v.State != StateSnapshot:
			return fmt.Errorf("%w: snapshot %s is %s", ErrNotFound, n, v.State)
		}
		return nil
	})
	if errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("in pool %s: %w", m.pool.Name, err)
	}
	if err != nil {
		err = fmt.Errorf("volume %s: what it shall be a clone of: %w", s.Name, err)
	}
	return v, unpin, err
}

// pinned gives n if it passes check. It is not deleted until unpin is called.
func (m *Manager) pinned(ctx context.Context, n Name, check func(Volume) error) (v Volume, unpin func(), err error) {
	look := func() (err error) {
		if v, err = m.get(ctx, n); err == nil {
			err = check(v)
		}
		return err
	}
	// It is looked at before it is waited for: what is done to a ready volume waits for no
	// other one, so that two claims that want to be clones of each other wait for nobody.
	if err := look(); err != nil {
		return Volume{}, nil, err
	}
	unlock, err := m.names.lock(ctx, n)
	if err != nil {
		return Volume{}, nil, err
	}
	defer unlock()
	if err := look(); err != nil {
		return Volume{}, nil, err
	}
	return v, m.pins.add(n), nil
}

// Tombstones are how many deleted volumes wait for their clones to be deleted too: their
// space is not free before.
func (m *Manager) Tombstones() int { return m.purge.tombstones() }
