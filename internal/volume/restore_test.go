package volume_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
)

func TestRestore(t *testing.T) {
	f := newFixture(t, 1, 2)
	f.archived(t, "pvc-1", "ns/a")
	f.backend.fixed = &volume.Capacity{Total: 1 << 30, Available: 1} // what is there needs no room
	v := f.createAt(t, "pvc-2", "ns/b", from(t, "pvc-1"))
	f.backend.fixed = nil
	if v.State != volume.StateReady || v.RestoredFrom.String() != "pvc-1" {
		t.Errorf("made %+v", v)
	}
	wantStates(t, f, map[string]volume.State{"pvc-2": volume.StateReady})
	wantExports(t, f, map[export.ID]string{2: "/exports/ns/b"})
	// The archive's id and its place are free.
	f.createAt(t, "pvc-3", "archived-ns/a")
	if _, err := f.Create(t.Context(), specAt(t, "pvc-2", "ns/b")); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestRestoreRefuses(t *testing.T) {
	f := newFixture(t)
	f.archived(t, "pvc-1", "a")
	f.create(t, "pvc-live")
	f.archived(t, "pvc-moving", "b")
	f.change(t, "pvc-moving", func(v *volume.Volume) { v.State = volume.StateArchiving })
	f.journal.take()
	for what, c := range map[string]struct {
		from   string
		change func(*volume.Spec)
		want   error
	}{
		"another namespace's": {"pvc-1", func(s *volume.Spec) { s.Claim.Namespace = "other" }, volume.ErrForeign},
		"another cluster's":   {"pvc-1", func(s *volume.Spec) { s.Cluster = "cluster-2" }, volume.ErrForeign},
		"one in use":          {"pvc-live", func(*volume.Spec) {}, volume.ErrNotFound},
		"a missing one":       {"pvc-0", func(*volume.Spec) {}, volume.ErrNotFound},
		"one on its way":      {"pvc-moving", func(*volume.Spec) {}, volume.ErrBusy},
	} {
		s := spec(t, "pvc-2")
		s.From = &volume.Source{Archive: parseName(t, c.from)}
		c.change(&s)
		if _, err := f.Create(t.Context(), s); !errors.Is(err, c.want) {
			t.Errorf("%s: got error %v, want %v", what, err, c.want)
		}
	}
	wantCalls(t, f)
}

// Of two claims that want one archive one gets it.
func TestRestoreTwice(t *testing.T) {
	f := newFixture(t)
	f.archived(t, "pvc-1", "a")
	got := make(chan error, 2)
	for i := range 2 {
		go func() {
			s := spec(t, fmt.Sprint("pvc-new-", i))
			s.From = &volume.Source{Archive: parseName(t, "pvc-1")}
			_, err := f.Create(t.Context(), s)
			got <- err
		}()
	}
	first, second := <-got, <-got
	if first != nil {
		first, second = second, first
	}
	if first != nil || !errors.Is(second, volume.ErrNotFound) {
		t.Errorf("got errors %v and %v, want none and %v", first, second, volume.ErrNotFound)
	}
}

// A crash in the middle of a restore, whose claim comes again or is gone.
func TestRestoreThatWasCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.archived(t, "pvc-1", "a")
		f.backend.cutOff = errDisk
		s := specAt(t, "pvc-2", "b")
		s.From = &volume.Source{Archive: parseName(t, "pvc-1")}
		if _, err := f.Create(t.Context(), s); !errors.Is(err, errDisk) {
			t.Fatalf("got error %v", err)
		}
		f.backend.cutOff = nil
		f.restart(t)
		if v := f.createAt(t, "pvc-2", "b"); v.RestoredFrom.String() != "pvc-1" {
			t.Errorf("gone on as %+v", v)
		}
		// If its claim is gone instead, the content goes back to the archive.
		f.change(t, "pvc-2", func(v *volume.Volume) { v.State = volume.StateCreating })
		time.Sleep(grace)
		f.journal.take()
		if n, err := f.Scavenge(t.Context(), cluster, grace, notWanted); n != 1 || err != nil {
			t.Errorf("scavenged %d, %v", n, err)
		}
		wantCalls(t, f, "Withdraw 2", "Archive pvc-2")
		wantStates(t, f, map[string]volume.State{"pvc-2": volume.StateArchived})
	})
}

