package volume_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/berth-storage/berth/internal/volume"
)

// newNeighbours makes two pools that know each other: local, which has pvc-1, and other.
func newNeighbours(t *testing.T) (local, other *fixture) {
	t.Helper()
	among := &volume.Pools{}
	local, other = neighbour(t, among, poolName), neighbour(t, among, "other")
	local.create(t, "pvc-1")
	return local, other
}

// neighbour makes a pool that knows those that are among others.
func neighbour(t *testing.T, among *volume.Pools, name string, how ...func(*volume.Pool)) *fixture {
	t.Helper()
	f := newFixture(t)
	p := f.pool()
	p.Name, p.Among = name, among
	for _, change := range how {
		change(&p)
	}
	f.Manager = volume.NewManager(p)
	if _, err := f.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	return f
}

// copySpec is a claim's that wants a copy of pvc-1 of the pool local.
func copySpec(t testing.TB, name string) volume.Spec {
	t.Helper()
	s := cloneSpec(t, name, "pvc-1")
	s.From.Pool = poolName
	return s
}

func TestACopyOfAnotherPoolSaysWhereItIsFrom(t *testing.T) {
	local, other := newNeighbours(t)
	local.create(t, "pvc-2")
	v, err := other.Create(t.Context(), copySpec(t, "pvc-2")) // a name is of one pool
	if err != nil {
		t.Fatal(err)
	}
	if want := (volume.Origin{Pool: poolName, Volume: parseName(t, "pvc-1")}); v.CopiedFrom != want || v.ClonedFrom != (volume.Name{}) ||
		other.server.exports()[v.Export.ID] != "/exports/pvc-2" {
		t.Errorf("copied as %+v, exported as %v", v, other.server.exports())
	}
	if again, err := other.Create(t.Context(), copySpec(t, "pvc-2")); err != nil || again != v {
		t.Errorf("once more it is %+v, %v", again, err)
	}
	local.delete(t, "pvc-1") // and nothing of the copy needs it
	if again, err := other.Create(t.Context(), copySpec(t, "pvc-2")); err != nil || again != v {
		t.Errorf("without its source it is %+v, %v", again, err)
	}
}

func TestACopyOfASnapshotOfAnotherPool(t *testing.T) {
	local, other := newNeighbours(t)
	snap := volume.SnapshotSpec{Name: parseName(t, "snap-1"), Of: parseName(t, "pvc-1"), Namespace: spec(t, "pvc-1").Claim.Namespace, Cluster: cluster}
	if _, err := local.Snapshot(t.Context(), snap); err != nil {
		t.Fatal(err)
	}
	local.delete(t, "pvc-1")
	s := copySpec(t, "pvc-2")
	s.From.Snapshot = snap.Name
	v, err := other.Create(t.Context(), s)
	if err != nil || v.CopiedFrom.Snapshot != snap.Name {
		t.Errorf("copied as %+v, %v", v, err)
	}
}

func TestCopiesOfOtherPoolsThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		prep func(*testing.T, *fixture, *fixture, *volume.Spec)
		want error
	}{
		"pool is away":         {func(_ *testing.T, _, _ *fixture, s *volume.Spec) { s.From.Pool = "third" }, volume.ErrBusy},
		"its own pool":         {func(_ *testing.T, _, _ *fixture, s *volume.Spec) { s.From.Pool = "other" }, volume.ErrBusy},
		"missing":              {func(t *testing.T, local, _ *fixture, _ *volume.Spec) { local.delete(t, "pvc-1") }, volume.ErrNotFound},
		"of another namespace": {func(_ *testing.T, _, _ *fixture, s *volume.Spec) { s.Claim.Namespace = "else" }, volume.ErrForeign},
		"not ready": {func(t *testing.T, local, _ *fixture, _ *volume.Spec) {
			local.change(t, "pvc-1", func(v *volume.Volume) { v.State = volume.StateCreating })
		}, volume.ErrBusy},
		"unknown": {func(_ *testing.T, local, _ *fixture, _ *volume.Spec) {
			local.journal.fail(volume.ErrUnknown, "Get pvc-1")
		}, volume.ErrUnknown},
		"no room": {func(_ *testing.T, _, other *fixture, _ *volume.Spec) { other.backend.fixed = &volume.Capacity{} }, volume.ErrNoSpace},
		"an empty one of that claim": {func(t *testing.T, _, other *fixture, s *volume.Spec) {
			other.create(t, s.Name.String())
		}, volume.ErrExists},
	} {
		t.Run(name, func(t *testing.T) {
			local, other := newNeighbours(t)
			s := copySpec(t, "pvc-2")
			c.prep(t, local, other, &s)
			before := len(other.states(t))
			if v, err := other.Create(t.Context(), s); !errors.Is(err, c.want) || !strings.Contains(err.Error(), "pvc-2") {
				t.Errorf("got %+v, %v; want %v of pvc-2", v, err, c.want)
			}
			if after := len(other.states(t)); after != before {
				t.Error("something was made all the same")
			}
		})
	}
}

