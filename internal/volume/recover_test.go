package volume_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

// restart is a new process that recovers, up to the point where it serves.
func (f *fixture) restart(t *testing.T) {
	t.Helper()
	f.open(t)
	want, err := f.Recover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := f.ids.Compact(); err != nil {
		t.Fatal(err)
	}
	if err := f.server.Sync(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	f.journal.take()
}

func TestRecoverWantsTheExportsOfReadyVolumes(t *testing.T) {
	f := newFixture(t)
	first, second := f.create(t, "pvc-1"), f.create(t, "pvc-2")
	f.create(t, "pvc-creating")
	f.change(t, "pvc-creating", func(v *volume.Volume) { v.State = volume.StateCreating })
	f.create(t, "pvc-discarded")
	f.delete(t, "pvc-discarded")
	f.open(t)
	got, err := f.Recover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]export.Export{first.AsExport(export.Clients{}), second.AsExport(export.Clients{})}, got); diff != "" {
		t.Errorf("exports (-want +got):\n%s", diff)
	}
}

func TestRecoverKnowsAdoptedVolumes(t *testing.T) {
	f := newFixture(t)
	f.create(t, "pvc-own")
	adopted := f.create(t, "pvc-adopted")
	f.change(t, "pvc-adopted", func(v *volume.Volume) { v.Origin = "nfs-provisioner" })
	if v, ok := f.Adopted(adopted.Name); ok {
		t.Errorf("before it was recovered: %+v", v)
	}
	f.restart(t)
	if v, ok := f.Adopted(adopted.Name); !ok || v.Export != adopted.Export {
		t.Errorf("got %+v, %t; want %+v", v, ok, adopted)
	}
	if v, ok := f.Adopted(volumetest.Spec(t, "pvc-own").Name); ok {
		t.Errorf("a volume of Berth's own is adopted: %+v", v)
	}
}

func TestRecoverEndsDeletionsThatWereCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, 1)
		f.create(t, "pvc-1")
		f.delete(t, "pvc-1") // and the process ends before the purge
		f.journal.take()
		f.open(t)
		if _, err := f.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.run(t)
		synctest.Wait()
		// Discarded again: the crash may have come in the middle of that.
		wantCalls(t, f, "Discard pvc-1", "Purge pvc-1")
		wantStates(t, f, nil)
		if _, err := f.ids.Take(); err != nil {
			t.Errorf("the export id is not free after the purge: %v", err)
		}
	})
}

func TestRecoverGoesOnWhenADeletionCannotBeEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		for _, name := range []string{"pvc-1", "pvc-2", "pvc-3"} {
			f.create(t, name)
		}
		f.delete(t, "pvc-1")
		f.delete(t, "pvc-2")
		f.journal.fail(errDisk, "Discard pvc-1")
		f.restart(t)
		wantExports(t, f, map[export.ID]string{3: "/exports/pvc-3"})
		f.run(t)
		synctest.Wait()
		// What is not out of clients' sight for certain is not purged.
		wantStates(t, f, map[string]volume.State{"pvc-1": volume.StateDiscarded, "pvc-3": volume.StateReady})
		if !strings.Contains(f.logged.text(), "volume=pvc-1") {
			t.Errorf("the log does not name pvc-1: %s", f.logged.text())
		}
	})
}

// Whatever was in the way then, as a share that did not answer, it is tried again.
func TestWhatRecoverCouldNotEndIsEndedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "pvc-1")
		f.delete(t, "pvc-1")
		f.createAt(t, "pvc-2", "ns/a", onDelete(volume.OnDeleteArchive))
		f.change(t, "pvc-2", func(v *volume.Volume) {
			v.State, v.ArchivePath, v.Ended = volume.StateArchiving, "archived-ns/a", v.Created
		})
		f.create(t, "pvc-3")
		f.delete(t, "pvc-3")
		f.journal.fail(volume.ErrBusy, "Discard pvc-1", "Archive pvc-2", "Discard pvc-3")
		f.restart(t)
		f.run(t)
		time.Sleep(time.Minute)
		wantStates(t, f, map[string]volume.State{
			"pvc-1": volume.StateDiscarded, "pvc-2": volume.StateArchiving, "pvc-3": volume.StateDiscarded,
		})
		f.journal.fail(volume.ErrBusy, "Discard pvc-3")
		f.delete(t, "pvc-2") // by its PersistentVolume, which is still there
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		wantStates(t, f, map[string]volume.State{"pvc-2": volume.StateArchived, "pvc-3": volume.StateDiscarded})
		f.journal.take()
		f.journal.hook(nil)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		wantCalls(t, f, "Discard pvc-3", "Purge pvc-3")
		wantStates(t, f, map[string]volume.State{"pvc-2": volume.StateArchived})
		f.create(t, "pvc-4")
		f.createAt(t, "pvc-5", "ns/a") // its path is free
	})
}

