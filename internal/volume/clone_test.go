package volume_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-storage/berth/internal/volume"
)

// cloneSpec is a claim's that wants a clone of source.
func cloneSpec(t testing.TB, name, source string) volume.Spec {
	t.Helper()
	s := spec(t, name)
	s.From = &volume.Source{Volume: parseName(t, source)}
	return s
}

func (f *fixture) clone(t *testing.T, name, source string) volume.Volume {
	t.Helper()
	v, err := f.Create(t.Context(), cloneSpec(t, name, source))
	if err != nil {
		t.Fatalf("clone %s of %s: %v", name, source, err)
	}
	return v
}

func TestCloneIsExportedAndSaysWhatItIs(t *testing.T) {
	f := newFixture(t)
	f.create(t, "pvc-1")
	v := f.clone(t, "pvc-2", "pvc-1")
	if v.ClonedFrom.String() != "pvc-1" || f.server.exports()[v.Export.ID] != "/exports/pvc-2" {
		t.Errorf("cloned as %+v, exported as %v", v, f.server.exports())
	}
	if again := f.clone(t, "pvc-2", "pvc-1"); again != v {
		t.Errorf("once more it is %+v, and was %+v", again, v)
	}
}

func TestCloneOfWhatCannotBeClonedIsRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		prep func(*testing.T, *fixture, *volume.Spec)
		want error
	}{
		{"missing", func(t *testing.T, _ *fixture, s *volume.Spec) { s.From.Volume = parseName(t, "pvc-9") }, volume.ErrNotFound},
		{"itself", func(t *testing.T, _ *fixture, s *volume.Spec) { s.From.Volume = s.Name }, volume.ErrInvalid},
		{"of another namespace", func(_ *testing.T, _ *fixture, s *volume.Spec) { s.Claim.Namespace = "other" }, volume.ErrForeign},
		{"of another cluster", func(_ *testing.T, _ *fixture, s *volume.Spec) { s.Cluster = "cluster-2" }, volume.ErrForeign},
		{"being deleted", func(t *testing.T, f *fixture, _ *volume.Spec) { f.delete(t, "pvc-1") }, volume.ErrNotFound},
		{"deleted and retained", func(t *testing.T, f *fixture, _ *volume.Spec) {
			f.change(t, "pvc-1", func(v *volume.Volume) { v.OnDelete = volume.OnDeleteRetain })
			f.delete(t, "pvc-1")
		}, volume.ErrNotFound},
		{"not ready", func(t *testing.T, f *fixture, _ *volume.Spec) {
			f.change(t, "pvc-1", func(v *volume.Volume) { v.State = volume.StateCreating })
		}, volume.ErrBusy},
		{"unreadable", func(_ *testing.T, f *fixture, _ *volume.Spec) { f.journal.fail(volume.ErrUnknown, "Get pvc-1") }, volume.ErrUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, 1, 2)
			f.create(t, "pvc-1")
			s := cloneSpec(t, "pvc-2", "pvc-1")
			c.prep(t, f, &s)
			if v, err := f.Create(t.Context(), s); !errors.Is(err, c.want) || !strings.Contains(err.Error(), "pvc-2") {
				t.Errorf("got %+v, %v; want %v of pvc-2", v, err, c.want)
			}
			if _, made := f.states(t)["pvc-2"]; made {
				t.Error("something was made all the same")
			}
			f.journal.hook(nil)
			f.create(t, "pvc-3") // the export id is not lost
		})
	}
}

// Whoever asks for content must never get none.
func TestAVolumeThatIsNoCloneIsNotTakenForOne(t *testing.T) {
	f := newFixture(t)
	f.create(t, "pvc-1")
	f.create(t, "pvc-2")
	f.create(t, "pvc-3")
	if _, err := f.Create(t.Context(), cloneSpec(t, "pvc-2", "pvc-1")); !errors.Is(err, volume.ErrExists) {
		t.Errorf("got error %v, want %v", err, volume.ErrExists)
	}
	f.clone(t, "pvc-4", "pvc-1")
	if _, err := f.Create(t.Context(), cloneSpec(t, "pvc-4", "pvc-3")); !errors.Is(err, volume.ErrExists) {
		t.Errorf("clone of something else: got error %v, want %v", err, volume.ErrExists)
	}
}

func TestACloneThatWasCutOffIsFinishedWithoutItsSource(t *testing.T) {
	f := newFixture(t)
	f.create(t, "pvc-1")
	f.backend.cutOff = errDisk
	if _, err := f.Create(t.Context(), cloneSpec(t, "pvc-2", "pvc-1")); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	f.backend.cutOff = nil
	f.delete(t, "pvc-1")
	f.journal.take()
	v := f.clone(t, "pvc-2", "pvc-1")
	if v.State != volume.StateReady || v.ClonedFrom.String() != "pvc-1" {
		t.Errorf("finished as %+v", v)
	}
	wantCalls(t, f, "Clone pvc-2", fmt.Sprint("Publish ", v.Export.ID))
}

