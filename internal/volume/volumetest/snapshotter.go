package volumetest

import (
	"context"
	"errors"
	"testing"

	"github.com/berth-storage/berth/internal/volume"
)

// snapshotter is a backend that takes snapshots, which clones can be made of.
type snapshotter interface {
	cloner
	volume.Snapshotter
}

// runSnapshotter runs the contract of volume.Snapshotter, if the backend is one.
func (s Suite) runSnapshotter(t *testing.T) {
	for _, c := range []struct {
		name string
		test func(*testing.T, snapshotter)
	}{
		{"Snapshot", snapshot},
		{"SnapshotAgain", snapshotAgain},
		{"SnapshotOfMissing", snapshotOfMissing},
		{"SnapshotInvalid", snapshotInvalid},
		{"RestoreSnapshot", restoreSnapshot},
		{"RestoreOfMissing", restoreOfMissing},
		{"SnapshotIsDeletedFirst", func(t *testing.T, b snapshotter) { snapshotsInOrder(t, b, "snap-1", "pvc-1", "pvc-2") }},
		{"SourceIsDeletedFirst", func(t *testing.T, b snapshotter) { snapshotsInOrder(t, b, "pvc-1", "snap-1", "pvc-2") }},
		{"RestoredIsDeletedFirst", func(t *testing.T, b snapshotter) { snapshotsInOrder(t, b, "pvc-2", "pvc-1", "snap-1") }},
		{"ReopenedSnapshot", s.reopenedSnapshot},
	} {
		t.Run(c.name, func(t *testing.T) {
			if b, ok := s.Open(t).(snapshotter); ok {
				c.test(t, b)
			}
		})
	}
}

// SnapshotSpec is a valid spec of a snapshot of source, as Spec makes that.
func SnapshotSpec(t testing.TB, name, source string) volume.SnapshotSpec {
	t.Helper()
	of := Spec(t, source)
	return volume.SnapshotSpec{Name: Spec(t, name).Name, Of: of.Name, Namespace: of.Claim.Namespace, Cluster: of.Cluster}
}

// RestoreSpec is a valid spec of a volume with the content of a snapshot of source.
func RestoreSpec(t testing.TB, name, snapshot, source string) volume.Spec {
	t.Helper()
	s := CloneSpec(t, name, source)
	s.From.Snapshot = Spec(t, snapshot).Name
	return s
}

func snapshotOf(t *testing.T, b snapshotter, name, source string) volume.Volume {
	t.Helper()
	v, err := b.Snapshot(t.Context(), SnapshotSpec(t, name, source), nil)
	if err != nil {
		t.Fatalf("Snapshot(%s) of %s: %v", name, source, err)
	}
	return v
}

func restoreOf(t *testing.T, b snapshotter, name, snapshot, source string) volume.Volume {
	t.Helper()
	v, err := b.Clone(t.Context(), RestoreSpec(t, name, snapshot, source), nil)
	if err != nil {
		t.Fatalf("Clone(%s) of %s: %v", name, snapshot, err)
	}
	return v
}

func snapshot(t *testing.T, b snapshotter) {
	source := create(t, b, Spec(t, "pvc-1"))
	mark(t, source)
	v := snapshotOf(t, b, "snap-1", "pvc-1")
	if v.State != volume.StateSnapshot || !v.IsSnapshot(SnapshotSpec(t, "snap-1", "pvc-1")) || v.Size != source.Size || v.Claim != source.Claim || v.Created.IsZero() {
		t.Errorf("taken as %+v", v)
	}
	wantSame(t, "Get of a snapshot", get(t, b, v.Name), v)
	wantSame(t, "Get of its volume", get(t, b, source.Name), source)
	wantNames(t, b, "pvc-1", "snap-1")
	purgeAll(t, b, "snap-1", "pvc-1")
}

func snapshotAgain(t *testing.T, b snapshotter) {
	source := create(t, b, Spec(t, "pvc-1"))
	mark(t, source)
	first := snapshotOf(t, b, "snap-1", "pvc-1")
	source.Name = Spec(t, "pvc-9").Name
	mark(t, source) // which is not in the snapshot
	wantSame(t, "second Snapshot", snapshotOf(t, b, "snap-1", "pvc-1"), first)
	wantMark(t, restoreOf(t, b, "pvc-2", "snap-1", "pvc-1"), "pvc-1")

	create(t, b, Spec(t, "pvc-3"))
	_, err := b.Snapshot(t.Context(), SnapshotSpec(t, "snap-1", "pvc-3"), nil)
	wantError(t, "Snapshot to the name of another volume's", err, volume.ErrExists)
	_, err = b.Snapshot(t.Context(), SnapshotSpec(t, "pvc-3", "pvc-1"), nil)
	wantError(t, "Snapshot to the name of a volume", err, volume.ErrExists)
	_, err = b.Create(t.Context(), Spec(t, "snap-1"))
	wantError(t, "Create to the name of a snapshot", err, volume.ErrExists)
}

