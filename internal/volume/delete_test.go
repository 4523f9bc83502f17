package volume_test

import (
	"context"
	"errors"
	"testing"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
)

func TestDeleteWithdrawsBeforeItDiscards(t *testing.T) {
	f := newFixture(t)
	f.create(t, "pvc-1")
	f.journal.take()
	f.delete(t, "pvc-1")
	wantCalls(t, f, "Withdraw 1", "Discard pvc-1")
	wantStates(t, f, map[string]volume.State{"pvc-1": volume.StateDiscarded})
	wantExports(t, f, nil)
}

func TestDeleteOfWhatIsGoneSucceeds(t *testing.T) {
	f := newFixture(t)
	f.delete(t, "pvc-1")
	wantCalls(t, f)
}

func TestDeleteTouchesNothingOfAnotherCluster(t *testing.T) {
	f := newFixture(t)
	f.create(t, "pvc-1")
	f.journal.take()
	if err := f.Delete(t.Context(), parseName(t, "pvc-1"), "cluster-2"); !errors.Is(err, volume.ErrForeign) {
		t.Errorf("got error %v, want %v", err, volume.ErrForeign)
	}
	wantCalls(t, f)
}

func TestDeleteGoesOnAfterAFailure(t *testing.T) {
	ready, discarded := map[string]volume.State{"pvc-1": volume.StateReady}, map[string]volume.State{"pvc-1": volume.StateDiscarded}
	exported := map[export.ID]string{1: "/exports/pvc-1"}
	for _, c := range []struct {
		name, failing string
		err, want     error
		exports       map[export.ID]string
	}{
		// A record that cannot be read is not a missing one.
		{"record cannot be read", "Get pvc-1", errDisk, errDisk, exported},
		{"server is away", "Withdraw 1", export.ErrUnavailable, volume.ErrBusy, exported},
		{"server refuses", "Withdraw 1", export.ErrRefused, export.ErrRefused, exported},
		{"server does not answer", "Withdraw 1", errDisk, volume.ErrUnknown, exported},
		{"backend is busy", "Discard pvc-1", volume.ErrBusy, volume.ErrBusy, nil},
		{"backend fails", "Discard pvc-1", errDisk, errDisk, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "pvc-1")
			f.journal.fail(c.err, c.failing)
			if err := f.Delete(t.Context(), parseName(t, "pvc-1"), cluster); !errors.Is(err, c.want) {
				t.Errorf("got error %v, want %v", err, c.want)
			}
			wantStates(t, f, ready)
			wantExports(t, f, c.exports)

			f.journal.hook(nil)
			f.delete(t, "pvc-1")
			wantStates(t, f, discarded)
			wantExports(t, f, nil)
		})
	}
}

func TestDeleteAgainSucceeds(t *testing.T) {
	f := newFixture(t)
	f.create(t, "pvc-1")
	f.delete(t, "pvc-1")
	f.delete(t, "pvc-1")
	wantStates(t, f, map[string]volume.State{"pvc-1": volume.StateDiscarded})
}

// As after a crash between the two.
func TestDeleteOfWhatWasPurgedMeanwhileSucceeds(t *testing.T) {
	f := newFixture(t)
	f.create(t, "pvc-1")
	f.journal.hook(func(ctx context.Context, call string) error {
		if call == "Discard pvc-1" {
			return volume.ErrNotFound
		}
		return nil
	})
	f.delete(t, "pvc-1")
}

func TestMarkPublished(t *testing.T) {
	f := newFixture(t)
	f.create(t, "pvc-1")
	f.journal.take()
	for range 2 { // each PersistentVolume is seen again at every start
		if err := f.MarkPublished(t.Context(), parseName(t, "pvc-1")); err != nil {
			t.Fatal(err)
		}
	}
	wantCalls(t, f, "Update pvc-1")
	if v, err := f.backend.Get(t.Context(), parseName(t, "pvc-1")); err != nil || !v.Published {
		t.Errorf("the record says published: %t, %v", v.Published, err)
	}
	if err := f.MarkPublished(t.Context(), parseName(t, "pvc-2")); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("got error %v, want %v", err, volume.ErrNotFound)
	}
	f.journal.fail(errDisk, "Get pvc-1")
	if err := f.MarkPublished(t.Context(), parseName(t, "pvc-1")); !errors.Is(err, errDisk) {
		t.Errorf("got error %v, want %v", err, errDisk)
	}
}