func TestTwoClaimsThatWantToBeClonesOfEachOtherWaitForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		for _, names := range [][2]string{{"pvc-1", "pvc-2"}, {"pvc-2", "pvc-1"}} {
			go func() {
				if _, err := f.Create(t.Context(), cloneSpec(t, names[0], names[1])); !errors.Is(err, volume.ErrNotFound) {
					t.Errorf("%s: got error %v, want %v", names[0], err, volume.ErrNotFound)
				}
			}()
		}
		synctest.Wait() // a deadlock ends the test
		wantStates(t, f, nil)
	})
}

func TestASourceIsNotDeletedWhileItIsCloned(t *testing.T) {
	for name, cutOff := range map[string]error{"": nil, "again, after it was cut off": errDisk} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { sourceStays(t, cutOff) })
		})
	}
}

func sourceStays(t *testing.T, cutOff error) {
	f := newFixture(t)
	f.create(t, "pvc-1")
	if f.backend.cutOff = cutOff; cutOff != nil {
		if err := create(f, cloneSpec(t, "pvc-2", "pvc-1")); !errors.Is(err, cutOff) {
			t.Fatal(err)
		}
		f.backend.cutOff = nil
	}
	open := gate(f, "Clone pvc-2")
	go func() {
		if _, err := f.Create(t.Context(), cloneSpec(t, "pvc-2", "pvc-1")); err != nil {
			t.Error(err)
		}
	}()
	synctest.Wait()
	go func() {
		if err := f.Delete(t.Context(), parseName(t, "pvc-1"), cluster); err != nil {
			t.Error(err)
		}
	}()
	synctest.Wait()
	if s := f.states(t)["pvc-1"]; s != volume.StateReady {
		t.Errorf("the source is %s meanwhile", s)
	}
	open()
	synctest.Wait()
	wantStates(t, f, map[string]volume.State{"pvc-1": volume.StateDiscarded, "pvc-2": volume.StateReady})
}

func TestADeletedVolumeIsFreedAsSoonAsItsLastCloneIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.run(t)
		f.create(t, "pvc-1")
		f.clone(t, "pvc-2", "pvc-1")
		f.clone(t, "pvc-3", "pvc-1")
		f.delete(t, "pvc-1")
		time.Sleep(time.Hour)
		if got := f.Tombstones(); got != 1 {
			t.Errorf("%d tombstones, want 1", got)
		}
		f.delete(t, "pvc-2")
		synctest.Wait()
		wantStates(t, f, map[string]volume.State{"pvc-1": volume.StateDiscarded, "pvc-3": volume.StateReady})
		f.delete(t, "pvc-3")
		synctest.Wait() // no time has passed
		wantStates(t, f, nil)
		if got := f.Tombstones(); got != 0 {
			t.Errorf("%d tombstones are left", got)
		}
		if n := strings.Count(f.logged.text(), "it has clones") + strings.Count(f.logged.text(), "has clones; its space"); n > 2 || strings.Contains(f.logged.text(), "WARN") {
			t.Errorf("too much is logged of what is as it should be:\n%s", f.logged.text())
		}
	})
}

// A clone that was made by hand goes without a word to Berth.
func TestATombstoneIsTriedAgainNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "pvc-1")
		var free atomic.Bool
		f.journal.hook(func(_ context.Context, call string) error {
			if !free.Load() && call == "Purge pvc-1" {
				return volume.ErrCloned
			}
			return nil
		})
		f.run(t)
		f.delete(t, "pvc-1")
		time.Sleep(time.Hour)
		free.Store(true)
		time.Sleep(10 * time.Minute)
		wantStates(t, f, nil)
	})
}

func TestGraphsOfClonesAreFreedInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2))
		f := newFixture(t)
		f.run(t)
		for range 20 {
			f.create(t, "pvc-0")
			names := []string{"pvc-0"}
			for i := 1; i < 12; i++ {
				name := fmt.Sprint("pvc-", i)
				f.clone(t, name, names[random.IntN(len(names))])
				names = append(names, name)
			}
			random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
			for _, name := range slices.Clone(names) {
				f.delete(t, name)
				synctest.Wait()
			}
			wantStates(t, f, nil) // no time has passed
		}
	})
}

func TestSettingsNeedABackendThatKnowsThem(t *testing.T) {
	f := newFixture(t)
	for name, settings := range map[string]volume.Settings{
		"properties": {Properties: map[string]string{"atime": "off"}}, "sizing": {Sizing: volume.SizingQuota}, "share": {Share: "off"}, "snapshots": {KeepSnapshots: true},
	} {
		s := spec(t, "pvc-1")
		s.Settings = settings
		if _, err := f.Create(t.Context(), s); !errors.Is(err, volume.ErrUnsupported) {
			t.Errorf("%s: got error %v, want %v", name, err, volume.ErrUnsupported)
		}
	}
	wantStates(t, f, nil)
}

func TestWhatMustStayIsNotWithdrawn(t *testing.T) {
	f := newFixture(t)
	f.create(t, "pvc-1")
	f.journal.take()
	f.backend.check = fmt.Errorf("%w: it has snapshots", volume.ErrConflict)
	if err := f.Delete(t.Context(), parseName(t, "pvc-1"), cluster); !errors.Is(err, volume.ErrConflict) {
		t.Errorf("got error %v, want %v", err, volume.ErrConflict)
	}
	wantCalls(t, f)
	f.backend.check = nil
	f.delete(t, "pvc-1")
}
