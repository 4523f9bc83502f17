package volume_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

func snapshotSpec(t testing.TB, name, of string) volume.SnapshotSpec {
	return volumetest.SnapshotSpec(t, name, of)
}

func (f *fixture) snapshot(t *testing.T, name, of string) volume.Volume {
	t.Helper()
	v, err := f.Snapshot(t.Context(), snapshotSpec(t, name, of))
	if err != nil {
		t.Fatalf("Snapshot(%s) of %s: %v", name, of, err)
	}
	return v
}

func (f *fixture) deleteSnapshot(t *testing.T, name string) {
	t.Helper()
	if err := f.DeleteSnapshot(t.Context(), parseName(t, name), cluster); err != nil {
		t.Fatalf("DeleteSnapshot(%s): %v", name, err)
	}
}

func restoreSpec(t testing.TB, name, snapshot, of string) volume.Spec {
	t.Helper()
	s := cloneSpec(t, name, of)
	s.From.Snapshot = parseName(t, snapshot)
	return s
}

func (f *fixture) restore(t *testing.T, name, snapshot, of string) volume.Volume {
	t.Helper()
	v, err := f.Create(t.Context(), restoreSpec(t, name, snapshot, of))
	if err != nil {
		t.Fatalf("Create(%s) of %s: %v", name, snapshot, err)
	}
	return v
}

func TestASnapshotIsTakenOnceAndNotExported(t *testing.T) {
	f := newFixture(t, 1, 2)
	f.create(t, "pvc-1")
	v := f.snapshot(t, "snap-1", "pvc-1")
	if v.State != volume.StateSnapshot || v.SnapshotOf.String() != "pvc-1" {
		t.Errorf("taken as %+v", v)
	}
	if again := f.snapshot(t, "snap-1", "pvc-1"); again != v {
		t.Errorf("once more it is %+v, and was %+v", again, v)
	}
	f.create(t, "pvc-2") // with the last export id
	if got := len(f.server.exports()); got != 2 {
		t.Errorf("%d exports, want those of the volumes", got)
	}
	if _, bytes := promised(t, f); bytes != 2<<20 {
		t.Errorf("%d bytes are promised, want those of the volumes", bytes)
	}
}

// promised is what the pool has promised to volumes.
func promised(t *testing.T, f *fixture) (free, bytes int64) {
	t.Helper()
	f.backend.fixed = &volume.Capacity{Total: 1 << 40, Available: 1 << 40}
	r, err := f.Room(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r.Free, 1<<40 - r.Unpromised
}

func TestASnapshotIsRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		prep func(*testing.T, *fixture, *volume.SnapshotSpec)
		want error
	}{
		{"of nothing", func(t *testing.T, _ *fixture, s *volume.SnapshotSpec) { s.Of = parseName(t, "pvc-9") }, volume.ErrNotFound},
		{"of itself", func(_ *testing.T, _ *fixture, s *volume.SnapshotSpec) { s.Of = s.Name }, volume.ErrInvalid},
		{"for no namespace", func(_ *testing.T, _ *fixture, s *volume.SnapshotSpec) { s.Namespace = "" }, volume.ErrInvalid},
		{"for another namespace", func(_ *testing.T, _ *fixture, s *volume.SnapshotSpec) { s.Namespace = "other" }, volume.ErrForeign},
		{"for another cluster", func(_ *testing.T, _ *fixture, s *volume.SnapshotSpec) { s.Cluster = "cluster-2" }, volume.ErrForeign},
		{"under a volume's name", func(t *testing.T, f *fixture, s *volume.SnapshotSpec) { s.Name = f.create(t, "pvc-2").Name }, volume.ErrExists},
		{"of a volume that is not ready", func(t *testing.T, f *fixture, _ *volume.SnapshotSpec) {
			f.change(t, "pvc-1", func(v *volume.Volume) { v.State = volume.StateCreating })
		}, volume.ErrBusy},
		{"of a volume that is being deleted", func(t *testing.T, f *fixture, _ *volume.SnapshotSpec) { f.delete(t, "pvc-1") }, volume.ErrNotFound},
		{"while it is being deleted itself", func(t *testing.T, f *fixture, _ *volume.SnapshotSpec) {
			f.snapshot(t, "snap-1", "pvc-1")
			f.deleteSnapshot(t, "snap-1")
		}, volume.ErrBusy},
		{"if the record cannot be read", func(_ *testing.T, f *fixture, _ *volume.SnapshotSpec) {
			f.journal.fail(volume.ErrUnknown, "Get snap-1")
		}, volume.ErrUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "pvc-1")
			s := snapshotSpec(t, "snap-1", "pvc-1")
			c.prep(t, f, &s)
			if _, err := f.Snapshot(t.Context(), s); !errors.Is(err, c.want) {
				t.Errorf("got error %v, want %v", err, c.want)
			}
		})
	}
}

func TestARestoreIsRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		prep func(*testing.T, *fixture, *volume.Spec)
		want error
	}{
		{"of nothing", func(t *testing.T, _ *fixture, s *volume.Spec) { s.From.Snapshot = parseName(t, "snap-9") }, volume.ErrNotFound},
		{"of what is no snapshot", func(_ *testing.T, _ *fixture, s *volume.Spec) { s.From.Snapshot = s.From.Volume }, volume.ErrInvalid},
		{"of another volume's", func(t *testing.T, f *fixture, s *volume.Spec) { s.From.Volume = f.create(t, "pvc-3").Name }, volume.ErrInvalid},
		{"without its volume's name", func(_ *testing.T, _ *fixture, s *volume.Spec) { s.From.Volume = volume.Name{} }, volume.ErrInvalid},
		{"for another namespace", func(_ *testing.T, _ *fixture, s *volume.Spec) { s.Claim.Namespace = "other" }, volume.ErrForeign},
		{"for another cluster", func(_ *testing.T, _ *fixture, s *volume.Spec) { s.Cluster = "cluster-2" }, volume.ErrForeign},
		{"of one that is being deleted", func(t *testing.T, f *fixture, _ *volume.Spec) { f.deleteSnapshot(t, "snap-1") }, volume.ErrNotFound},
		{"of one that is not complete", func(t *testing.T, f *fixture, _ *volume.Spec) {
			f.change(t, "snap-1", func(v *volume.Volume) { v.State = volume.StateCreating })
		}, volume.ErrBusy},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			f.create(t, "pvc-1")
			f.snapshot(t, "snap-1", "pvc-1")
			s := restoreSpec(t, "pvc-2", "snap-1", "pvc-1")
			c.prep(t, f, &s)
			if _, err := f.Create(t.Context(), s); !errors.Is(err, c.want) {
				t.Errorf("got error %v, want %v", err, c.want)
			}
			if _, made := f.states(t)["pvc-2"]; made {
				t.Error("a volume was made")
			}
		})
	}
}

func TestVolumesAndSnapshotsAreNotDeletedForEachOther(t *testing.T) {
	f := newFixture(t)
	f.create(t, "pvc-1")
	f.snapshot(t, "snap-1", "pvc-1")
	for name, err := range map[string]error{
		"Delete of a snapshot":         f.Delete(t.Context(), parseName(t, "snap-1"), cluster),
		"DeleteSnapshot of a volume":   f.DeleteSnapshot(t.Context(), parseName(t, "pvc-1"), cluster),
		"a clone of a snapshot's name": create(f, cloneSpec(t, "pvc-2", "snap-1")),
	} {
		if !errors.Is(err, volume.ErrInvalid) && !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("%s: got error %v", name, err)
		}
	}
	if err := f.DeleteSnapshot(t.Context(), parseName(t, "snap-1"), "cluster-2"); !errors.Is(err, volume.ErrForeign) {
		t.Errorf("another cluster's: got error %v, want %v", err, volume.ErrForeign)
	}
	wantStates(t, f, map[string]volume.State{"pvc-1": volume.StateReady, "snap-1": volume.StateSnapshot})
	f.deleteSnapshot(t, "snap-9") // which is gone already
}

func create(f *fixture, s volume.Spec) error {
	_, err := f.Create(context.Background(), s)
	return err
}

func TestLongCopiesGoOnInTheBackground(t *testing.T) {
	for name, c := range map[string]struct {
		held string
		ask  func(*testing.T, *fixture) error
	}{
		"a snapshot": {"Snapshot new", func(t *testing.T, f *fixture) error {
			_, err := f.Snapshot(t.Context(), snapshotSpec(t, "new", "pvc-1"))
			return err
		}},
		"a clone": {"Clone new", func(t *testing.T, f *fixture) error { return create(f, cloneSpec(t, "new", "pvc-1")) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "pvc-1")
				open := gate(f, c.held)
				for range 3 { // one at a time
					err := c.ask(t, f)
					if !errors.Is(err, volume.ErrPending) || !strings.Contains(err.Error(), "1 files with 4096 bytes") {
						t.Errorf("got error %v, want %v and how far it has got", err, volume.ErrPending)
					}
				}
				err := f.Delete(t.Context(), parseName(t, "pvc-1"), cluster)
				if !errors.Is(err, volume.ErrBusy) || f.states(t)["pvc-1"] != volume.StateReady {
					t.Errorf("what is copied is deleted: %v", err)
				}
				open()
				synctest.Wait()
				if err := c.ask(t, f); err != nil {
					t.Errorf("when it is done: %v", err)
				}
				f.delete(t, "pvc-1")
				if n := len(f.states(t)); n != 2 {
					t.Errorf("%d records", n)
				}
			})
		})
	}
}

