package volume_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-storage/berth/internal/volume"
)

func (f *fixture) record(t *testing.T, name string) volume.Volume {
	t.Helper()
	v, err := f.backend.Backend.Get(t.Context(), parseName(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// archived makes a volume at path and deletes its claim.
func (f *fixture) archived(t *testing.T, name, path string) volume.Volume {
	t.Helper()
	f.createAt(t, name, path, onDelete(volume.OnDeleteArchive))
	f.delete(t, name)
	return f.record(t, name)
}

func from(t *testing.T, name string) func(*volume.Spec) {
	return func(s *volume.Spec) { s.From = &volume.Source{Archive: parseName(t, name)} }
}

func TestDeleteDoesAsTheRecordSays(t *testing.T) {
	for _, c := range []struct {
		how   volume.OnDelete
		calls []string
		state volume.State
	}{
		{"", []string{"Withdraw 1", "Discard pvc-1"}, volume.StateDiscarded},
		{volume.OnDeleteDelete, []string{"Withdraw 1", "Discard pvc-1"}, volume.StateDiscarded},
		{volume.OnDeleteRetain, []string{"Withdraw 1", "Update pvc-1"}, volume.StateRetained},
		{volume.OnDeleteArchive, []string{"Withdraw 1", "Archive pvc-1"}, volume.StateArchived},
	} {
		t.Run(string(c.how), func(t *testing.T) {
			f := newFixture(t)
			f.createAt(t, "pvc-1", "ns/a", onDelete(c.how))
			f.journal.take()
			f.delete(t, "pvc-1")
			wantCalls(t, f, c.calls...)
			wantStates(t, f, map[string]volume.State{"pvc-1": c.state})
			wantExports(t, f, nil)
			if v := f.record(t, "pvc-1"); v.Ended.IsZero() != (c.state == volume.StateDiscarded) {
				t.Errorf("ended %v", v.Ended)
			}
			f.delete(t, "pvc-1") // again
			wantCalls(t, f)
			if _, err := f.Create(t.Context(), specAt(t, "pvc-1", "ns/a")); err == nil {
				t.Error("the claim was given its volume back, without being asked")
			}
			// It is promised to nobody any more, and not exported after a restart.
			f.restart(t)
			wantExports(t, f, nil)
		})
	}
}

func TestWhatIsKeptHoldsItsPlace(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		t.Run(fmt.Sprint("restarted ", restarted), func(t *testing.T) {
			f := newFixture(t)
			f.createAt(t, "pvc-kept", "ns/kept", onDelete(volume.OnDeleteRetain))
			f.delete(t, "pvc-kept")
			at := f.archived(t, "pvc-old", "ns/old").ArchivePath
			if restarted {
				f.restart(t)
			}
			for _, path := range []string{"ns/kept", "ns/kept/in", at, at + "/in"} {
				if _, err := f.Create(t.Context(), specAt(t, "pvc-new", path)); !errors.Is(err, volume.ErrExists) {
					t.Errorf("%s: got error %v, want %v", path, err, volume.ErrExists)
				}
			}
			f.createAt(t, "pvc-new", "ns/old") // an archive does not hold where it was
			second := f.archived(t, "pvc-2", "ns/old2")
			if second.ArchivePath == at {
				t.Errorf("two archives at %s", at)
			}
		})
	}
}

func TestArchivesOfOnePathDoNotCollide(t *testing.T) {
	f := newFixture(t)
	places := map[string]bool{}
	for i := range 5 {
		places[f.archived(t, fmt.Sprint("pvc-", i), "ns/a").ArchivePath] = true
	}
	// Nor with one that lies around where others were.
	places[f.archived(t, "pvc-around", "ns").ArchivePath] = true
	if len(places) != 6 {
		t.Errorf("6 archives are at %v", places)
	}
}

func TestArchivingGoesOnAfterAFailure(t *testing.T) {
	for _, failing := range []string{"Get pvc-1", "Withdraw 1", "Archive pvc-1"} {
		t.Run(failing, func(t *testing.T) {
			f := newFixture(t)
			f.createAt(t, "pvc-1", "a", onDelete(volume.OnDeleteArchive))
			f.journal.fail(errDisk, failing)
			if err := f.Delete(t.Context(), parseName(t, "pvc-1"), cluster); err == nil {
				t.Error("no error")
			}
			wantStates(t, f, map[string]volume.State{"pvc-1": volume.StateReady})
			f.journal.hook(nil)
			f.delete(t, "pvc-1")
			wantStates(t, f, map[string]volume.State{"pvc-1": volume.StateArchived})
		})
	}
}

// A crash between the record that says where to and the one that says that it is there.
func TestRecoverEndsArchiving(t *testing.T) {
	f := newFixture(t)
	f.createAt(t, "pvc-1", "ns/a", onDelete(volume.OnDeleteArchive))
	f.change(t, "pvc-1", func(v *volume.Volume) {
		v.State, v.ArchivePath, v.Ended = volume.StateArchiving, "archived-ns/a", v.Created
	})
	f.restart(t)
	wantStates(t, f, map[string]volume.State{"pvc-1": volume.StateArchived})
	wantExports(t, f, nil)
	if _, err := f.Create(t.Context(), specAt(t, "pvc-2", "archived-ns/a")); !errors.Is(err, volume.ErrExists) {
		t.Errorf("its place: got error %v, want %v", err, volume.ErrExists)
	}
	f.createAt(t, "pvc-3", "ns/a")
}

// Nobody is let to where something is on its way out of.
func TestArchivingThatFailsHoldsBothPlaces(t *testing.T) {
	f := newFixture(t)
	f.createAt(t, "pvc-1", "ns/a", onDelete(volume.OnDeleteArchive))
	f.change(t, "pvc-1", func(v *volume.Volume) {
		v.State, v.ArchivePath, v.Ended = volume.StateArchiving, "archived-ns/a", v.Created
	})
	f.journal.fail(errDisk, "Archive pvc-1")
	f.restart(t)
	for _, path := range []string{"ns/a", "archived-ns/a"} {
		s := specAt(t, "pvc-2", path)
		s.Existing = volume.ExistingReuse
		if _, err := f.Create(t.Context(), s); !errors.Is(err, volume.ErrExists) {
			t.Errorf("%s: got error %v, want %v", path, err, volume.ErrExists)
		}
	}
	f.journal.hook(nil)
	f.delete(t, "pvc-1") // the PersistentVolume is still there
	wantStates(t, f, map[string]volume.State{"pvc-1": volume.StateArchived})
	f.createAt(t, "pvc-2", "ns/a")
}

func TestArchivingNothingRemovesTheRecord(t *testing.T) {
	f := newFixture(t)
	f.createAt(t, "pvc-1", "a", onDelete(volume.OnDeleteArchive))
	f.journal.fail(volume.ErrNotFound, "Archive pvc-1")
	f.delete(t, "pvc-1")
	wantStates(t, f, map[string]volume.State{"pvc-1": volume.StateDiscarded})
}

// A directory that was there before its volume is somebody's data.
func TestScavengeLeavesWhatWasThereBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, 1)
		f.createAt(t, "pvc-1", "a")
		if err := f.backend.Backend.Release(t.Context(), parseName(t, "pvc-1")); err != nil {
			t.Fatal(err)
		}
		f.restart(t)
		f.createAt(t, "pvc-2", "a", existing(volume.ExistingReuse))
		time.Sleep(grace)
		f.journal.take()
		if n, err := f.Scavenge(t.Context(), cluster, grace, notWanted); n != 1 || err != nil {
			t.Errorf("scavenged %d, %v", n, err)
		}
		wantCalls(t, f, "Withdraw 1", "Release pvc-2")
		wantStates(t, f, nil)
		f.createAt(t, "pvc-3", "a", existing(volume.ExistingReuse))
	})
}

func TestScavengeKeepsWhatHasNoCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		s := spec(t, "pvc-1")
		s.Cluster = ""
		if _, err := f.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		time.Sleep(grace)
		if n, err := f.Scavenge(t.Context(), "", grace, notWanted); n != 0 || err != nil {
			t.Errorf("scavenged %d, %v", n, err)
		}
	})
}

func TestArchivesLists(t *testing.T) {
	f := newFixture(t)
	f.create(t, "pvc-live")
	f.archived(t, "pvc-old", "old")
	f.createAt(t, "pvc-kept", "kept", onDelete(volume.OnDeleteRetain))
	f.delete(t, "pvc-kept")
	f.backend.unreadable = []error{errDisk}
	var names []string
	unreadable := 0
	for v, err := range f.Archives(t.Context()) {
		if err != nil {
			unreadable++
			continue
		}
		names = append(names, v.Name.String())
	}
	if got := strings.Join(names, " "); got != "pvc-kept pvc-old" || unreadable != 1 {
		t.Errorf("listed %q and %d errors", got, unreadable)
	}
	for range f.Archives(t.Context()) {
		break
	}
}

func TestDeleteArchive(t *testing.T) {
	f := newFixture(t)
	f.create(t, "pvc-live")
	f.archived(t, "pvc-old", "old")
	f.createAt(t, "pvc-kept", "kept", onDelete(volume.OnDeleteRetain))
	f.delete(t, "pvc-kept")
	if err := f.DeleteArchive(t.Context(), parseName(t, "pvc-live"), cluster); !errors.Is(err, volume.ErrConflict) {
		t.Errorf("of a volume in use: %v", err)
	}
	if err := f.DeleteArchive(t.Context(), parseName(t, "pvc-old"), "cluster-2"); !errors.Is(err, volume.ErrForeign) {
		t.Errorf("by another cluster: %v", err)
	}
	f.journal.take()
	for _, name := range []string{"pvc-old", "pvc-kept", "pvc-old", "pvc-0"} {
		if err := f.DeleteArchive(t.Context(), parseName(t, name), cluster); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantCalls(t, f, "Withdraw 2", "Discard pvc-old", "Withdraw 3", "Discard pvc-kept")
	f.createAt(t, "pvc-2", "kept")
	f.createAt(t, "pvc-3", "archived-old")
}

// expiring makes archives of 1 MiB, a day one after the other: pvc-1 is the oldest.
func expiring(t *testing.T, n int) *fixture {
	t.Helper()
	f := newFixture(t)
	for i := range n {
		if i > 0 {
			time.Sleep(24 * time.Hour)
		}
		f.archived(t, fmt.Sprint("pvc-", i+1), fmt.Sprint(i))
	}
	f.createAt(t, "pvc-kept", "kept", onDelete(volume.OnDeleteRetain))
	f.delete(t, "pvc-kept")
	f.create(t, "pvc-live")
	return f
}

func TestArchivesExpire(t *testing.T) {
	for _, c := range []struct {
		name   string
		policy volume.ArchivePolicy
		left   string
	}{
		{"never", volume.ArchivePolicy{}, "1 2 3 4"},
		{"by age", volume.ArchivePolicy{MaxAge: 36 * time.Hour}, "3 4"},
		{"not quite", volume.ArchivePolicy{MaxAge: 72 * time.Hour}, "1 2 3 4"},
		{"by size", volume.ArchivePolicy{MaxBytes: 3 << 20}, "2 3 4"},
		{"all by size", volume.ArchivePolicy{MaxBytes: 1<<20 - 1}, ""},
		{"both", volume.ArchivePolicy{MaxAge: 36 * time.Hour, MaxBytes: 1 << 20}, "4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := expiring(t, 4)
				f.archives = c.policy
				f.restart(t)
				n, err := f.ExpireArchives(t.Context())
				if err != nil || n != 4-len(strings.Fields(c.left)) {
					t.Errorf("expired %d, %v", n, err)
				}
				var left []string
				for v, err := range f.Archives(t.Context()) {
					if err == nil && v.State == volume.StateArchived {
						left = append(left, v.Name.String()[len("pvc-"):])
					}
				}
				if got := strings.Join(left, " "); got != c.left {
					t.Errorf("left are %q, want %q", got, c.left)
				}
				if s := f.states(t); s["pvc-kept"] != volume.StateRetained || s["pvc-live"] != volume.StateReady {
					t.Errorf("others are now %v", s)
				}
			})
		})
	}
}

func TestArchivesAreMeasuredOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := expiring(t, 2)
		f.archives.MaxBytes = 1 << 30
		f.restart(t)
		f.journal.fail(errDisk, "Measure pvc-1") // counts as empty
		if n, err := f.ExpireArchives(t.Context()); n != 0 || !errors.Is(err, errDisk) {
			t.Errorf("expired %d, %v", n, err)
		}
		f.journal.hook(nil)
		f.journal.take()
		if n, err := f.ExpireArchives(t.Context()); n != 0 || err != nil {
			t.Errorf("expired %d, %v", n, err)
		}
		wantCalls(t, f, "Measure pvc-1", "Update pvc-1")
		if v := f.record(t, "pvc-2"); v.ArchiveBytes != 1<<20 {
			t.Errorf("counted as %d bytes", v.ArchiveBytes)
		}
	})
}

// What was restored since the list was read is nobody's archive.
func TestExpiryLosesAgainstRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := expiring(t, 1)
		f.archives.MaxBytes = 1
		f.restart(t)
		f.journal.hook(func(_ context.Context, call string) error {
			if call == "Measure pvc-1" {
				f.journal.hook(nil)
				f.createAt(t, "pvc-2", "again", from(t, "pvc-1"))
			}
			return nil
		})
		if n, err := f.ExpireArchives(t.Context()); n != 0 || err != nil && !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("expired %d, %v", n, err)
		}
		wantStates(t, f, map[string]volume.State{"pvc-2": volume.StateReady, "pvc-kept": volume.StateRetained, "pvc-live": volume.StateReady})
	})
}

