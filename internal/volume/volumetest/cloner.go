package volumetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/berth-storage/berth/internal/volume"
)

// cloner is a backend that can clone.
type cloner interface {
	volume.Backend
	volume.Cloner
}

// runCloner runs the contract of volume.Cloner, if the backend is one.
func (s Suite) runCloner(t *testing.T) {
	for _, c := range []struct {
		name string
		test func(*testing.T, cloner)
	}{
		{"Clone", clone},
		{"CloneAgain", cloneAgain},
		{"CloneOfMissing", cloneOfMissing},
		{"CloneInvalid", cloneInvalid},
		{"CloneOutlivesItsSource", cloneOutlivesItsSource},
		{"ChainOfClones", chainOfClones},
		{"ReopenedClone", s.reopenedClone},
	} {
		t.Run(c.name, func(t *testing.T) {
			if b, ok := s.Open(t).(cloner); ok {
				c.test(t, b)
			}
		})
	}
}

// CloneSpec is a valid spec of a clone of source.
func CloneSpec(t testing.TB, name, source string) volume.Spec {
	t.Helper()
	s := Spec(t, name)
	s.From = &volume.Source{Volume: Spec(t, source).Name}
	return s
}

func cloneOf(t *testing.T, b cloner, name, source string) volume.Volume {
	t.Helper()
	v, err := b.Clone(t.Context(), CloneSpec(t, name, source), nil)
	if err != nil {
		t.Fatalf("Clone(%s) of %s: %v", name, source, err)
	}
	return v
}

func clone(t *testing.T, b cloner) {
	source := create(t, b, Spec(t, "pvc-1"))
	mark(t, source)
	v := cloneOf(t, b, "pvc-2", "pvc-1")
	if v.State != volume.StateReady || v.ClonedFrom != source.Name || !v.Is(Spec(t, "pvc-2")) || v.Dir == source.Dir {
		t.Errorf("cloned as %+v", v)
	}
	wantSame(t, "Get of a clone", get(t, b, v.Name), v)
	wantSame(t, "Get of its source", get(t, b, source.Name), source)
	wantMark(t, v, "pvc-1")
	wantLimit(t, b, v)
	mark(t, v) // which its source must not see
	wantMark(t, v, "pvc-2")
	wantMark(t, source, "pvc-1")
	wantNames(t, b, "pvc-1", "pvc-2")
}

func cloneAgain(t *testing.T, b cloner) {
	mark(t, create(t, b, Spec(t, "pvc-1")))
	first := cloneOf(t, b, "pvc-2", "pvc-1")
	mark(t, first)
	wantSame(t, "second Clone", cloneOf(t, b, "pvc-2", "pvc-1"), first)
	wantMark(t, first, "pvc-2") // and not what its source holds
	other := CloneSpec(t, "pvc-2", "pvc-1")
	other.Claim.UID = "somebody-else"
	_, err := b.Clone(t.Context(), other, nil)
	wantError(t, "Clone to a name that is taken", err, volume.ErrExists)
}

func cloneOfMissing(t *testing.T, b cloner) {
	_, err := b.Clone(t.Context(), CloneSpec(t, "pvc-2", "pvc-1"), nil)
	wantError(t, "Clone of nothing", err, volume.ErrNotFound)
	create(t, b, Spec(t, "pvc-1"))
	if err := b.Discard(t.Context(), Spec(t, "pvc-1").Name); err != nil {
		t.Fatal(err)
	}
	_, err = b.Clone(t.Context(), CloneSpec(t, "pvc-2", "pvc-1"), nil)
	wantError(t, "Clone of a discarded volume", err, volume.ErrNotFound)
	wantNames(t, b, "pvc-1")
}

func cloneInvalid(t *testing.T, b cloner) {
	_, err := b.Clone(t.Context(), Spec(t, "pvc-2"), nil)
	wantError(t, "Clone of no volume", err, volume.ErrInvalid)
	ended, end := context.WithCancel(t.Context())
	end()
	create(t, b, Spec(t, "pvc-1"))
	_, err = b.Clone(ended, CloneSpec(t, "pvc-2", "pvc-1"), nil)
	wantError(t, "Clone with an ended context", err, context.Canceled)
	wantNames(t, b, "pvc-1")
}

func discard(t *testing.T, b volume.Backend, name string) {
	t.Helper()
	if err := b.Discard(t.Context(), Spec(t, name).Name); err != nil {
		t.Fatal(err)
	}
}

func cloneOutlivesItsSource(t *testing.T, b cloner) {
	mark(t, create(t, b, Spec(t, "pvc-1")))
	v := cloneOf(t, b, "pvc-2", "pvc-1")
	discard(t, b, "pvc-1")
	for range 2 {
		err := b.Purge(t.Context(), Spec(t, "pvc-1").Name)
		if err == nil { // the clone needs nothing of it any more
			break
		}
		if !errors.Is(err, volume.ErrCloned) || !errors.Is(err, volume.ErrBusy) {
			t.Fatalf("Purge of a volume that has a clone: %v, want %v", err, volume.ErrCloned)
		}
	}
	wantMark(t, v, "pvc-1")
	wantSame(t, "Get of the clone", get(t, b, v.Name), v)
	purgeAll(t, b, "pvc-2", "pvc-1")
}

// purgeAll discards and purges volumes, in this order, and wants nothing left.
func purgeAll(t *testing.T, b volume.Backend, names ...string) {
	t.Helper()
	for _, name := range names {
		n := Spec(t, name).Name
		if err := b.Discard(t.Context(), n); err != nil && !errors.Is(err, volume.ErrNotFound) {
			t.Fatal(err)
		}
		if err := b.Purge(t.Context(), n); err != nil && !errors.Is(err, volume.ErrNotFound) {
			t.Fatal(err)
		}
	}
	wantNames(t, b)
}

func chainOfClones(t *testing.T, b cloner) {
	const length = 4
	mark(t, create(t, b, Spec(t, "pvc-0")))
	for i := 1; i < length; i++ {
		v := cloneOf(t, b, fmt.Sprint("pvc-", i), fmt.Sprint("pvc-", i-1))
		wantMark(t, v, "pvc-0")
	}
	var last []string
	for i := range length {
		name := fmt.Sprint("pvc-", i)
		last = append([]string{name}, last...)
		discard(t, b, name)
		if err := b.Purge(t.Context(), Spec(t, name).Name); err != nil && !errors.Is(err, volume.ErrCloned) {
			t.Fatal(err)
		}
	}
	purgeAll(t, b, last...)
}

func (s Suite) reopenedClone(t *testing.T, b cloner) {
	create(t, b, Spec(t, "pvc-1"))
	v := cloneOf(t, b, "pvc-2", "pvc-1")
	reopened := s.Reopen(t, b)
	wantSame(t, "after reopening", get(t, reopened, v.Name), v)
	discard(t, reopened, "pvc-1")
	purgeAll(t, reopened, "pvc-2", "pvc-1")
}