// The error says which class to use instead.
func TestPoolsThatCannotCopy(t *testing.T) {
	bare := func(p *volume.Pool) { p.Backend = struct{ volume.Backend }{p.Backend} }
	able := func(*volume.Pool) {}
	for name, c := range map[string]struct {
		source, target func(*volume.Pool)
		want           string
	}{
		"from it": {bare, able, "of pool local nothing can be copied to another pool: use a class of that pool"},
		"into it": {able, bare, "pool other takes no copies from other pools: use a class of pool local"},
	} {
		t.Run(name, func(t *testing.T) {
			among := &volume.Pools{}
			local, other := neighbour(t, among, poolName, c.source), neighbour(t, among, "other", c.target)
			local.create(t, "pvc-1")
			if v, err := other.Create(t.Context(), copySpec(t, "pvc-2")); !errors.Is(err, volume.ErrUnsupported) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %+v, %v; want %q", v, err, c.want)
			}
			wantStates(t, other, nil)
		})
	}
}

// What was begun before a restart is a copy, and never becomes an empty volume.
func TestACopyThatWasCutOffNeedsItsSource(t *testing.T) {
	local, other := newNeighbours(t)
	other.backend.cutOff = errDisk
	if _, err := other.Create(t.Context(), copySpec(t, "pvc-2")); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	other.backend.cutOff = nil
	for range 2 { // also for a caller who does not say it any more
		local.journal.fail(volume.ErrNotFound, "Get pvc-1")
		for _, s := range []volume.Spec{copySpec(t, "pvc-2"), spec(t, "pvc-2")} {
			if v, err := other.Create(t.Context(), s); !errors.Is(err, volume.ErrNotFound) {
				t.Errorf("without its source: %+v, %v", v, err)
			}
		}
		if state := other.states(t)["pvc-2"]; state != volume.StateCreating {
			t.Errorf("it is %s", state)
		}
	}
	local.journal.hook(nil)
	v, err := other.Create(t.Context(), spec(t, "pvc-2"))
	if err != nil || v.State != volume.StateReady || v.CopiedFrom.Pool != poolName {
		t.Errorf("finished as %+v, %v", v, err)
	}
}

// A copy that does not fit when it is gone on with may leave nothing, and then it keeps nothing either.
func TestACopyThatLeavesNothingKeepsNothing(t *testing.T) {
	_, other := newNeighbours(t)
	other.backend.cutOff = errDisk
	if err := create(other, copySpec(t, "pvc-2")); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	begun := other.record(t, "pvc-2")
	other.backend.cutOff = nil
	other.journal.hook(func(ctx context.Context, call string) error {
		if call != "Fill pvc-2" {
			return nil
		}
		return errors.Join(volume.ErrNoSpace, other.backend.Backend.Discard(ctx, begun.Name), other.backend.Backend.Purge(ctx, begun.Name))
	})
	if err := create(other, copySpec(t, "pvc-2")); !errors.Is(err, volume.ErrNoSpace) {
		t.Fatal(err)
	}
	other.journal.hook(nil)
	if _, bytes := promised(t, other); bytes != 0 {
		t.Errorf("%d bytes are promised", bytes)
	}
	if err := other.ids.Reserve(begun.Export.ID); err != nil {
		t.Errorf("its export id is not free: %v", err)
	}
}

func TestWhatIsCopiedToAnotherPoolIsNotDeleted(t *testing.T) {
	local, other := newNeighbours(t)
	copying, goOn := make(chan struct{}), make(chan struct{})
	other.journal.hook(func(_ context.Context, call string) error {
		if call == "Fill pvc-2" {
			close(copying)
			<-goOn
		}
		return nil
	})
	made := make(chan error)
	go func() {
		_, err := other.Create(t.Context(), copySpec(t, "pvc-2"))
		made <- err
	}()
	<-copying
	deleted := make(chan error)
	go func() { deleted <- local.Delete(t.Context(), parseName(t, "pvc-1"), cluster) }()
	if state := local.states(t)["pvc-1"]; state != volume.StateReady {
		t.Errorf("it is %s while it is copied", state)
	}
	select {
	case err := <-deleted:
		t.Errorf("it was deleted while it was copied: %v", err)
	default:
	}
	close(goOn)
	if err := errors.Join(<-made, <-deleted); err != nil {
		t.Error(err)
	}
}

// Nothing is left of a copy that is canceled, whatever is to become of the volume later. What is complete stays.
func TestACopyIsCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		local, other := newNeighbours(t)
		local.run(t)
		other.run(t)
		s := copySpec(t, "pvc-2")
		s.OnDelete, s.Reclaim = volume.OnDeleteRetain, volume.ReclaimRetain
		cancel := func(s volume.Spec) {
			t.Helper()
			if err := other.Cancel(t.Context(), s); err != nil {
				t.Error(err)
			}
		}
		other.backend.cutOff = errDisk
		if err := create(other, s); !errors.Is(err, errDisk) {
			t.Fatal(err)
		}
		holdUntilEnded(other, "Fill pvc-2")
		for range 2 {
			if err := create(other, s); !errors.Is(err, volume.ErrPending) {
				t.Fatal(err)
			}
			another := s
			another.Claim.UID = "another"
			cancel(another) // of the same name, and none of its business
		}
		wantStates(t, other, map[string]volume.State{"pvc-2": volume.StateCreating})
		cancel(s)
		local.delete(t, "pvc-1") // which is not copied any more
		synctest.Wait()
		wantStates(t, other, nil)
		wantStates(t, local, nil)

		other.journal.hook(nil)
		other.backend.cutOff = nil
		other.create(t, "pvc-2")
		cancel(spec(t, "pvc-2"))
		wantStates(t, other, map[string]volume.State{"pvc-2": volume.StateReady})
	})
}