func snapshotOfMissing(t *testing.T, b snapshotter) {
	_, err := b.Snapshot(t.Context(), SnapshotSpec(t, "snap-1", "pvc-1"), nil)
	wantError(t, "Snapshot of nothing", err, volume.ErrNotFound)
	create(t, b, Spec(t, "pvc-1"))
	discard(t, b, "pvc-1")
	_, err = b.Snapshot(t.Context(), SnapshotSpec(t, "snap-1", "pvc-1"), nil)
	wantError(t, "Snapshot of a discarded volume", err, volume.ErrNotFound)
	wantNames(t, b, "pvc-1")
}

func snapshotInvalid(t *testing.T, b snapshotter) {
	create(t, b, Spec(t, "pvc-1"))
	_, err := b.Snapshot(t.Context(), SnapshotSpec(t, "pvc-1", "pvc-1"), nil)
	wantError(t, "Snapshot of itself", err, volume.ErrInvalid)
	ended, end := context.WithCancel(t.Context())
	end()
	_, err = b.Snapshot(ended, SnapshotSpec(t, "snap-1", "pvc-1"), nil)
	wantError(t, "Snapshot with an ended context", err, context.Canceled)
	wantNames(t, b, "pvc-1")
}

func restoreSnapshot(t *testing.T, b snapshotter) {
	source := create(t, b, Spec(t, "pvc-1"))
	mark(t, source)
	snapshotOf(t, b, "snap-1", "pvc-1")
	other := source
	other.Name = Spec(t, "pvc-9").Name
	mark(t, other)
	v := restoreOf(t, b, "pvc-2", "snap-1", "pvc-1")
	if v.State != volume.StateReady || v.ClonedFrom != source.Name || v.FromSnapshot.String() != "snap-1" || !v.Is(Spec(t, "pvc-2")) || v.Dir == source.Dir {
		t.Errorf("restored as %+v", v)
	}
	wantMark(t, v, "pvc-1")
	wantLimit(t, b, v)
	mark(t, v)
	wantSame(t, "restored again", restoreOf(t, b, "pvc-2", "snap-1", "pvc-1"), v)
	wantMark(t, v, "pvc-2")
	wantMark(t, restoreOf(t, b, "pvc-3", "snap-1", "pvc-1"), "pvc-1")
	wantMark(t, source, "pvc-9")
}

func restoreOfMissing(t *testing.T, b snapshotter) {
	create(t, b, Spec(t, "pvc-1"))
	_, err := b.Clone(t.Context(), RestoreSpec(t, "pvc-2", "snap-1", "pvc-1"), nil)
	wantError(t, "Clone of a snapshot that is missing", err, volume.ErrNotFound)
	wantNames(t, b, "pvc-1")
}

// snapshotsInOrder makes a volume, a snapshot of it and a volume of that, and deletes them in an order.
func snapshotsInOrder(t *testing.T, b snapshotter, names ...string) {
	mark(t, create(t, b, Spec(t, "pvc-1")))
	snapshotOf(t, b, "snap-1", "pvc-1")
	restored := restoreOf(t, b, "pvc-2", "snap-1", "pvc-1")
	gone := map[string]bool{}
	for _, name := range names {
		discard(t, b, name)
		gone[name] = true
		if err := b.Purge(t.Context(), Spec(t, name).Name); err != nil && !errors.Is(err, volume.ErrCloned) && !errors.Is(err, volume.ErrNotFound) {
			t.Fatalf("Purge(%s): %v", name, err)
		}
		if !gone["pvc-2"] {
			wantMark(t, restored, "pvc-1")
		}
		if !gone["snap-1"] {
			later := restoreOf(t, b, "pvc-of-"+name, "snap-1", "pvc-1")
			wantMark(t, later, "pvc-1")
			purgeOf(t, b, later.Name)
		}
	}
	purgeAll(t, b, "pvc-2", "snap-1", "pvc-1")
}

func purgeOf(t *testing.T, b volume.Backend, n volume.Name) {
	t.Helper()
	discard(t, b, n.String())
	if err := b.Purge(t.Context(), n); err != nil {
		t.Fatal(err)
	}
}

func (s Suite) reopenedSnapshot(t *testing.T, b snapshotter) {
	mark(t, create(t, b, Spec(t, "pvc-1")))
	v := snapshotOf(t, b, "snap-1", "pvc-1")
	reopened, ok := s.Reopen(t, b).(snapshotter)
	if !ok {
		t.Fatal("the backend takes no snapshots any more")
	}
	wantSame(t, "after reopening", get(t, reopened, v.Name), v)
	discard(t, reopened, "pvc-1")
	wantMark(t, restoreOf(t, reopened, "pvc-2", "snap-1", "pvc-1"), "pvc-1")
	purgeAll(t, reopened, "pvc-2", "snap-1", "pvc-1")
}