// holdUntilEnded has a call wait until its context ends, as a long copy does.
func holdUntilEnded(f *fixture, held string) {
	f.journal.hook(func(ctx context.Context, call string) error {
		if call != held {
			return nil
		}
		<-ctx.Done()
		return context.Cause(ctx)
	})
}

func TestACopyEndsWithWhatAskedForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.run(t)
		f.create(t, "pvc-1")
		holdUntilEnded(f, "Clone pvc-2")
		if err := create(f, cloneSpec(t, "pvc-2", "pvc-1")); !errors.Is(err, volume.ErrPending) {
			t.Fatal(err)
		}
		f.delete(t, "pvc-2")
		f.delete(t, "pvc-1") // which is not copied any more
		synctest.Wait()
		wantStates(t, f, nil)

		f.create(t, "pvc-3")
		holdUntilEnded(f, "Snapshot snap-1")
		if _, err := f.Snapshot(t.Context(), snapshotSpec(t, "snap-1", "pvc-3")); !errors.Is(err, volume.ErrPending) {
			t.Fatal(err)
		}
		f.deleteSnapshot(t, "snap-1")
		f.delete(t, "pvc-3")
		synctest.Wait()
		wantStates(t, f, nil)
	})
}

// Names of volumes may be made of those of claims, of which two may give the same.
func TestNobodyGetsWhatIsCopiedForAnother(t *testing.T) {
	for name, ask := range map[string]func(*testing.T, *fixture) (volume.Volume, error){
		"a claim": func(t *testing.T, f *fixture) (volume.Volume, error) {
			s := spec(t, "new")
			s.Claim.Namespace, s.Claim.UID = "other", "other-uid"
			return f.Create(t.Context(), s)
		},
		"a snapshot": func(t *testing.T, f *fixture) (volume.Volume, error) {
			return f.Snapshot(t.Context(), snapshotSpec(t, "new", "pvc-1"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.create(t, "pvc-1")
				open := gate(f, "Clone new")
				if err := create(f, cloneSpec(t, "new", "pvc-1")); !errors.Is(err, volume.ErrPending) {
					t.Fatal(err)
				}
				if v, err := ask(t, f); !errors.Is(err, volume.ErrExists) {
					t.Errorf("during the copy: got %+v, %v", v, err)
				}
				open()
				synctest.Wait()
				if v, err := ask(t, f); !errors.Is(err, volume.ErrExists) {
					t.Errorf("after it: got %+v, %v", v, err)
				}
				f.clone(t, "new", "pvc-1")
			})
		})
	}
}

func TestACopyThatIsCanceledCanBeginAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "pvc-1")
		holdUntilEnded(f, "Clone pvc-2")
		if err := create(f, cloneSpec(t, "pvc-2", "pvc-1")); !errors.Is(err, volume.ErrPending) {
			t.Fatal(err)
		}
		for range 2 {
			if err := f.Cancel(t.Context(), cloneSpec(t, "pvc-2", "pvc-1")); err != nil {
				t.Error(err)
			}
		}
		f.journal.hook(nil)
		f.clone(t, "pvc-2", "pvc-1")
		f.delete(t, "pvc-1") // at once
	})
}

func TestACopyThatFailedIsInNobodysWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.create(t, "pvc-1")
		failed := make(chan struct{})
		f.journal.hook(func(_ context.Context, call string) error {
			if call != "Clone new" {
				return nil
			}
			<-failed
			return errDisk
		})
		if err := create(f, cloneSpec(t, "new", "pvc-1")); !errors.Is(err, volume.ErrPending) {
			t.Fatal(err)
		}
		close(failed)
		synctest.Wait() // and nobody asks what has become of it
		s := spec(t, "new")
		s.Claim.UID = "another"
		if err := create(f, s); err != nil {
			t.Errorf("another claim that has its name now: %v", err)
		}
	})
}

func TestACopyEndsWithTheManagerAndIsGoneOnWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		stop := f.run(t)
		f.create(t, "pvc-1")
		f.backend.cutOff = context.Canceled // after the record
		if err := create(f, cloneSpec(t, "pvc-2", "pvc-1")); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		f.backend.cutOff = nil
		holdUntilEnded(f, "Clone pvc-2")
		if err := create(f, cloneSpec(t, "pvc-2", "pvc-1")); !errors.Is(err, volume.ErrPending) {
			t.Fatal(err)
		}
		stop() // returns, so that it has ended
		f.journal.hook(nil)
		f.open(t)
		if _, err := f.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.run(t)
		if v := f.clone(t, "pvc-2", "pvc-1"); v.State != volume.StateReady {
			t.Errorf("after a restart it is %s", v.State)
		}
	})
}

