package volume_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
)

func TestDeletedVolumesArePurged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.run(t)
		for _, name := range []string{"pvc-1", "pvc-2", "pvc-3"} {
			f.create(t, name)
			f.delete(t, name)
		}
		synctest.Wait()
		wantStates(t, f, nil)
	})
}

func TestExportIDIsFreeAfterThePurgeAndNotBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, 1)
		f.create(t, "pvc-1")
		open := gate(f, "Purge pvc-1")
		f.run(t)
		f.delete(t, "pvc-1")
		synctest.Wait()
		if v, err := f.Create(t.Context(), spec(t, "pvc-2")); !errors.Is(err, export.ErrNoIDs) {
			t.Errorf("pvc-2 got export id %d, %v; want %v", v.Export.ID, err, export.ErrNoIDs)
		}
		open()
		synctest.Wait()
		if got := f.create(t, "pvc-2").Export.ID; got != 1 {
			t.Errorf("pvc-2 has export id %d, want 1", got)
		}
	})
}

func TestPurgeIsTriedAgainWithGrowingPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "pvc-1")
		var pauses []time.Duration
		last := time.Now()
		f.journal.hook(func(_ context.Context, call string) error {
			if call != "Purge pvc-1" {
				return nil
			}
			pauses, last = append(pauses, time.Since(last)), time.Now()
			if len(pauses) < 12 {
				return errDisk
			}
			return nil
		})
		f.run(t)
		f.delete(t, "pvc-1")
		time.Sleep(time.Hour)
		synctest.Wait()
		const s = time.Second
		want := []time.Duration{0, s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 64 * s, 128 * s, 256 * s, 300 * s, 300 * s}
		if diff := cmp.Diff(want, pauses); diff != "" {
			t.Errorf("pauses (-want +got):\n%s", diff)
		}
		wantStates(t, f, nil)
		if !strings.Contains(f.logged.text(), "volume=pvc-1") || !strings.Contains(f.logged.text(), errDisk.Error()) {
			t.Errorf("the log does not say which volume and why: %s", f.logged.text())
		}
	})
}

func TestAPurgeThatTakesLongHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		for _, name := range []string{"pvc-1", "pvc-2", "pvc-3"} {
			f.create(t, name)
			f.delete(t, name)
		}
		open := gate(f, "Purge pvc-1")
		f.run(t)
		synctest.Wait()
		wantStates(t, f, map[string]volume.State{"pvc-1": volume.StateDiscarded})
		open()
		synctest.Wait()
		wantStates(t, f, nil)
	})
}

// It may take hours.
func TestNobodyWaitsForAPurge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "pvc-1")
		open := gate(f, "Purge pvc-1")
		f.run(t)
		f.delete(t, "pvc-1")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := f.Delete(ctx, parseName(t, "pvc-1"), cluster); err != nil {
			t.Errorf("Delete: %v", err)
		}
		if err := f.MarkPublished(ctx, parseName(t, "pvc-1")); err != nil {
			t.Errorf("MarkPublished: %v", err)
		}
		open()
		synctest.Wait()
		wantStates(t, f, nil)
	})
}

// What was queued for the purge of its first life must not hide the second.
func TestAVolumeMadeAgainAfterItsPurgeCanBeDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.run(t)
		for range 3 {
			f.create(t, "pvc-1")
			f.delete(t, "pvc-1")
			wantExports(t, f, nil)
			synctest.Wait()
			wantStates(t, f, nil)
		}
	})
}

// Also when many were to be tried again at the same time.
func TestTwoPurgesAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		for _, name := range []string{"pvc-1", "pvc-2", "pvc-3", "pvc-4", "pvc-5"} {
			f.create(t, name)
			f.delete(t, name)
		}
		var now, most atomic.Int32
		start := time.Now()
		f.journal.hook(func(_ context.Context, call string) error {
			switch {
			case !strings.HasPrefix(call, "Purge "):
				return nil
			case time.Since(start) < time.Second:
				return errDisk // all of them, at the same time
			}
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(time.Minute)
			now.Add(-1)
			return nil
		})
		f.run(t)
		time.Sleep(time.Hour)
		wantStates(t, f, nil)
		if got := most.Load(); got != 2 {
			t.Errorf("%d purges at a time, want 2", got)
		}
	})
}

// The backend is closed after Run: nothing may work on it then.
func TestRunReturnsWhenTheLastPurgeHasEnded(t *testing.T) {
	for name, failures := range map[string]int{"first try": 0, "second try": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "pvc-1")
				var working, stopped atomic.Bool
				f.journal.hook(func(_ context.Context, call string) error {
					if call != "Purge pvc-1" {
						return nil
					}
					if failures--; failures >= 0 {
						return errDisk
					}
					working.Store(true)
					time.Sleep(time.Minute)
					if stopped.Load() {
						t.Error("Run returned during a purge")
					}
					working.Store(false)
					return nil
				})
				stop := f.run(t)
				f.delete(t, "pvc-1")
				time.Sleep(10 * time.Second)
				if !working.Load() {
					t.Fatal("the purge has not begun")
				}
				stop()
				stopped.Store(true)
				time.Sleep(time.Hour)
			})
		})
	}
}

func TestNothingIsPurgedAfterRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "pvc-1")
		stop := f.run(t)
		f.journal.fail(errDisk, "Purge pvc-1")
		f.delete(t, "pvc-1")
		synctest.Wait()
		f.journal.take()
		stop()
		time.Sleep(time.Hour)
		wantCalls(t, f)
	})
}

// A name that was queued twice may be a new volume's by the time of the second.
func TestAVolumeMadeAgainIsNotPurged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "pvc-1")
		f.delete(t, "pvc-1")
		if err := f.backend.Backend.Purge(t.Context(), parseName(t, "pvc-1")); err != nil {
			t.Fatal(err)
		}
		f.create(t, "pvc-1")
		f.journal.take()
		f.run(t)
		time.Sleep(time.Hour)
		wantStates(t, f, map[string]volume.State{"pvc-1": volume.StateReady})
		wantCalls(t, f)
	})
}
