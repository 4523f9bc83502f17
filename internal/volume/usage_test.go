package volume_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
)

// mounting is a backend whose volumes have to be mounted.
type mounting struct{ *backend }

func (b mounting) Mount(ctx context.Context, v volume.Volume) error {
	return b.j.call(ctx, "Mount", v.Name)
}

// openMounting makes a Manager over what is there, with volumes to be mounted.
func (f *fixture) openMounting(t *testing.T) {
	t.Helper()
	f.open(t)
	p := f.pool()
	p.Backend = mounting{f.backend}
	f.Manager = volume.NewManager(p)
}

func TestVolumesAreMountedBeforeTheyAreExported(t *testing.T) {
	f := newFixture(t, 1, 2)
	f.openMounting(t)
	for range 2 { // the retry cannot know whether the first one got so far
		f.create(t, "pvc-1")
		calls := f.journal.take()
		if i := slices.Index(calls, "Mount pvc-1"); i < 0 || !slices.Contains(calls[i:], "Publish 1") {
			t.Errorf("calls are %q", calls)
		}
	}
	failed := errors.New("no capability")
	f.journal.fail(failed, "Mount pvc-2")
	if _, err := f.Create(t.Context(), spec(t, "pvc-2")); !errors.Is(err, failed) {
		t.Errorf("got error %v, want %v", err, failed)
	}
	if got := f.server.exports(); len(got) != 1 {
		t.Errorf("exported are %v: what is not mounted must not be", got)
	}
}

func TestRecoverMountsWhatItWantsExported(t *testing.T) {
	f := newFixture(t)
	first := f.create(t, "pvc-1")
	f.create(t, "pvc-2")
	f.openMounting(t)
	f.journal.fail(errors.New("no capability"), "Mount pvc-2")
	f.journal.take()
	got, err := f.Recover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]export.Export{first.AsExport(export.Clients{})}, got); diff != "" {
		t.Errorf("exports (-want +got):\n%s", diff)
	}
	if calls := f.journal.take(); !slices.Equal(calls, []string{"Mount pvc-1", "Mount pvc-2"}) {
		t.Errorf("calls are %q", calls)
	}
	if got := f.logged.text(); !strings.Contains(got, "volume=pvc-2") || !strings.Contains(got, "no capability") {
		t.Errorf("logged is %s", got)
	}
}

// metered is a backend that cannot tell what some volumes take up.
type metered struct {
	*backend
	of map[string]error
}

func (b metered) Usage(_ context.Context, v volume.Volume) (volume.Usage, error) {
	return volume.Usage{Bytes: 5}, b.of[v.Name.String()]
}

func TestReports(t *testing.T) {
	f := newFixture(t)
	for _, name := range []string{"pvc-1", "pvc-2", "pvc-3"} {
		f.create(t, name)
	}
	f.delete(t, "pvc-3")
	damaged, away := errors.New("damaged"), errors.New("away")
	f.backend.unreadable = []error{damaged}
	p := f.pool()
	p.Backend = metered{f.backend, map[string]error{"pvc-1": volume.ErrUnsupported, "pvc-2": away}}
	var names, counted []string
	var failed []error
	for r, err := range volume.NewManager(p).Reports(t.Context()) {
		if err != nil {
			failed = append(failed, err)
		}
		names = append(names, r.Name.String())
		if r.Usage != nil {
			counted = append(counted, r.Name.String())
		}
	}
	if !slices.Equal(names, []string{"", "pvc-1", "pvc-2", "pvc-3"}) || !slices.Equal(counted, []string{"pvc-3"}) {
		t.Errorf("reported are %q, with their usage %q", names, counted)
	}
	if !slices.Equal(failed, []error{damaged, away}) {
		t.Errorf("errors are %v", failed)
	}
	for range f.Reports(t.Context()) {
		break // must not panic
	}
}
