package volume

import (
	"context"
	"errors"
	"fmt"
)

// clone says which volume s shall be a clone of; the zero Name if of none.
func (s Spec) clone() Name {
	if s.From == nil {
		return Name{}
	}
	return s.From.Volume
}

// original gives the volume that s shall be a clone of. Until letGo is called nothing
// is done to it.
func (m *Manager) original(ctx context.Context, s Spec) (v Volume, letGo func(), err error) {
	// It is looked at before it is waited for: what is done to a ready volume waits for no
	// other one, so that two claims that want to be clones of each other wait for nobody.
	if _, err := m.mayBeCloned(ctx, s); err != nil {
		return Volume{}, nil, err
	}
	letGo, err = m.names.lock(ctx, s.From.Volume)
	if err != nil {
		return Volume{}, nil, err
	}
	if v, err = m.mayBeCloned(ctx, s); err != nil {
		letGo()
		return Volume{}, nil, err
	}
	return v, letGo, nil
}

func (m *Manager) mayBeCloned(ctx context.Context, s Spec) (Volume, error) {
	n := s.From.Volume
	if n == s.Name {
		return Volume{}, fmt.Errorf("%w: volume %s cannot be a clone of itself", ErrInvalid, n)
	}
	v, err := m.get(ctx, n)
	switch {
	case errors.Is(err, ErrNotFound):
		return Volume{}, fmt.Errorf("%w: volume %s: there is no volume %s in pool %s, of which it shall be a clone", ErrNotFound, s.Name, n, m.pool.Name)
	case err != nil:
		return Volume{}, fmt.Errorf("volume %s: what it shall be a clone of: %w", s.Name, err)
	case !v.mayBecome(s):
		return Volume{}, fmt.Errorf("%w: volume %s cannot be a clone of %s, which is that of claim %s: only a claim of the same namespace and cluster gets it",
			ErrForeign, s.Name, n, v.Claim)
	case v.State == StateCreating:
		return Volume{}, fmt.Errorf("%w: volume %s: %s, of which it shall be a clone, is not ready yet", ErrBusy, s.Name, n)
	case v.State != StateReady:
		return Volume{}, fmt.Errorf("%w: volume %s: %s, of which it shall be a clone, is %s: its claim was deleted", ErrNotFound, s.Name, n, v.State)
	}
	return v, nil
}

// Tombstones are how many deleted volumes wait for their clones to be deleted too: their
// space is not free before.
func (m *Manager) Tombstones() int { return m.purge.tombstones() }
