package volume_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/berth-storage/berth/internal/volume"
)

// specAt is what a claim asks for whose volume lies at path.
func specAt(t testing.TB, name, path string) volume.Spec {
	t.Helper()
	s := spec(t, name)
	var err error
	if s.Path, err = volume.ParseRelPath(path); err != nil {
		t.Fatal(err)
	}
	return s
}

func (f *fixture) createAt(t *testing.T, name, path string, how ...func(*volume.Spec)) volume.Volume {
	t.Helper()
	s := specAt(t, name, path)
	for _, h := range how {
		h(&s)
	}
	v, err := f.Create(t.Context(), s)
	if err != nil {
		t.Fatalf("Create(%s at %s): %v", name, path, err)
	}
	return v
}

func onDelete(o volume.OnDelete) func(*volume.Spec) {
	return func(s *volume.Spec) { s.OnDelete = o }
}

func existing(e volume.Existing) func(*volume.Spec) {
	return func(s *volume.Spec) { s.Existing = e }
}

// Whatever the policy, no volume lies inside of another.
func TestOverlapIsRefused(t *testing.T) {
	for _, c := range []struct{ first, second, says string }{
		{"a", "a/b", "lies inside that of"},
		{"a", "a/b/c", "lies inside that of"},
		{"a/b/c", "a", "lies around that of"},
		{"a/b/c", "a/b", "lies around that of"},
		{"a/b", "a/b", "is that of"},
		{"a/b", "a/c", ""},
		{"a/b", "a/bb", ""},
		{"a/b", "a/b-c", ""},
		{"a", "b/a", ""},
	} {
		for _, policy := range []volume.Existing{"", volume.ExistingRefuse, volume.ExistingReuse} {
			t.Run(fmt.Sprint(c.first, " then ", c.second, " ", policy), func(t *testing.T) {
				f := newFixture(t, 1, 2)
				f.createAt(t, "pvc-1", c.first, existing(policy))
				s := specAt(t, "pvc-2", c.second)
				s.Existing = policy
				for range 2 {
					_, err := f.Create(t.Context(), s)
					if c.says == "" && err != nil || c.says != "" && !errors.Is(err, volume.ErrExists) {
						t.Fatalf("got error %v", err)
					}
					if c.says != "" && (!strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "pvc-1 of claim default/claim-pvc-1")) {
						t.Errorf("the error does not say what is in the way: %v", err)
					}
				}
				if c.says != "" {
					// What was refused holds nothing, and what is gone is in nobody's way.
					f.delete(t, "pvc-1")
					f.createAt(t, "pvc-2", c.second)
				}
			})
		}
	}
}

func TestOverlapIsRefusedAfterARestart(t *testing.T) {
	f := newFixture(t)
	f.createAt(t, "pvc-1", "ns/a")
	f.createAt(t, "pvc-2", "ns/b")
	f.change(t, "pvc-2", func(v *volume.Volume) { v.State = volume.StateCreating })
	f.restart(t)
	for _, path := range []string{"ns/a", "ns/b", "ns", "ns/a/c"} {
		if _, err := f.Create(t.Context(), specAt(t, "pvc-3", path)); !errors.Is(err, volume.ErrExists) {
			t.Errorf("%s: got error %v, want %v", path, err, volume.ErrExists)
		}
	}
	f.createAt(t, "pvc-2", "ns/b") // goes on
}

// A volume whose record cannot be used keeps its place.
func TestOverlapWithAnUnusableVolumeIsRefused(t *testing.T) {
	f := newFixture(t)
	f.createAt(t, "pvc-1", "ns/a")
	f.createAt(t, "pvc-2", "ns/b")
	f.change(t, "pvc-2", func(v *volume.Volume) { v.Export.ID = 1 })
	f.restart(t)
	if _, err := f.Create(t.Context(), specAt(t, "pvc-3", "ns/b/c")); !errors.Is(err, volume.ErrExists) {
		t.Errorf("got error %v, want %v", err, volume.ErrExists)
	}
}

func TestOfOverlappingClaimsAtOnceOneWins(t *testing.T) {
	f := newFixture(t)
	var made, refused sync.Map
	var done sync.WaitGroup
	for i := range 20 {
		done.Go(func() {
			name, path := fmt.Sprint("pvc-", i), "a"+strings.Repeat("/a", i%5)
			_, err := f.Create(t.Context(), specAt(t, name, path))
			switch {
			case err == nil:
				made.Store(name, path)
			case errors.Is(err, volume.ErrExists):
				refused.Store(name, path)
			default:
				t.Error(err)
			}
		})
	}
	done.Wait()
	count := func(m *sync.Map) (n int) {
		m.Range(func(any, any) bool { n++; return true })
		return n
	}
	if count(&made) != 1 || count(&refused) != 19 {
		t.Errorf("%d made, %d refused", count(&made), count(&refused))
	}
}

// Records that overlap, of which an older version or a person may be the author.
func TestAVolumeWithAnotherInItIsNotDeleted(t *testing.T) {
	f := newFixture(t)
	f.createAt(t, "pvc-out", "ns")
	f.createAt(t, "pvc-in", "elsewhere")
	f.change(t, "pvc-in", func(v *volume.Volume) { v.Path = specAt(t, "x", "ns/in").Path })
	f.restart(t)
	if !strings.Contains(f.logged.text(), "two volumes lie in each other") {
		t.Errorf("nothing is said of it: %s", f.logged.text())
	}
	for _, how := range []volume.OnDelete{volume.OnDeleteDelete, volume.OnDeleteArchive} {
		f.change(t, "pvc-out", func(v *volume.Volume) { v.OnDelete = how })
		if err := f.Delete(t.Context(), parseName(t, "pvc-out"), cluster); !errors.Is(err, volume.ErrConflict) {
			t.Errorf("%s: got error %v, want %v", how, err, volume.ErrConflict)
		}
	}
	wantCalls(t, f)
	f.delete(t, "pvc-in")
	f.delete(t, "pvc-out")
}

// What lies at a path may be the volume of a record that cannot be read.
func TestNothingIsTakenOverNextToDamagedRecords(t *testing.T) {
	f := newFixture(t)
	f.createAt(t, "pvc-1", "a")
	if err := f.backend.Backend.Release(t.Context(), parseName(t, "pvc-1")); err != nil {
		t.Fatal(err)
	}
	f.backend.unreadable = []error{errDisk}
	f.restart(t)
	s := specAt(t, "pvc-2", "a")
	s.Existing = volume.ExistingReuse
	if _, err := f.Create(t.Context(), s); !errors.Is(err, volume.ErrForeign) {
		t.Errorf("got error %v, want %v", err, volume.ErrForeign)
	}
	f.backend.unreadable = nil
	f.restart(t)
	if v := f.createAt(t, "pvc-2", "a", existing(volume.ExistingReuse)); !v.TookOver {
		t.Error("it was not taken over")
	}
}