func TestRunExpiresArchives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := expiring(t, 1)
		f.archives.MaxAge = 48 * time.Hour
		f.restart(t)
		f.run(t)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if s := f.states(t); s["pvc-1"] != volume.StateArchived {
			t.Errorf("too early: %v", s)
		}
		time.Sleep(26 * time.Hour)
		synctest.Wait()
		wantStates(t, f, map[string]volume.State{"pvc-kept": volume.StateRetained, "pvc-live": volume.StateReady})
	})
}

// plain is a backend that keeps nothing of deleted volumes.
type plain struct{ volume.Backend }

func TestPoolsWithoutArchives(t *testing.T) {
	f := newFixture(t)
	f.create(t, "pvc-old")
	f.change(t, "pvc-old", func(v *volume.Volume) { v.OnDelete = volume.OnDeleteArchive })
	p := f.pool()
	p.Backend = plain{f.backend}
	m := volume.NewManager(p)
	for what, change := range map[string]func(*volume.Spec){
		"archive": func(s *volume.Spec) { s.OnDelete = volume.OnDeleteArchive },
		"restore": func(s *volume.Spec) { s.From = &volume.Source{Archive: parseName(t, "pvc-old")} },
		"reuse":   func(s *volume.Spec) { s.Existing = volume.ExistingReuse },
	} {
		s := spec(t, "pvc-1")
		change(&s)
		if _, err := m.Create(t.Context(), s); !errors.Is(err, volume.ErrUnsupported) {
			t.Errorf("%s: got error %v, want %v", what, err, volume.ErrUnsupported)
		}
	}
	if err := m.Delete(t.Context(), parseName(t, "pvc-old"), cluster); !errors.Is(err, volume.ErrUnsupported) {
		t.Errorf("got error %v, want %v", err, volume.ErrUnsupported)
	}
	if n, err := m.ExpireArchives(t.Context()); n != 0 || err != nil {
		t.Errorf("expired %d, %v", n, err)
	}
	wantStates(t, f, map[string]volume.State{"pvc-old": volume.StateReady})
	// One that another version has begun to archive is not thrown away either.
	f.change(t, "pvc-old", func(v *volume.Volume) { v.State, v.ArchivePath = volume.StateArchiving, "archived-pvc-old" })
	if _, err := volume.NewManager(p).Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantStates(t, f, map[string]volume.State{"pvc-old": volume.StateArchiving})
}
