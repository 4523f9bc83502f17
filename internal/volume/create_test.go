package volume_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
)

var errDisk = errors.New("input/output error")

func wantCalls(t *testing.T, f *fixture, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, f.journal.take(), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func wantStates(t *testing.T, f *fixture, want map[string]volume.State) {
	t.Helper()
	if diff := cmp.Diff(want, f.states(t), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func wantExports(t *testing.T, f *fixture, want map[export.ID]string) {
	t.Helper()
	if diff := cmp.Diff(want, f.server.exports(), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("exports (-want +got):\n%s", diff)
	}
}

func TestCreateMakesAVolumeAndExportsIt(t *testing.T) {
	f := newFixture(t)
	v := f.create(t, "pvc-1")
	if v.State != volume.StateReady {
		t.Errorf("state is %s, want ready", v.State)
	}
	want := volume.ExportRef{ID: 1, FSID: export.NewFSID("local/pvc-1"), Path: "/exports/pvc-1", Squash: export.SquashRoot}
	if diff := cmp.Diff(want, v.Export); diff != "" {
		t.Errorf("export (-want +got):\n%s", diff)
	}
	wantCalls(t, f, "Create pvc-1", "Publish 1")
	if diff := cmp.Diff(v.AsExport(export.Clients{}), f.server.have[1]); diff != "" {
		t.Errorf("published (-want +got):\n%s", diff)
	}
}

func TestCreateAgainGivesTheSameVolume(t *testing.T) {
	f := newFixture(t)
	first := f.create(t, "pvc-1")
	if diff := cmp.Diff(first, f.create(t, "pvc-1"), cmp.AllowUnexported(volume.Name{}, volume.RelPath{})); diff != "" {
		t.Errorf("second Create (-first +second):\n%s", diff)
	}
	// Published again, since the server may have missed it.
	wantCalls(t, f, "Create pvc-1", "Publish 1", "Publish 1")
	if got := f.create(t, "pvc-2").Export.ID; got != 2 {
		t.Errorf("the next volume has export id %d, want 2", got)
	}
}

func TestCreateGoesOnAfterAFailure(t *testing.T) {
	for _, c := range []struct {
		name string
		fail func(*fixture)
		want error
		left map[string]volume.State
	}{
		{"backend refuses", func(f *fixture) { f.journal.fail(volume.ErrNoSpace, "Create pvc-1") }, volume.ErrNoSpace, nil},
		{"backend fails before the record", func(f *fixture) { f.journal.fail(errDisk, "Create pvc-1") }, errDisk, nil},
		{"backend fails after the record", func(f *fixture) { f.backend.cutOff = errDisk }, errDisk, map[string]volume.State{"pvc-1": volume.StateCreating}},
		{"record cannot be read", func(f *fixture) { f.journal.fail(errDisk, "Get pvc-1") }, errDisk, nil},
		{"server is away", func(f *fixture) { f.journal.fail(export.ErrUnavailable, "Publish 1") }, volume.ErrBusy, map[string]volume.State{"pvc-1": volume.StateReady}},
		{"server refuses", func(f *fixture) { f.journal.fail(export.ErrRefused, "Publish 1") }, export.ErrRefused, map[string]volume.State{"pvc-1": volume.StateReady}},
		{"server does not answer", func(f *fixture) { f.journal.fail(errDisk, "Publish 1") }, volume.ErrUnknown, map[string]volume.State{"pvc-1": volume.StateReady}},
	} {
		t.Run(c.name, func(t *testing.T) {
			// With one export id only, an id that is lost or taken twice shows.
			f := newFixture(t, 1)
			c.fail(f)
			if _, err := f.Create(t.Context(), spec(t, "pvc-1")); !errors.Is(err, c.want) {
				t.Errorf("got error %v, want %v", err, c.want)
			}
			wantStates(t, f, c.left)
			wantExports(t, f, nil)

			f.journal.hook(nil)
			f.backend.cutOff = nil
			if got := f.create(t, "pvc-1").Export.ID; got != 1 {
				t.Errorf("the retry gave export id %d, want 1", got)
			}
			wantExports(t, f, map[export.ID]string{1: "/exports/pvc-1"})
		})
	}
}

func TestCreateGoesOnInANewProcess(t *testing.T) {
	f := newFixture(t)
	f.create(t, "pvc-0")
	f.backend.cutOff = errDisk
	if _, err := f.Create(t.Context(), spec(t, "pvc-1")); !errors.Is(err, errDisk) {
		t.Fatalf("got error %v, want %v", err, errDisk)
	}
	f.backend.cutOff = nil
	f.open(t)
	if _, err := f.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := f.create(t, "pvc-1").Export.ID; got != 2 {
		t.Errorf("export id is %d, want 2, which the record names", got)
	}
}

// While it is not known whether there is a record, its id must not be another's.
func TestExportIDStaysTakenWhileTheOutcomeIsNotKnown(t *testing.T) {
	f := newFixture(t, 1)
	gets := 0
	f.journal.hook(func(_ context.Context, call string) error {
		switch call {
		case "Get pvc-1":
			if gets++; gets == 2 {
				return errDisk
			}
		case "Create pvc-1":
			return errDisk
		}
		return nil
	})
	if _, err := f.Create(t.Context(), spec(t, "pvc-1")); !errors.Is(err, errDisk) {
		t.Fatalf("got error %v, want %v", err, errDisk)
	}
	f.journal.hook(nil)
	if v, err := f.Create(t.Context(), spec(t, "pvc-2")); !errors.Is(err, export.ErrNoIDs) {
		t.Errorf("pvc-2 got export id %d, %v; want %v", v.Export.ID, err, export.ErrNoIDs)
	}
}

func TestCreateWithAnEndedContextMakesNothing(t *testing.T) {
	f := newFixture(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	f.journal.hook(func(_ context.Context, call string) error {
		if call == "Create pvc-1" {
			cancel()
		}
		return nil
	})
	if _, err := f.Create(ctx, spec(t, "pvc-1")); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want %v", err, context.Canceled)
	}
	wantStates(t, f, nil)
	if _, err := f.Create(ctx, spec(t, "pvc-1")); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want %v", err, context.Canceled)
	}
	f.create(t, "pvc-1") // with the one id that there is
}

func TestCreateRefusesTheNameOfAnotherClaim(t *testing.T) {
	for name, change := range map[string]func(*volume.Spec){
		"another uid":       func(s *volume.Spec) { s.Claim.UID = "other" },
		"another namespace": func(s *volume.Spec) { s.Claim.Namespace = "other" },
		"another cluster":   func(s *volume.Spec) { s.Cluster = "other" },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "pvc-1")
			f.journal.take()
			s := spec(t, "pvc-1")
			change(&s)
			if _, err := f.Create(t.Context(), s); !errors.Is(err, volume.ErrExists) {
				t.Errorf("got error %v, want %v", err, volume.ErrExists)
			}
			wantCalls(t, f)
		})
	}
}

