package volumetest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-storage/berth/internal/volume"
)

// filler is a backend whose volumes can be copied to and from others.
type filler interface {
	volume.Backend
	volume.Filler
}

// runFiller runs the contract of volume.Filler and volume.Reader, if the backend is a Filler.
func (s Suite) runFiller(t *testing.T) {
	for _, c := range []struct {
		name string
		test func(*testing.T, filler)
	}{
		{"Fill", fill},
		{"FillAgain", fillAgain},
		{"FillAfterItsSourceWent", fillAfterItsSourceWent},
		{"FillInvalid", fillInvalid},
		{"OpenTree", openTree},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, ok := s.Open(t).(filler)
			if !ok {
				return
			}
			if _, err := b.Fill(t.Context(), CopySpec(t, "pvc-0"), content(t), nil); errors.Is(err, volume.ErrUnsupported) {
				wantNames(t, b)
				return
			}
			if n := Spec(t, "pvc-0").Name; errors.Join(b.Discard(t.Context(), n), b.Purge(t.Context(), n)) != nil {
				t.Fatal("the first copy cannot be deleted")
			}
			c.test(t, b)
		})
	}
}

// CopySpec is a valid spec of a copy of volume pvc-1 of another pool.
func CopySpec(t testing.TB, name string) volume.Spec {
	t.Helper()
	s := Spec(t, name)
	s.From = &volume.Source{Pool: "elsewhere", Volume: Spec(t, "pvc-1").Name}
	return s
}

// content is what mark writes to pvc-1.
func content(t *testing.T) volume.Content {
	t.Helper()
	at := t.TempDir()
	if err := os.WriteFile(filepath.Join(at, "content"), []byte("pvc-1"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return volume.Content{Tree: d, Still: func(context.Context) error { return nil }}
}

func fillWith(t *testing.T, b filler, name string) volume.Volume {
	t.Helper()
	v, err := b.Fill(t.Context(), CopySpec(t, name), content(t), nil)
	if err != nil {
		t.Fatalf("Fill(%s): %v", name, err)
	}
	return v
}

func fill(t *testing.T, b filler) {
	v := fillWith(t, b, "pvc-2")
	s := CopySpec(t, "pvc-2")
	if want := (volume.Origin{Pool: "elsewhere", Volume: s.From.Volume}); v.State != volume.StateReady || v.CopiedFrom != want ||
		v.ClonedFrom != (volume.Name{}) || !v.Is(s) || v.Owner != s.Owner {
		t.Errorf("filled as %+v", v)
	}
	wantSame(t, "Get of a copy", get(t, b, v.Name), v)
	wantMark(t, v, "pvc-1")
	wantLimit(t, b, v)
	wantNames(t, b, "pvc-2")
}

func fillAgain(t *testing.T, b filler) {
	first := fillWith(t, b, "pvc-2")
	mark(t, first)
	wantSame(t, "second Fill", fillWith(t, b, "pvc-2"), first)
	wantMark(t, first, "pvc-2") // and not what its source holds
	other := CopySpec(t, "pvc-2")
	other.Claim.UID = "somebody-else"
	_, err := b.Fill(t.Context(), other, content(t), nil)
	wantError(t, "Fill of a name that is taken", err, volume.ErrExists)
	create(t, b, Spec(t, "pvc-3"))
	_, err = b.Fill(t.Context(), CopySpec(t, "pvc-3"), content(t), nil)
	wantError(t, "Fill of what is an empty volume", err, volume.ErrExists)
}

// What was copied is not known to be all. The next try has nothing of it.
func fillAfterItsSourceWent(t *testing.T, b filler) {
	gone := errors.New("gone")
	c := content(t)
	if err := os.WriteFile(filepath.Join(c.Tree.Name(), "half"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.Still = func(context.Context) error { return gone }
	for range 2 {
		_, err := b.Fill(t.Context(), CopySpec(t, "pvc-2"), c, nil)
		wantError(t, "Fill from what is gone", err, gone)
		if v, err := b.Get(t.Context(), Spec(t, "pvc-2").Name); err == nil && v.State != volume.StateCreating {
			t.Fatalf("it became %+v", v)
		}
	}
	v := fillWith(t, b, "pvc-2")
	wantMark(t, v, "pvc-1")
	if _, err := os.Lstat(filepath.Join(v.Dir, "half")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something of an earlier try is left: %v", err)
	}
	wantNames(t, b, "pvc-2")
}

func fillInvalid(t *testing.T, b filler) {
	_, err := b.Fill(t.Context(), Spec(t, "pvc-2"), content(t), nil)
	wantError(t, "Fill from nothing", err, volume.ErrInvalid)
	ended, end := context.WithCancel(t.Context())
	end()
	_, err = b.Fill(ended, CopySpec(t, "pvc-2"), content(t), nil)
	wantError(t, "Fill with an ended context", err, context.Canceled)
	_, err = b.Create(t.Context(), CopySpec(t, "pvc-2"))
	wantError(t, "Create of a copy", err, volume.ErrUnsupported)
	wantNames(t, b)
}

func openTree(t *testing.T, b filler) {
	r, ok := b.(volume.Reader)
	if !ok {
		return
	}
	v := fillWith(t, b, "pvc-2")
	d, err := r.OpenTree(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	copied, err := b.Fill(t.Context(), CopySpec(t, "pvc-3"), volume.Content{Tree: d, Still: func(context.Context) error { return nil }}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantMark(t, copied, "pvc-1")
}
