// Package volumetest is the contract that every backend passes. A backend adopts
// it by giving a function that opens an empty pool; see Suite.
package volumetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
)

// Suite is the contract for one kind of backend.
type Suite struct {
	// Open makes an empty pool.
	Open func(t *testing.T) volume.Backend
	// Reopen opens b's pool again, as a new process would.
	Reopen func(t *testing.T, b volume.Backend) volume.Backend
}

// Run runs the contract.
func (s Suite) Run(t *testing.T) {
	for _, c := range []struct {
		name string
		test func(*testing.T, volume.Backend)
	}{
		{"CreateGet", createGet},
		{"CreateAgain", createAgain},
		{"CreateOfAnotherClaim", createOfAnotherClaim},
		{"CreateInvalid", createInvalid},
		{"CreateFromUnknown", createFromUnknown},
		{"GetMissing", getMissing},
		{"Update", update},
		{"UpdateSize", updateSize},
		{"LimitsAreReal", limitsAreReal},
		{"InodesAreLimitedOrRefused", inodesAreLimitedOrRefused},
		{"List", list},
		{"DiscardPurge", discardPurge},
		{"PurgeOfLiveVolume", purgeOfLiveVolume},
		{"EndedContext", endedContext},
		{"ManyAtOnce", manyAtOnce},
		{"NestedPaths", nestedPaths},
		{"Retain", retain},
		{"Reopen", s.reopen},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, s.Open(t)) })
	}
	s.runArchiver(t)
	s.runCloner(t)
	s.runSnapshotter(t)
	s.runFiller(t)
}

// Spec is a valid spec of a volume called name.
func Spec(t testing.TB, name string) volume.Spec {
	t.Helper()
	n, err := volume.ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	return volume.Spec{
		Name: n, Path: n.RelPath(), Size: 1 << 20, Cluster: "cluster-1", Reclaim: volume.ReclaimDelete,
		Claim: volume.Claim{Namespace: "default", Name: "claim-" + name, UID: "uid-" + name},
		Owner: volume.Owner{Mode: 0o2770, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())},
		Export: volume.ExportRef{
			ID: 7, FSID: export.NewFSID(name), Path: "/pool/" + name, Squash: export.SquashNone,
		},
	}
}

func create(t *testing.T, b volume.Backend, s volume.Spec) volume.Volume {
	t.Helper()
	v, err := b.Create(t.Context(), s)
	if err != nil {
		t.Fatalf("Create(%s): %v", s.Name, err)
	}
	return v
}

func get(t *testing.T, b volume.Backend, n volume.Name) volume.Volume {
	t.Helper()
	v, err := b.Get(t.Context(), n)
	if err != nil {
		t.Fatalf("Get(%s): %v", n, err)
	}
	return v
}

func wantError(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got error %v, want %v", what, got, want)
	}
}