func TestCreateWaitsForTheSameNameToBePurged(t *testing.T) {
	f := newFixture(t)
	f.create(t, "pvc-1")
	f.delete(t, "pvc-1")
	f.journal.take()
	if _, err := f.Create(t.Context(), spec(t, "pvc-1")); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("got error %v, want %v", err, volume.ErrBusy)
	}
	wantCalls(t, f)
}

func TestCreateWithoutRoomLeavesNothing(t *testing.T) {
	f := newFixture(t, 1)
	f.backend.Total = 3 << 20
	s := spec(t, "pvc-big")
	s.Size = 3<<20 + 1
	if _, err := f.Create(t.Context(), s); !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("got error %v, want %v", err, volume.ErrNoSpace)
	}
	wantCalls(t, f)
	wantStates(t, f, nil)
	s.Size = 3 << 20 // exactly all, with the one id that there is
	if _, err := f.Create(t.Context(), s); err != nil {
		t.Error(err)
	}
	// What is there already needs no room.
	if _, err := f.Create(t.Context(), s); err != nil {
		t.Errorf("Create again in a full pool: %v", err)
	}
}

// meterless cannot tell its capacity.
type meterless struct{ volume.Backend }

// brokenMeter fails to.
type brokenMeter struct{ volume.Backend }