func TestReuseOfWhatWasRetained(t *testing.T) {
	f := newFixture(t, 1, 2)
	f.createAt(t, "pvc-1", "ns/a", onDelete(volume.OnDeleteRetain))
	f.delete(t, "pvc-1")
	for what, s := range map[string]volume.Spec{
		"no policy": specAt(t, "pvc-2", "ns/a"),
		"another namespace": func() volume.Spec {
			s := specAt(t, "pvc-2", "ns/a")
			s.Existing, s.Claim.Namespace = volume.ExistingReuse, "other"
			return s
		}(),
		"another cluster": func() volume.Spec {
			s := specAt(t, "pvc-2", "ns/a")
			s.Existing, s.Cluster = volume.ExistingReuse, "cluster-2"
			return s
		}(),
	} {
		if _, err := f.Create(t.Context(), s); !errors.Is(err, volume.ErrExists) {
			t.Errorf("%s: got error %v, want %v", what, err, volume.ErrExists)
		}
	}
	v := f.createAt(t, "pvc-2", "ns/a", existing(volume.ExistingReuse))
	if v.RestoredFrom.String() != "pvc-1" {
		t.Errorf("made %+v", v)
	}
	wantStates(t, f, map[string]volume.State{"pvc-2": volume.StateReady})
	f.createAt(t, "pvc-3", "ns/b") // with the export id of the first one
}

func TestRestoredVolumesKeepTheirGroup(t *testing.T) {
	f := newFixture(t)
	s := spec(t, "pvc-1")
	s.OnDelete, s.GIDs = volume.OnDeleteArchive, volume.GIDRange{First: 5000, Last: 5001}
	v, err := f.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	f.delete(t, "pvc-1")
	f.restart(t)
	next := spec(t, "pvc-2")
	next.GIDs = s.GIDs
	other, err := f.Create(t.Context(), next)
	if err != nil || other.Owner.GID == v.Owner.GID {
		t.Errorf("group %d of an archive was given to %+v, %v", v.Owner.GID, other, err)
	}
	again := spec(t, "pvc-3")
	again.GIDs, again.From = s.GIDs, &volume.Source{Archive: v.Name}
	if got, err := f.Create(t.Context(), again); err != nil || got.Owner.GID != v.Owner.GID {
		t.Errorf("restored with group %d, had %d, %v", got.Owner.GID, v.Owner.GID, err)
	}
}

// shared makes a pool on a share with two volumes of one path.
func shared(t *testing.T) *fixture {
	t.Helper()
	f := newFixture(t)
	f.noIDs = true
	f.open(t)
	f.createAt(t, "pvc-1", "ns/a", existing(volume.ExistingShare))
	f.createAt(t, "pvc-2", "ns/a", existing(volume.ExistingShare))
	f.journal.take()
	return f
}

func TestTheLastOfAPathTakesItsData(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		f := shared(t)
		if restarted {
			f.restart(t)
		}
		f.delete(t, "pvc-1")
		wantCalls(t, f, "Withdraw 0", "Release pvc-1")
		f.delete(t, "pvc-2")
		wantCalls(t, f, "Withdraw 0", "Discard pvc-2")
	}
}

func TestSharingIsForThoseWhoShare(t *testing.T) {
	f := shared(t)
	f.createAt(t, "pvc-own", "ns/own")
	for path, policy := range map[string]volume.Existing{"ns/a": volume.ExistingReuse, "ns/own": volume.ExistingShare, "ns/a/b": volume.ExistingShare} {
		s := specAt(t, "pvc-3", path)
		s.Existing = policy
		if _, err := f.Create(t.Context(), s); !errors.Is(err, volume.ErrExists) {
			t.Errorf("%s with %s: got error %v, want %v", path, policy, err, volume.ErrExists)
		}
	}
	// On a server of ours there would be two exports of one path.
	g := newFixture(t)
	s := spec(t, "pvc-1")
	s.Existing = volume.ExistingShare
	if _, err := g.Create(t.Context(), s); !errors.Is(err, volume.ErrUnsupported) {
		t.Errorf("got error %v, want %v", err, volume.ErrUnsupported)
	}
}

// Once the last one is on its way out, nobody joins it.
func TestNobodyJoinsWhatIsBeingDeleted(t *testing.T) {
	f := shared(t)
	f.delete(t, "pvc-1")
	f.journal.fail(errDisk, "Discard pvc-2")
	if err := f.Delete(t.Context(), parseName(t, "pvc-2"), cluster); !errors.Is(err, errDisk) {
		t.Fatalf("got error %v", err)
	}
	s := specAt(t, "pvc-3", "ns/a")
	s.Existing = volume.ExistingShare
	if _, err := f.Create(t.Context(), s); !errors.Is(err, volume.ErrExists) {
		t.Errorf("got error %v, want %v", err, volume.ErrExists)
	}
	f.journal.hook(nil)
	f.delete(t, "pvc-2")
	f.createAt(t, "pvc-3", "ns/a", existing(volume.ExistingShare))
}