func wantSame(t *testing.T, what string, got, want volume.Volume) {
	t.Helper()
	opts := cmp.AllowUnexported(volume.Name{}, volume.RelPath{})
	if diff := cmp.Diff(want, got, opts); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func createGet(t *testing.T, b volume.Backend) {
	s := Spec(t, "pvc-1")
	v := create(t, b, s)
	if v.State != volume.StateReady {
		t.Errorf("state is %s, want ready", v.State)
	}
	if v.Dir == "" {
		t.Error("no Dir")
	}
	if v.Created.IsZero() {
		t.Error("no time of creation")
	}
	if got, want := v.Owner, s.Owner; got.Mode != want.Mode || want.UID != 0 && got.UID != want.UID || want.GID != 0 && got.GID != want.GID {
		t.Errorf("owner is %+v, asked for %+v", got, want)
	}
	if v.Size != s.Size || v.Export != s.Export || v.Reclaim != s.Reclaim || !v.Is(s) {
		t.Errorf("got %+v, asked for %+v", v, s)
	}
	wantSame(t, "Get after Create", get(t, b, s.Name), v)
}

func createAgain(t *testing.T, b volume.Backend) {
	s := Spec(t, "pvc-1")
	first := create(t, b, s)
	wantSame(t, "second Create", create(t, b, s), first)
}

func createOfAnotherClaim(t *testing.T, b volume.Backend) {
	s := Spec(t, "pvc-1")
	first := create(t, b, s)
	other := s
	other.Claim.UID = "somebody-else"
	_, err := b.Create(t.Context(), other)
	wantError(t, "Create of a name that is taken", err, volume.ErrExists)
	other = s
	other.Cluster = "cluster-2"
	_, err = b.Create(t.Context(), other)
	wantError(t, "Create of a name that another cluster has", err, volume.ErrExists)
	wantSame(t, "the first volume", get(t, b, s.Name), first)
}

func createInvalid(t *testing.T, b volume.Backend) {
	for what, spoil := range map[string]func(*volume.Spec){
		"no name":       func(s *volume.Spec) { s.Name = volume.Name{} },
		"no path":       func(s *volume.Spec) { s.Path = volume.RelPath{} },
		"size 0":        func(s *volume.Spec) { s.Size = 0 },
		"negative size": func(s *volume.Spec) { s.Size = -1 },
		"no inodes":     func(s *volume.Spec) { s.Inodes = -1 },
		"no claim":      func(s *volume.Spec) { s.Claim.UID = "" },
		"wild mode":     func(s *volume.Spec) { s.Owner.Mode = 0o10777 },
	} {
		s := Spec(t, "pvc-1")
		spoil(&s)
		_, err := b.Create(t.Context(), s)
		wantError(t, what, err, volume.ErrInvalid)
	}
	wantNames(t, b)
}

func createFromUnknown(t *testing.T, b volume.Backend) {
	s := Spec(t, "pvc-1")
	s.From = &volume.Source{Volume: Spec(t, "pvc-0").Name}
	if _, err := b.Create(t.Context(), s); err == nil {
		t.Error("Create from a missing source succeeded: that is an empty volume where data was expected")
	}
	wantNames(t, b)
}

func getMissing(t *testing.T, b volume.Backend) {
	n := Spec(t, "pvc-1").Name
	_, err := b.Get(t.Context(), n)
	wantError(t, "Get", err, volume.ErrNotFound)
	wantError(t, "Discard", b.Discard(t.Context(), n), volume.ErrNotFound)
	wantError(t, "Purge", b.Purge(t.Context(), n), volume.ErrNotFound)
	_, err = b.Update(t.Context(), volume.Volume{Name: n})
	wantError(t, "Update", err, volume.ErrNotFound)
}

func update(t *testing.T, b volume.Backend) {
	old := create(t, b, Spec(t, "pvc-1"))
	changed := old
	changed.Published = true
	got, err := b.Update(t.Context(), changed)
	if err != nil {
		t.Fatal(err)
	}
	if got.Rev <= old.Rev || !got.Published {
		t.Errorf("Update of revision %d returned revision %d, published %v", old.Rev, got.Rev, got.Published)
	}
	wantSame(t, "Get after Update", get(t, b, old.Name), got)

	_, err = b.Update(t.Context(), old)
	wantError(t, "Update of an old revision", err, volume.ErrConflict)
	wantSame(t, "Get after the refused Update", get(t, b, old.Name), got)
}

func updateSize(t *testing.T, b volume.Backend) {
	old := create(t, b, Spec(t, "pvc-1"))
	changed := old
	changed.Size *= 2
	got, err := b.Update(t.Context(), changed)
	if err != nil {
		t.Fatal(err)
	}
	if got.Size < changed.Size || got.Limit != old.Limit || got.QuotaID != old.QuotaID {
		t.Errorf("asked for %d bytes, got %+v", changed.Size, got)
	}
	wantSame(t, "Get after Update", get(t, b, old.Name), got)
	wantLimit(t, b, got)
}

// wantLimit says whether the storage enforces what v's record tells.
func wantLimit(t *testing.T, b volume.Backend, v volume.Volume) {
	t.Helper()
	meter, ok := b.(volume.UsageMeter)
	if !ok && v.Limit == volume.LimitNone {
		return
	}
	if !ok {
		t.Fatalf("the limit %q of %s cannot be seen", v.Limit, v.Name)
	}
	u, err := meter.Usage(t.Context(), v)
	if v.Limit == volume.LimitNone && errors.Is(err, volume.ErrUnsupported) {
		return
	}
	if err != nil {
		t.Fatalf("Usage(%s): %v", v.Name, err)
	}
	if v.Limit == volume.LimitNone {
		v.Size = 0
	}
	if u.LimitBytes != uint64(v.Size) || u.LimitInodes != uint64(v.Inodes) {
		t.Errorf("%s of %d bytes and %d inodes is limited to %d and %d", v.Name, v.Size, v.Inodes, u.LimitBytes, u.LimitInodes)
	}
}

func limitsAreReal(t *testing.T, b volume.Backend) {
	for i, size := range []int64{1, 1000, 1 << 20, 1<<20 + 1, 1<<40 - 1} {
		s := Spec(t, fmt.Sprint("pvc-", i))
		s.Size = size
		v := create(t, b, s)
		if over := v.Size - size; over < 0 || over >= 1<<16 {
			t.Errorf("asked for %d bytes, got %d", size, v.Size)
		}
		wantLimit(t, b, v)
	}
}

func inodesAreLimitedOrRefused(t *testing.T, b volume.Backend) {
	s := Spec(t, "pvc-1")
	s.Inodes = 1000
	v, err := b.Create(t.Context(), s)
	if errors.Is(err, volume.ErrUnsupported) {
		wantNames(t, b)
		s.Inodes = 0
		v = create(t, b, s)
		v.Inodes = 1000
		_, err = b.Update(t.Context(), v)
		wantError(t, "Update with inodes", err, volume.ErrUnsupported)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if v.Inodes != s.Inodes || v.Limit == volume.LimitNone {
		t.Errorf("asked for %d inodes, got %d, limited by %q", s.Inodes, v.Inodes, v.Limit)
	}
	wantLimit(t, b, v)
	v.Inodes = 2000
	if v, err = b.Update(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	wantLimit(t, b, v)
}

func list(t *testing.T, b volume.Backend) {
	wantNames(t, b)
	for _, name := range []string{"pvc-1", "pvc-2", "pvc-3"} {
		create(t, b, Spec(t, name))
	}
	if err := b.Discard(t.Context(), Spec(t, "pvc-2").Name); err != nil {
		t.Fatal(err)
	}
	for v, err := range b.List(t.Context()) {
		if err != nil {
			t.Errorf("List: %v", err)
			continue
		}
		wantSame(t, "listed volume", v, get(t, b, v.Name))
	}
	wantNames(t, b, "pvc-1", "pvc-2", "pvc-3")
	for range b.List(t.Context()) {
		break // must not panic
	}
}

func wantNames(t *testing.T, b volume.Backend, want ...string) {
	t.Helper()
	got := map[string]bool{}
	for v, err := range b.List(t.Context()) {
		if err != nil {
			t.Errorf("List: %v", err)
		}
		if got[v.Name.String()] {
			t.Errorf("%s is listed twice", v.Name)
		}
		got[v.Name.String()] = true
	}
	if len(got) != len(want) {
		t.Errorf("listed %v, want %v", got, want)
	}
	for _, name := range want {
		if !got[name] {
			t.Errorf("%s is not listed", name)
		}
	}
}

func discardPurge(t *testing.T, b volume.Backend) {
	s := Spec(t, "pvc-1")
	create(t, b, s)
	for range 2 { // the second one finishes what the first may have left
		if err := b.Discard(t.Context(), s.Name); err != nil {
			t.Fatal(err)
		}
		if v := get(t, b, s.Name); v.State != volume.StateDiscarded || v.Export != s.Export {
			t.Errorf("after Discard: state %s, export %+v", v.State, v.Export)
		}
	}
	_, err := b.Create(t.Context(), s)
	wantError(t, "Create of a discarded volume", err, volume.ErrBusy)
	if err := b.Purge(t.Context(), s.Name); err != nil {
		t.Fatal(err)
	}
	_, err = b.Get(t.Context(), s.Name)
	wantError(t, "Get after Purge", err, volume.ErrNotFound)
	wantNames(t, b)
	create(t, b, s) // the name is free again
}

func purgeOfLiveVolume(t *testing.T, b volume.Backend) {
	v := create(t, b, Spec(t, "pvc-1"))
	wantError(t, "Purge of a volume that is in use", b.Purge(t.Context(), v.Name), volume.ErrConflict)
	wantSame(t, "the volume", get(t, b, v.Name), v)
}

func endedContext(t *testing.T, b volume.Backend) {
	ended, end := context.WithCancel(t.Context())
	end()
	s := Spec(t, "pvc-1")
	if _, err := b.Create(ended, s); !errors.Is(err, context.Canceled) {
		t.Errorf("Create with an ended context: got error %v, want %v", err, context.Canceled)
	}
	wantNames(t, b)
	create(t, b, s)
	if err := b.Discard(ended, s.Name); !errors.Is(err, context.Canceled) {
		t.Errorf("Discard with an ended context: got error %v, want %v", err, context.Canceled)
	}
	if v := get(t, b, s.Name); v.State != volume.StateReady {
		t.Errorf("a Discard with an ended context left the volume %s", v.State)
	}
}

func manyAtOnce(t *testing.T, b volume.Backend) {
	var done sync.WaitGroup
	for i := range 32 {
		done.Go(func() {
			s := Spec(t, fmt.Sprintf("pvc-%d", i))
			if _, err := b.Create(t.Context(), s); err != nil {
				t.Errorf("Create(%s): %v", s.Name, err)
			}
			if i%2 == 0 {
				return
			}
			if err := errors.Join(b.Discard(t.Context(), s.Name), b.Purge(t.Context(), s.Name)); err != nil {
				t.Errorf("deleting %s: %v", s.Name, err)
			}
		})
	}
	done.Wait()
	var want []string
	for i := 0; i < 32; i += 2 {
		want = append(want, fmt.Sprintf("pvc-%d", i))
	}
	wantNames(t, b, want...)
}

func (s Suite) reopen(t *testing.T, b volume.Backend) {
	kept := create(t, b, Spec(t, "pvc-1"))
	dropped := create(t, b, Spec(t, "pvc-2"))
	if err := b.Discard(t.Context(), dropped.Name); err != nil {
		t.Fatal(err)
	}
	b = s.Reopen(t, b)
	wantSame(t, "after reopening", get(t, b, kept.Name), kept)
	if v := get(t, b, dropped.Name); v.State != volume.StateDiscarded {
		t.Errorf("after reopening, the discarded volume is %s", v.State)
	}
	if err := b.Purge(t.Context(), dropped.Name); err != nil {
		t.Error(err)
	}
}
