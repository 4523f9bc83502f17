package volume

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// SnapshotSpec is what a snapshot shall be.
type SnapshotSpec struct {
	Name Name
	Of   Name // the volume
	// Namespace and Cluster are those of who asks: only a volume of theirs is given.
	Namespace, Cluster string
}

// Validate says whether s can be asked of a backend.
func (s SnapshotSpec) Validate() error {
	switch {
	case s.Name == Name{}:
		return fmt.Errorf("%w: a snapshot without a name", ErrInvalid)
	case s.Of == Name{} || s.Of == s.Name:
		return fmt.Errorf("%w: snapshot %s: %q is no other volume", ErrInvalid, s.Name, s.Of)
	case s.Namespace == "":
		return fmt.Errorf("%w: snapshot %s: no namespace", ErrInvalid, s.Name)
	}
	return nil
}

// NewSnapshot is the snapshot of v that s asks for, before anything of it is made.
func NewSnapshot(s SnapshotSpec, v Volume, now time.Time) Volume {
	return Volume{
		Name: s.Name, SnapshotOf: v.Name, Path: s.Name.RelPath(), Size: v.Size, Inodes: v.Inodes, Claim: v.Claim, Cluster: s.Cluster,
		Reclaim: ReclaimDelete, Owner: v.Owner, Created: now.UTC().Truncate(time.Second), State: StateCreating,
	}
}

// IsSnapshot says whether v is the snapshot that s asks for, however far it got.
func (v Volume) IsSnapshot(s SnapshotSpec) bool {
	return v.Name == s.Name && v.SnapshotOf == s.Of && v.Claim.Namespace == s.Namespace && (v.Cluster == s.Cluster || v.Cluster == "")
}

// Snapshotter is the ability to keep what a volume holds at one time. A snapshot is a record like
// a volume's, with SnapshotOf. It is StateSnapshot when it is complete; from then on what it
// holds is the same for ever. Get, List, Update, Discard and Purge are those of a volume; if Discard leaves
// nothing to purge, Get is ErrNotFound then. It can be the source of a Clone. It outlives its volume:
// what of that it needs is not purged before (ErrCloned).
type Snapshotter interface {
	// Snapshot takes the snapshot of s, or goes on, and returns it complete. All is as of one
	// moment of the call, or Volume.Copied says that the storage has no way to do that. What
	// clients were told is written is in it. ErrNotFound if the volume is not there, or is not
	// ready, and the snapshot was not begun; ErrExists if the name is another one's; ErrNoSpace,
	// ErrUnsupported.
	Snapshot(ctx context.Context, s SnapshotSpec, p *Progress) (Volume, error)
}

// Snapshot takes the snapshot of s, or goes on, and returns it complete. Where everything has to
// be copied that goes on in the background, and the error is ErrPending until it is done. Other
// errors are those of Snapshotter; ErrForeign if the volume is another namespace's or cluster's.
func (m *Manager) Snapshot(ctx context.Context, s SnapshotSpec) (Volume, error) {
	if err := s.Validate(); err != nil {
		return Volume{}, err
	}
	if m.snaps == nil {
		return Volume{}, fmt.Errorf("%w: snapshot %s: pool %s takes no snapshots", ErrUnsupported, s.Name, m.pool.Name)
	}
	return m.work.do(ctx, s.Name, s.Namespace, s, func(ctx context.Context, p *Progress) (Volume, error) { return m.snapshot(ctx, s, p) })
}

func (m *Manager) snapshot(ctx context.Context, s SnapshotSpec, p *Progress) (v Volume, err error) {
	defer m.observe("snapshot", &err)()
	unlock, err := m.names.lock(ctx, s.Name)
	if err != nil {
		return Volume{}, err
	}
	defer unlock()
	v, err = m.get(ctx, s.Name)
	begun := err == nil // by an earlier call
	switch {
	case errors.Is(err, ErrNotFound):
	case err != nil:
		return Volume{}, err
	case !v.IsSnapshot(s):
		return Volume{}, fmt.Errorf("%w: %s is not the snapshot of %s for namespace %s that is asked for", ErrExists, s.Name, s.Of, s.Namespace)
	case v.State == StateDiscarded:
		return Volume{}, fmt.Errorf("%w: snapshot %s is being deleted", ErrBusy, s.Name)
	case v.State == StateSnapshot:
		return v, nil
	}
	of, unpin, err := m.pinned(ctx, s.Of, func(of Volume) error {
		if of.Claim.Namespace != s.Namespace || of.Cluster != s.Cluster && of.Cluster != "" {
			return fmt.Errorf("%w: volume %s is that of claim %s: only its own namespace and cluster get a snapshot of it", ErrForeign, s.Of, of.Claim)
		}
		return of.readyFor("snapshot " + s.Name.String())
	})
	if err != nil {
		return Volume{}, fmt.Errorf("snapshot %s: %w", s.Name, err)
	}
	defer unpin()
	if v, err = m.snaps.Snapshot(ctx, s, p); err != nil {
		return Volume{}, err
	}
	if !begun {
		m.gids.use(of.Owner.GID) // whose files are in it
	}
	return v, nil
}

// readyFor says why v cannot be copied now, to make what.
func (v Volume) readyFor(what string) error {
	switch v.State {
	case StateReady:
		return nil
	case StateCreating:
		return fmt.Errorf("%w: volume %s, which %s needs, is not ready yet", ErrBusy, v.Name, what)
	default:
		return fmt.Errorf("%w: volume %s, which %s needs, is %s: its claim was deleted", ErrNotFound, v.Name, what, v.State)
	}
}

// DeleteSnapshot ends a snapshot; its bytes are freed in the background, when the last clone
// that needs them is gone. The cluster must be the record's, if that names one. A snapshot
// without a record is gone already, which is success. ErrInvalid if n is a volume.
func (m *Manager) DeleteSnapshot(ctx context.Context, n Name, cluster string) (err error) {
	defer m.observe("deleteSnapshot", &err)()
	if m.purge.has(n) {
		return nil
	}
	defer m.work.cancel(n)()
	unlock, err := m.names.lock(ctx, n)
	if err != nil {
		return err
	}
	defer unlock()
	v, found, err := m.findUndeleted(ctx, n)
	if !found {
		return err
	}
	if v.SnapshotOf == (Name{}) {
		return fmt.Errorf("%w: %s is not a snapshot but a volume, that of claim %s", ErrInvalid, n, v.Claim)
	}
	if err := v.checkCluster(cluster); err != nil {
		return err
	}
	return m.endSnapshot(ctx, v)
}

// endSnapshot needs the lock of v's name.
func (m *Manager) endSnapshot(ctx context.Context, v Volume) error {
	if err := m.pins.wait(ctx, v.Name); err != nil {
		return err
	}
	if err := m.discardWithdrawn(ctx, v); err != nil {
		return err
	}
	m.purge.awaken(v.SnapshotOf)
	return nil
}