func (brokenMeter) Capacity(context.Context) (volume.Capacity, error) {
	return volume.Capacity{}, errDisk
}

func TestPoolThatCannotTellItsRoom(t *testing.T) {
	f := newFixture(t)
	p := f.pool()
	p.Backend = meterless{f.backend}
	m := volume.NewManager(p)
	if _, err := m.Create(t.Context(), spec(t, "pvc-1")); err != nil {
		t.Errorf("Create: %v", err)
	}
	if _, err := m.Capacity(t.Context()); !errors.Is(err, volume.ErrUnsupported) {
		t.Errorf("Capacity: got error %v, want %v", err, volume.ErrUnsupported)
	}
	p.Backend = brokenMeter{f.backend}
	if _, err := volume.NewManager(p).Create(t.Context(), spec(t, "pvc-2")); !errors.Is(err, errDisk) || errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("Create: got error %v, want %v and not %v", err, errDisk, volume.ErrNoSpace)
	}
	wantStates(t, f, map[string]volume.State{"pvc-1": volume.StateReady})
}

func TestCreateWithoutAFreeExportID(t *testing.T) {
	f := newFixture(t, 1)
	f.create(t, "pvc-1")
	f.journal.take()
	if _, err := f.Create(t.Context(), spec(t, "pvc-2")); !errors.Is(err, volume.ErrNoSpace) || !errors.Is(err, export.ErrNoIDs) {
		t.Errorf("got error %v, want %v and %v", err, volume.ErrNoSpace, export.ErrNoIDs)
	}
	wantCalls(t, f)
}

func TestInvalidSpecsAreRefusedBeforeAnythingIsDone(t *testing.T) {
	for name, change := range map[string]func(*volume.Spec){
		"no name":           func(s *volume.Spec) { s.Name = volume.Name{} },
		"no path":           func(s *volume.Spec) { s.Path = volume.RelPath{} },
		"size 0":            func(s *volume.Spec) { s.Size = 0 },
		"negative size":     func(s *volume.Spec) { s.Size = -1 },
		"no claim":          func(s *volume.Spec) { s.Claim.UID = "" },
		"file type as mode": func(s *volume.Spec) { s.Owner.Mode = 0o10000 },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			s := spec(t, "pvc-1")
			change(&s)
			if _, err := f.Create(t.Context(), s); !errors.Is(err, volume.ErrInvalid) {
				t.Errorf("got error %v, want %v", err, volume.ErrInvalid)
			}
			if len(f.journal.lines) > 0 {
				t.Errorf("calls were made: %v", f.journal.lines)
			}
		})
	}
}

func TestOperationsAreObserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		type observation struct {
			Operation string
			Took      time.Duration
			Failed    bool
		}
		var got []observation
		p := f.pool()
		p.Observe = func(operation string, took time.Duration, err error) {
			got = append(got, observation{operation, took, err != nil})
		}
		m := volume.NewManager(p)
		f.journal.hook(func(_ context.Context, call string) error {
			switch call {
			case "Create pvc-1":
				time.Sleep(time.Second)
			case "Withdraw 1":
				return export.ErrUnavailable
			}
			return nil
		})
		if _, err := m.Create(t.Context(), spec(t, "pvc-1")); err != nil {
			t.Fatal(err)
		}
		if err := m.Delete(t.Context(), parseName(t, "pvc-1"), cluster); !errors.Is(err, volume.ErrBusy) {
			t.Fatalf("got error %v, want %v", err, volume.ErrBusy)
		}
		if diff := cmp.Diff([]observation{{"create", time.Second, false}, {"delete", 0, true}}, got); diff != "" {
			t.Errorf("observed (-want +got):\n%s", diff)
		}
	})
}
