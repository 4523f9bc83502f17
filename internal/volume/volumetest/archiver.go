package volumetest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/mem"
)

// runArchiver runs the contract of backends that are an Archiver; of others that they
// refuse what needs one.
func (s Suite) runArchiver(t *testing.T) {
	for _, c := range []struct {
		name string
		test func(*testing.T, archiver)
	}{
		{"Archive", archive},
		{"ArchiveSeveralOfOnePath", archiveSeveralOfOnePath},
		{"ArchiveWithoutPlaceBeside", archiveWithoutPlaceBeside},
		{"ArchiveMissing", archiveMissing},
		{"DiscardArchive", discardArchive},
		{"Restore", restore},
		{"RestoreWhatIsNotKept", restoreWhatIsNotKept},
		{"RestoreOverSomething", restoreOverSomething},
		{"RestoreRetained", restoreRetained},
		{"Release", release},
		{"Reuse", reuse},
		{"Share", share},
		{"Measure", measure},
		{"ArchiveReopen", s.archiveReopen},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := s.Open(t)
			a, ok := b.(archiver)
			if !ok {
				spec := Spec(t, "pvc-1")
				spec.From = &volume.Source{Archive: Spec(t, "pvc-0").Name}
				_, err := b.Create(t.Context(), spec)
				wantError(t, "Create from an archive", err, volume.ErrUnsupported)
				return
			}
			c.test(t, a)
		})
	}
}

type archiver interface {
	volume.Backend
	volume.Archiver
}

// SpecAt is Spec with a path.
func SpecAt(t testing.TB, name, path string) volume.Spec {
	t.Helper()
	s := Spec(t, name)
	p, err := volume.ParseRelPath(path)
	if err != nil {
		t.Fatal(err)
	}
	s.Path = p
	s.Export.Path = p.Below("/pool")
	return s
}

func taken(volume.RelPath) error { return errors.New("taken") }

func free(volume.RelPath) error { return nil }

func put(t *testing.T, b archiver, name string, take func(volume.RelPath) error) volume.Volume {
	t.Helper()
	n := Spec(t, name).Name
	v, err := b.Archive(t.Context(), n, take)
	if err != nil {
		t.Fatalf("Archive(%s): %v", name, err)
	}
	return v
}