// As after a crash between Withdraw and Discard.
func TestRecoverExportsWhatWasWithdrawnButNotDiscarded(t *testing.T) {
	f := newFixture(t)
	f.create(t, "pvc-1")
	f.journal.fail(errDisk, "Discard pvc-1")
	if err := f.Delete(t.Context(), parseName(t, "pvc-1"), cluster); !errors.Is(err, errDisk) {
		t.Fatalf("got error %v, want %v", err, errDisk)
	}
	f.restart(t)
	wantExports(t, f, map[export.ID]string{1: "/exports/pvc-1"})
}

func TestRecordsThatCannotBeReadAreReportedAndSkipped(t *testing.T) {
	f := newFixture(t)
	f.create(t, "pvc-1")
	f.backend.unreadable = []error{errors.New("record of volume pvc-torn is damaged")}
	f.restart(t)
	wantExports(t, f, map[export.ID]string{1: "/exports/pvc-1"})
	if !strings.Contains(f.logged.text(), "pvc-torn") {
		t.Errorf("the log does not name pvc-torn: %s", f.logged.text())
	}
}

func TestExportIDsOfRecordsStayTaken(t *testing.T) {
	for _, state := range []volume.State{volume.StateCreating, volume.StateReady, volume.StateDiscarded} {
		t.Run(string(state), func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "pvc-1")
			f.change(t, "pvc-1", func(v *volume.Volume) { v.State = state })
			f.restart(t)
			if err := f.ids.Reserve(1); err == nil {
				t.Error("the export id of the record is free")
			}
		})
	}
}

// twoOfOneID makes pvc-1 and pvc-2, whose record names pvc-1's export id, as
// after a record was copied by hand, and starts again.
func twoOfOneID(t *testing.T) *fixture {
	f := newFixture(t)
	f.create(t, "pvc-1")
	f.create(t, "pvc-2")
	f.change(t, "pvc-2", func(v *volume.Volume) { v.Export.ID = 1 })
	f.restart(t)
	return f
}

func TestOfTwoRecordsWithOneExportIDTheSecondIsReportedAndNotExported(t *testing.T) {
	f := twoOfOneID(t)
	wantExports(t, f, map[export.ID]string{1: "/exports/pvc-1"})
	if !strings.Contains(f.logged.text(), "volume=pvc-2") || strings.Contains(f.logged.text(), "volume=pvc-1") {
		t.Errorf("the log does not name pvc-2 alone: %s", f.logged.text())
	}
}

// Its export id is the other volume's: nothing may be done by it.
func TestOfTwoRecordsWithOneExportIDTheSecondIsLeftAlone(t *testing.T) {
	f := twoOfOneID(t)
	n := parseName(t, "pvc-2")
	if _, err := f.Create(t.Context(), spec(t, "pvc-2")); !errors.Is(err, volume.ErrConflict) {
		t.Errorf("Create: got error %v, want %v", err, volume.ErrConflict)
	}
	if err := f.Delete(t.Context(), n, cluster); !errors.Is(err, volume.ErrConflict) {
		t.Errorf("Delete: got error %v, want %v", err, volume.ErrConflict)
	}
	never := func(context.Context, volume.Volume) (bool, error) { return false, nil }
	f.change(t, "pvc-1", func(v *volume.Volume) { v.Published = true })
	if got, err := f.Scavenge(t.Context(), cluster, 0, never); got != 0 || !errors.Is(err, volume.ErrConflict) {
		t.Errorf("Scavenge discarded %d, %v; want none and %v", got, err, volume.ErrConflict)
	}
	wantCalls(t, f)
	wantExports(t, f, map[export.ID]string{1: "/exports/pvc-1"})
}

// Part of the exports would be taken for all of them.
func TestRecoverThatIsCutOffWantsNothing(t *testing.T) {
	f := newFixture(t)
	f.create(t, "pvc-1")
	f.create(t, "pvc-2")
	ctx, cancel := context.WithCancel(t.Context())
	f.journal.hook(func(_ context.Context, call string) error {
		if call == "List pvc-2" {
			cancel()
		}
		return nil
	})
	f.open(t)
	if got, err := f.Recover(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %d exports and error %v, want %v", len(got), err, context.Canceled)
	}
}
