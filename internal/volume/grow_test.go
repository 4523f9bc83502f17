package volume_test

import (
	"errors"
	"testing"

	"github.com/berth-storage/berth/internal/volume"
)

func TestGrow(t *testing.T) {
	f := newFixture(t)
	f.create(t, "pvc-1")
	n := parseName(t, "pvc-1")
	for _, c := range []struct{ ask, want int64 }{
		{2 << 20, 2 << 20},
		{2 << 20, 2 << 20}, // again
		{1 << 20, 2 << 20}, // never smaller
	} {
		v, err := f.Grow(t.Context(), n, cluster, c.ask)
		if err != nil || v.Size != c.want || v.Limit == volume.LimitNone {
			t.Errorf("Grow to %d gave %d bytes, limit %q, %v", c.ask, v.Size, v.Limit, err)
		}
	}
	if v, err := f.backend.Backend.Get(t.Context(), n); err != nil || v.Size != 2<<20 {
		t.Errorf("the record says %d bytes, %v", v.Size, err)
	}
	// What was promised counts for what can be promised.
	f.backend.fixed = &volume.Capacity{Total: 10 << 20, Available: 10 << 20}
	if r, err := f.Room(t.Context()); err != nil || r.Unpromised != 8<<20 {
		t.Errorf("%d bytes are unpromised, %v", r.Unpromised, err)
	}
}

func TestGrowRefuses(t *testing.T) {
	f := newFixture(t)
	f.create(t, "pvc-1")
	f.create(t, "pvc-cut")
	f.change(t, "pvc-cut", func(v *volume.Volume) { v.State = volume.StateCreating })
	f.backend.fixed = &volume.Capacity{Total: 10 << 20, Available: 1 << 20}
	for what, c := range map[string]struct {
		name, cluster string
		want          error
	}{
		"missing":           {"pvc-0", cluster, volume.ErrNotFound},
		"another's":         {"pvc-1", "cluster-2", volume.ErrForeign},
		"not ready":         {"pvc-cut", cluster, volume.ErrConflict},
		"more than is free": {"pvc-1", cluster, volume.ErrNoSpace},
	} {
		if _, err := f.Grow(t.Context(), parseName(t, c.name), c.cluster, 3<<20); !errors.Is(err, c.want) {
			t.Errorf("%s: got error %v, want %v", what, err, c.want)
		}
	}
	if v, err := f.backend.Backend.Get(t.Context(), parseName(t, "pvc-1")); err != nil || v.Size != 1<<20 {
		t.Errorf("pvc-1 has %d bytes, %v", v.Size, err)
	}
}