// mark writes a file to v, if it is on a file system.
func mark(t *testing.T, v volume.Volume) {
	t.Helper()
	if strings.HasPrefix(v.Dir, mem.Root+"/") {
		return
	}
	if err := os.WriteFile(filepath.Join(v.Dir, "content"), []byte(v.Name.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// wantMark says whether v has what mark wrote to the volume called name.
func wantMark(t *testing.T, v volume.Volume, name string) {
	t.Helper()
	if strings.HasPrefix(v.Dir, mem.Root+"/") {
		return
	}
	text, err := os.ReadFile(filepath.Join(v.Dir, "content"))
	if err != nil || string(text) != name {
		t.Errorf("volume %s holds the content of %q, want %s; %v", v.Name, text, name, err)
	}
}

func nestedPaths(t *testing.T, b volume.Backend) {
	if _, err := b.Create(t.Context(), SpecAt(t, "a", "ns/a")); errors.Is(err, volume.ErrUnsupported) {
		wantNames(t, b)
		return
	}
	for _, path := range []string{"ns/a", "ns/deep/er/b", "c"} {
		create(t, b, SpecAt(t, filepath.Base(path), path))
	}
	for range 2 {
		s := SpecAt(t, "a", "ns/a")
		mark(t, get(t, b, s.Name))
		if err := errors.Join(b.Discard(t.Context(), s.Name), b.Purge(t.Context(), s.Name)); err != nil {
			t.Fatal(err)
		}
		create(t, b, s)
	}
	wantNames(t, b, "a", "b", "c")
}

// retained makes a volume that is.
func retained(t *testing.T, b volume.Backend, name string) volume.Volume {
	t.Helper()
	v := create(t, b, Spec(t, name))
	mark(t, v)
	v.State, v.Ended = volume.StateRetained, v.Created
	v, err := b.Update(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func retain(t *testing.T, b volume.Backend) {
	v := retained(t, b, "pvc-1")
	wantSame(t, "Get of a retained volume", get(t, b, v.Name), v)
	if v.State != volume.StateRetained {
		t.Errorf("state is %s", v.State)
	}
	_, err := b.Create(t.Context(), Spec(t, "pvc-1"))
	wantError(t, "Create of a retained volume", err, volume.ErrExists)
	wantError(t, "Purge of a retained volume", b.Purge(t.Context(), v.Name), volume.ErrConflict)
	if err := errors.Join(b.Discard(t.Context(), v.Name), b.Purge(t.Context(), v.Name)); err != nil {
		t.Fatal(err)
	}
	create(t, b, Spec(t, "pvc-1")) // name and path are free again
}

func archive(t *testing.T, b archiver) {
	s := SpecAt(t, "pvc-1", "ns/data")
	s.OnDelete = volume.OnDeleteArchive
	ready := create(t, b, s)
	if ready.OnDelete != volume.OnDeleteArchive {
		t.Errorf("the record says onDelete %q", ready.OnDelete)
	}
	mark(t, ready)
	v := put(t, b, "pvc-1", free)
	if v.State != volume.StateArchived || v.Ended.IsZero() || v.ArchivePath == "" || v.Dir == ready.Dir || v.Path != s.Path {
		t.Errorf("archived as %+v", v)
	}
	wantSame(t, "Get of an archive", get(t, b, s.Name), v)
	wantSame(t, "Archive again", put(t, b, "pvc-1", taken), v)
	wantMark(t, v, "pvc-1")
	_, err := b.Create(t.Context(), s)
	wantError(t, "Create of an archived volume", err, volume.ErrExists)
	wantError(t, "Purge of an archive", b.Purge(t.Context(), v.Name), volume.ErrConflict)
	wantNames(t, b, "pvc-1")
}

func archiveSeveralOfOnePath(t *testing.T, b archiver) {
	places := map[string]bool{}
	var all []volume.Volume
	for _, name := range []string{"pvc-1", "pvc-2", "pvc-3"} {
		mark(t, create(t, b, SpecAt(t, name, "ns/data")))
		v := put(t, b, name, func(p volume.RelPath) error {
			if places[p.String()] {
				return errors.New("taken")
			}
			return nil
		})
		if places[v.ArchivePath] {
			t.Errorf("%s is archived at %s, where another one is", name, v.ArchivePath)
		}
		places[v.ArchivePath] = true
		all = append(all, v)
	}
	for _, v := range all {
		wantMark(t, v, v.Name.String())
	}
}

func archiveWithoutPlaceBeside(t *testing.T, b archiver) {
	mark(t, create(t, b, SpecAt(t, "pvc-1", "ns/data")))
	v := put(t, b, "pvc-1", taken)
	wantMark(t, v, "pvc-1")
	if _, err := volume.ParseRelPath(v.ArchivePath); err == nil {
		t.Errorf("archived at %s, a place that could not be taken", v.ArchivePath)
	}
}

func archiveMissing(t *testing.T, b archiver) {
	n := Spec(t, "pvc-1").Name
	_, err := b.Archive(t.Context(), n, free)
	wantError(t, "Archive", err, volume.ErrNotFound)
	wantError(t, "Release", b.Release(t.Context(), n), volume.ErrNotFound)
	v := retained(t, b, "pvc-2")
	_, err = b.Archive(t.Context(), v.Name, free)
	wantError(t, "Archive of a retained volume", err, volume.ErrConflict)
}

func discardArchive(t *testing.T, b archiver) {
	s := SpecAt(t, "pvc-1", "ns/data")
	create(t, b, s)
	archived := put(t, b, "pvc-1", free)
	// What has its path since is another volume.
	other := create(t, b, SpecAt(t, "pvc-2", "ns/data"))
	mark(t, other)
	for range 2 {
		if err := b.Discard(t.Context(), s.Name); err != nil {
			t.Fatal(err)
		}
	}
	if v := get(t, b, s.Name); v.State != volume.StateDiscarded {
		t.Errorf("state is %s", v.State)
	}
	if _, err := os.Lstat(archived.Dir); err == nil {
		t.Errorf("%s is still there", archived.Dir)
	}
	if err := b.Purge(t.Context(), s.Name); err != nil {
		t.Fatal(err)
	}
	wantNames(t, b, "pvc-2")
	wantSame(t, "the other volume", get(t, b, other.Name), other)
	wantMark(t, other, "pvc-2")
}

// restored is the spec of a volume with the content of another.
func restored(t *testing.T, name, path, from string) volume.Spec {
	s := SpecAt(t, name, path)
	s.From = &volume.Source{Archive: Spec(t, from).Name}
	return s
}

func restore(t *testing.T, b archiver) {
	mark(t, create(t, b, SpecAt(t, "pvc-1", "ns/data")))
	put(t, b, "pvc-1", free)
	s := restored(t, "pvc-2", "ns/again/data", "pvc-1")
	v := create(t, b, s)
	if v.State != volume.StateReady || v.RestoredFrom != s.From.Archive || v.Path != s.Path || v.ArchivePath != "" {
		t.Errorf("restored as %+v", v)
	}
	wantMark(t, v, "pvc-1")
	wantLimit(t, b, v)
	wantSame(t, "Create again", create(t, b, s), v)
	wantNames(t, b, "pvc-2")
	if err := errors.Join(b.Discard(t.Context(), s.Name), b.Purge(t.Context(), s.Name)); err != nil {
		t.Fatal(err)
	}
	wantNames(t, b)
}

func restoreWhatIsNotKept(t *testing.T, b archiver) {
	live := create(t, b, Spec(t, "pvc-1"))
	mark(t, live)
	discarded := create(t, b, Spec(t, "pvc-2"))
	if err := b.Discard(t.Context(), discarded.Name); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"pvc-0", "pvc-1", "pvc-2"} {
		_, err := b.Create(t.Context(), restored(t, "pvc-3", "pvc-3", from))
		wantError(t, "restoring "+from, err, volume.ErrNotFound)
	}
	wantNames(t, b, "pvc-1", "pvc-2")
	wantSame(t, "the live volume", get(t, b, live.Name), live)
	wantMark(t, live, "pvc-1")
}

func restoreOverSomething(t *testing.T, b archiver) {
	mark(t, create(t, b, SpecAt(t, "pvc-1", "ns/data")))
	archived := put(t, b, "pvc-1", free)
	other := create(t, b, SpecAt(t, "pvc-2", "ns/data"))
	mark(t, other)
	if err := b.Release(t.Context(), other.Name); err != nil {
		t.Fatal(err)
	}
	s := restored(t, "pvc-3", "ns/data", "pvc-1")
	s.Existing = volume.ExistingReuse
	_, err := b.Create(t.Context(), s)
	wantError(t, "restoring to a path where something lies", err, volume.ErrForeign)
	wantNames(t, b, "pvc-1")
	wantSame(t, "the archive", get(t, b, archived.Name), archived)
	wantMark(t, archived, "pvc-1")
	wantMark(t, other, "pvc-2")
}

func restoreRetained(t *testing.T, b archiver) {
	for name, path := range map[string]string{"pvc-here": "pvc-1", "pvc-there": "ns/there"} {
		retained(t, b, "pvc-1")
		v := create(t, b, restored(t, name, path, "pvc-1"))
		wantMark(t, v, "pvc-1")
		wantNames(t, b, name)
		if err := errors.Join(b.Discard(t.Context(), v.Name), b.Purge(t.Context(), v.Name)); err != nil {
			t.Fatal(err)
		}
	}
}

func release(t *testing.T, b archiver) {
	v := create(t, b, SpecAt(t, "pvc-1", "ns/data"))
	mark(t, v)
	if err := b.Release(t.Context(), v.Name); err != nil {
		t.Fatal(err)
	}
	wantNames(t, b)
	wantMark(t, v, "pvc-1")
	_, err := b.Create(t.Context(), SpecAt(t, "pvc-2", "ns/data"))
	wantError(t, "Create where something lies", err, volume.ErrForeign)
	wantNames(t, b)
}

func reuse(t *testing.T, b archiver) {
	mark(t, create(t, b, SpecAt(t, "pvc-1", "ns/data")))
	if err := b.Release(t.Context(), Spec(t, "pvc-1").Name); err != nil {
		t.Fatal(err)
	}
	s := SpecAt(t, "pvc-2", "ns/data")
	s.Existing = volume.ExistingReuse
	v := create(t, b, s)
	if !v.TookOver || v.Shared {
		t.Errorf("took over %v, shared %v", v.TookOver, v.Shared)
	}
	wantMark(t, v, "pvc-1")
	wantSame(t, "Create again", create(t, b, s), v)
	if err := errors.Join(b.Discard(t.Context(), s.Name), b.Purge(t.Context(), s.Name)); err != nil {
		t.Fatal(err)
	}
	if v = create(t, b, s); v.TookOver {
		t.Error("took over what is gone")
	}
}

func share(t *testing.T, b archiver) {
	for i, name := range []string{"pvc-1", "pvc-2"} {
		s := SpecAt(t, name, "ns/data")
		s.Existing = volume.ExistingShare
		v := create(t, b, s)
		if !v.Shared || v.TookOver != (i > 0) {
			t.Errorf("%s: shared %v, took over %v", name, v.Shared, v.TookOver)
		}
		if i == 0 {
			mark(t, v)
		}
		wantMark(t, v, "pvc-1")
	}
	if err := b.Release(t.Context(), Spec(t, "pvc-1").Name); err != nil {
		t.Fatal(err)
	}
	wantMark(t, get(t, b, Spec(t, "pvc-2").Name), "pvc-1")
}

func measure(t *testing.T, b archiver) {
	mark(t, create(t, b, SpecAt(t, "pvc-1", "ns/data")))
	v := put(t, b, "pvc-1", free)
	bytes, err := b.Measure(t.Context(), v)
	if err != nil || bytes < 0 {
		t.Errorf("Measure gives %d, %v", bytes, err)
	}
}

func (s Suite) archiveReopen(t *testing.T, b archiver) {
	mark(t, create(t, b, SpecAt(t, "pvc-1", "ns/data")))
	archived := put(t, b, "pvc-1", free)
	kept := retained(t, b, "pvc-2")
	again := s.Reopen(t, b)
	wantSame(t, "the archive after reopening", get(t, again, archived.Name), archived)
	wantSame(t, "the retained volume after reopening", get(t, again, kept.Name), kept)
	wantMark(t, create(t, again, restored(t, "pvc-3", "ns/data", "pvc-1")), "pvc-1")
	wantNames(t, again, "pvc-2", "pvc-3")
}
