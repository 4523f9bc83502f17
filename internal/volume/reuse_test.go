package volume_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
)

// abandoned makes a volume whose PersistentVolume an administrator has removed.
func abandoned(t *testing.T) *fixture {
	t.Helper()
	f := newFixture(t)
	f.createAt(t, "pvc-1", "ns/a", func(s *volume.Spec) { s.Reclaim = volume.ReclaimRetain })
	if err := f.MarkPublished(t.Context(), parseName(t, "pvc-1")); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestReuseOfWhatNobodyHasAnyMore(t *testing.T) {
	f := abandoned(t)
	f.AskWanted(func(_ context.Context, v volume.Volume) (bool, error) {
		if v.Name.String() != "pvc-1" {
			t.Errorf("asked for %s", v.Name)
		}
		return false, nil
	})
	v := f.createAt(t, "pvc-2", "ns/a", existing(volume.ExistingReuse))
	if v.RestoredFrom.String() != "pvc-1" {
		t.Errorf("made %+v", v)
	}
	wantStates(t, f, map[string]volume.State{"pvc-2": volume.StateReady})
	wantExports(t, f, map[export.ID]string{2: "/exports/ns/a"})
}

// Each condition alone keeps it.
func TestReuseKeepsWhatSomebodyMayHave(t *testing.T) {
	for what, c := range map[string]struct {
		change func(*volume.Volume)
		spec   func(*volume.Spec)
		wanted volume.Wanted
		want   error
	}{
		"wanted":          {wanted: func(context.Context, volume.Volume) (bool, error) { return true, nil }, want: volume.ErrExists},
		"cannot be told":  {wanted: func(context.Context, volume.Volume) (bool, error) { return false, errDisk }, want: errDisk},
		"nobody to ask":   {want: volume.ErrExists},
		"never published": {change: func(v *volume.Volume) { v.Published = false }, wanted: notWanted, want: volume.ErrExists},
		"to be deleted":   {change: func(v *volume.Volume) { v.Reclaim = volume.ReclaimDelete }, wanted: notWanted, want: volume.ErrExists},
		"being made":      {change: func(v *volume.Volume) { v.State = volume.StateCreating }, wanted: notWanted, want: volume.ErrExists},
		"namespace":       {spec: func(s *volume.Spec) { s.Claim.Namespace = "other" }, wanted: notWanted, want: volume.ErrExists},
		"cluster":         {spec: func(s *volume.Spec) { s.Cluster = "cluster-2" }, wanted: notWanted, want: volume.ErrExists},
		"no policy":       {spec: func(s *volume.Spec) { s.Existing = "" }, wanted: notWanted, want: volume.ErrExists},
	} {
		t.Run(what, func(t *testing.T) {
			f := abandoned(t)
			if c.change != nil {
				f.change(t, "pvc-1", c.change)
			}
			if c.wanted != nil {
				f.AskWanted(c.wanted)
			}
			s := specAt(t, "pvc-2", "ns/a")
			s.Existing = volume.ExistingReuse
			if c.spec != nil {
				c.spec(&s)
			}
			before := f.record(t, "pvc-1")
			if _, err := f.Create(t.Context(), s); !errors.Is(err, c.want) {
				t.Errorf("got error %v, want %v", err, c.want)
			}
			if after := f.record(t, "pvc-1"); after != before {
				t.Errorf("the record was %+v and is %+v", before, after)
			}
		})
	}
}

// Two records of one path that were never meant to share it.
func TestOneOfTwoOnOnePathIsNotDeleted(t *testing.T) {
	f := newFixture(t)
	f.createAt(t, "pvc-1", "a")
	f.createAt(t, "pvc-2", "b")
	f.change(t, "pvc-2", func(v *volume.Volume) { v.Path = specAt(t, "x", "a").Path })
	f.restart(t)
	for _, name := range []string{"pvc-1", "pvc-2"} {
		if err := f.Delete(t.Context(), parseName(t, name), cluster); !errors.Is(err, volume.ErrConflict) {
			t.Errorf("%s: got error %v, want %v", name, err, volume.ErrConflict)
		}
	}
}

// A volume that is being made of a retained one, which is still there, and is deleted.
func TestDeleteOfARestoreThatWasCutOff(t *testing.T) {
	f := newFixture(t)
	f.createAt(t, "pvc-1", "a", onDelete(volume.OnDeleteRetain))
	f.delete(t, "pvc-1")
	f.createAt(t, "pvc-2", "b")
	f.change(t, "pvc-2", func(v *volume.Volume) {
		v.State, v.RestoredFrom, v.Path = volume.StateCreating, parseName(t, "pvc-1"), specAt(t, "x", "a").Path
	})
	f.restart(t)
	if strings.Contains(f.logged.text(), "lie in each other") {
		t.Error("one that takes the other's place is said to be in its way")
	}
	f.delete(t, "pvc-2")
	wantCalls(t, f, "Withdraw 2", "Archive pvc-2")
}

// A group of its own is given back once, however often its volume's making was begun.
func TestGroupsOfVolumesThatWereCutOffAreGivenBack(t *testing.T) {
	f := newFixture(t)
	s := spec(t, "pvc-1")
	s.GIDs = volume.GIDRange{First: 5000, Last: 5000}
	f.backend.cutOff = errDisk
	for range 3 {
		if _, err := f.Create(t.Context(), s); !errors.Is(err, errDisk) {
			t.Fatalf("got error %v", err)
		}
	}
	f.backend.cutOff = nil
	if v, err := f.Create(t.Context(), s); err != nil || v.Owner.GID != 5000 {
		t.Fatalf("group %d, %v", v.Owner.GID, err)
	}
	f.delete(t, "pvc-1")
	next := spec(t, "pvc-2")
	next.GIDs = s.GIDs
	if v, err := f.Create(t.Context(), next); err != nil || v.Owner.GID != 5000 {
		t.Errorf("group %d, %v", v.Owner.GID, err)
	}
}

// Nobody knows whether there is a record, and then there is none: what the first try
// has noted is in nobody's way, the second one's own least of all.
func TestReuseAfterATryOfUnknownOutcome(t *testing.T) {
	f := newFixture(t)
	f.AskWanted(notWanted)
	s := specAt(t, "pvc-1", "ns/a")
	s.Existing = volume.ExistingReuse
	got := 0
	f.journal.hook(func(_ context.Context, call string) error {
		if call == "Create pvc-1" {
			return errDisk
		}
		if call == "Get pvc-1" {
			if got++; got > 1 { // after Create
				return errDisk
			}
		}
		return nil
	})
	if _, err := f.Create(t.Context(), s); !errors.Is(err, errDisk) {
		t.Fatalf("got error %v", err)
	}
	f.journal.hook(nil)
	f.createAt(t, "pvc-1", "ns/a", existing(volume.ExistingReuse))
}

// What is being purged while somebody begins to restore it is purged, and not left
// behind without a record.
func TestDeleteArchiveWhileItIsRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.createAt(t, "pvc-1", "ns/a", onDelete(volume.OnDeleteRetain))
		f.delete(t, "pvc-1")
		f.journal.take()
		first := true
		opened := make(chan struct{})
		f.journal.hook(func(_ context.Context, call string) error {
			if call == "Get pvc-1" && first {
				first = false
				<-opened
			}
			return nil
		})
		var done sync.WaitGroup
		done.Go(func() {
			if err := f.DeleteArchive(t.Context(), parseName(t, "pvc-1"), cluster); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		done.Go(func() {
			s := specAt(t, "pvc-2", "ns/a")
			from(t, "pvc-1")(&s)
			if _, err := f.Create(t.Context(), s); !errors.Is(err, volume.ErrNotFound) {
				t.Errorf("got error %v, want %v", err, volume.ErrNotFound)
			}
		})
		synctest.Wait()
		close(opened)
		done.Wait()
		wantCalls(t, f, "Withdraw 1", "Discard pvc-1", "Create pvc-2")
		f.createAt(t, "pvc-3", "ns/a")
	})
}
