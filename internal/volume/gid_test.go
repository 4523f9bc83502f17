package volume_test

import (
	"errors"
	"testing"

	"github.com/berth-storage/berth/internal/volume"
)

func TestParseGIDRange(t *testing.T) {
	for text, want := range map[string]volume.GIDRange{
		"5000-5999": {First: 5000, Last: 5999}, "7-7": {First: 7, Last: 7}, "1-4294967294": {First: 1, Last: 4294967294},
	} {
		if got, err := volume.ParseGIDRange(text); err != nil || got != want {
			t.Errorf("ParseGIDRange(%q): got %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "5000", "5000-", "-5", "0-5", "9-8", "1-4294967295", "a-b", "1-2-3", "1 - 2"} {
		if got, err := volume.ParseGIDRange(text); err == nil {
			t.Errorf("ParseGIDRange(%q): got %+v, want an error", text, got)
		}
	}
}

// createIn makes a volume with a group of its own.
func (f *fixture) createIn(t *testing.T, name string, r volume.GIDRange) (volume.Volume, error) {
	t.Helper()
	s := spec(t, name)
	s.GIDs = r
	return f.Create(t.Context(), s)
}

func TestEachVolumeHasAGroupOfItsOwn(t *testing.T) {
	f := newFixture(t)
	r := volume.GIDRange{First: 5000, Last: 5002}
	s := spec(t, "pvc-fixed")
	s.Owner.GID = 5001 // by its class
	if _, err := f.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	seen := map[uint32]string{5001: "pvc-fixed"}
	for _, name := range []string{"pvc-1", "pvc-2"} {
		v, err := f.createIn(t, name, r)
		if err != nil {
			t.Fatal(err)
		}
		if other := seen[v.Owner.GID]; other != "" || v.Owner.GID < r.First || v.Owner.GID > r.Last {
			t.Errorf("%s has group %d, like %q", name, v.Owner.GID, other)
		}
		seen[v.Owner.GID] = name
		if again, err := f.createIn(t, name, r); err != nil || again.Owner != v.Owner {
			t.Errorf("%s made again: %+v, %v; want %+v", name, again.Owner, err, v.Owner)
		}
	}
	if _, err := f.createIn(t, "pvc-3", r); !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("a fourth of three groups: got error %v, want %v", err, volume.ErrNoSpace)
	}
	s = spec(t, "pvc-3")
	s.GIDs, s.Owner.GID = r, 5001 // the pool's own group is another volume's, too
	for range 2 {
		if v, err := f.Create(t.Context(), s); !errors.Is(err, volume.ErrNoSpace) {
			t.Errorf("tried again: got group %d, %v; want %v", v.Owner.GID, err, volume.ErrNoSpace)
		}
	}
	f.open(t)
	if _, err := f.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.createIn(t, "pvc-3", r); !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("after a restart: got error %v, want %v", err, volume.ErrNoSpace)
	}
	f.delete(t, "pvc-1")
	v, err := f.createIn(t, "pvc-3", r)
	if err != nil || seen[v.Owner.GID] != "pvc-1" {
		t.Errorf("got group %d, %v; want that of the deleted one", v.Owner.GID, err)
	}
}