func TestRecoverKeepsSnapshotsAndExportsNone(t *testing.T) {
	f := newFixture(t)
	f.create(t, "pvc-1")
	f.snapshot(t, "snap-1", "pvc-1")
	f.snapshot(t, "snap-2", "pvc-1")
	f.deleteSnapshot(t, "snap-2")
	f.open(t)
	want, err := f.Recover(t.Context())
	if err != nil || len(want) != 1 || want[0].Path != "/exports/pvc-1" {
		t.Errorf("exports %v, %v", want, err)
	}
	wantStatesSoon(t, f, map[string]volume.State{"pvc-1": volume.StateReady, "snap-1": volume.StateSnapshot})
	if _, bytes := promised(t, f); bytes != 1<<20 {
		t.Errorf("%d bytes are promised", bytes)
	}
}

// wantStatesSoon waits until the records are as they shall be, while f runs.
func wantStatesSoon(t *testing.T, f *fixture, want map[string]volume.State) {
	t.Helper()
	f.run(t)
	for end := time.Now().Add(time.Minute); time.Now().Before(end) && len(f.states(t)) != len(want); {
		time.Sleep(time.Millisecond)
	}
	wantStates(t, f, want)
}

func TestScavengeEndsSnapshotsThatNobodyWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.run(t)
		f.create(t, "pvc-1")
		f.snapshot(t, "snap-1", "pvc-1")
		f.snapshot(t, "snap-2", "pvc-1")
		for _, name := range []string{"pvc-1", "snap-2"} {
			if err := f.MarkPublished(t.Context(), parseName(t, name)); err != nil {
				t.Fatal(err)
			}
		}
		holdUntilEnded(f, "Snapshot snap-3")
		f.change(t, f.snapshotRecord(t, "snap-3"), func(v *volume.Volume) { v.State = volume.StateCreating })
		if _, err := f.Snapshot(t.Context(), snapshotSpec(t, "snap-3", "pvc-1")); !errors.Is(err, volume.ErrPending) {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		var asked []string
		n, err := f.Scavenge(t.Context(), cluster, time.Minute, func(_ context.Context, v volume.Volume) (bool, error) {
			asked = append(asked, fmt.Sprint(v.Name, " of ", v.SnapshotOf))
			return false, nil
		})
		synctest.Wait()
		slices.Sort(asked)
		if n != 2 || err != nil || slices.Compact(asked)[0] != "snap-1 of pvc-1" {
			t.Errorf("%d scavenged, %v, asked for %v", n, err, asked)
		}
		wantStates(t, f, map[string]volume.State{"pvc-1": volume.StateReady, "snap-2": volume.StateSnapshot})
	})
}

// snapshotRecord makes the record of a snapshot behind the Manager's back.
func (f *fixture) snapshotRecord(t *testing.T, name string) string {
	t.Helper()
	if _, err := f.backend.Backend.Snapshot(t.Context(), snapshotSpec(t, name, "pvc-1"), nil); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestGraphsOfSnapshotsAreFreedInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(3, 4))
		f := newFixture(t)
		f.run(t)
		for range 20 {
			f.create(t, "pvc-0")
			volumes, snapshots, of := []string{"pvc-0"}, []string{}, map[string]string{}
			for i := 1; i < 20; i++ {
				switch random.IntN(3) {
				case 0:
					name := fmt.Sprint("pvc-", i)
					f.clone(t, name, volumes[random.IntN(len(volumes))])
					volumes = append(volumes, name)
				case 1:
					name := fmt.Sprint("snap-", i)
					of[name] = volumes[random.IntN(len(volumes))]
					f.snapshot(t, name, of[name])
					snapshots = append(snapshots, name)
				case 2:
					if len(snapshots) == 0 {
						continue
					}
					name, from := fmt.Sprint("pvc-", i), snapshots[random.IntN(len(snapshots))]
					f.restore(t, name, from, of[from])
					volumes = append(volumes, name)
				}
			}
			names := slices.Concat(volumes, snapshots)
			random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
			for _, name := range names {
				if of[name] != "" {
					f.deleteSnapshot(t, name)
				} else {
					f.delete(t, name)
				}
				synctest.Wait()
			}
			wantStates(t, f, nil) // no time has passed
		}
	})
}
