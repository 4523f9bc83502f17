package dir_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

func name(t *testing.T, s string) volume.Name {
	t.Helper()
	n, err := volume.ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func free(volume.RelPath) error { return nil }

func archive(t *testing.T, p *pool, s string) volume.Volume {
	t.Helper()
	v, err := p.Archive(t.Context(), name(t, s), free)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// mark makes a volume's content known again.
func mark(t *testing.T, v volume.Volume) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(v.Dir, "content"), []byte(v.Name.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

func wantContent(t *testing.T, folder, want string) {
	t.Helper()
	if text, err := os.ReadFile(filepath.Join(folder, "content")); err != nil || string(text) != want {
		t.Errorf("%s holds the content of %q, want %q; %v", folder, text, want, err)
	}
}

// writeRecord writes a record as a run that was cut off leaves it.
func writeRecord(t *testing.T, p *pool, v volume.Volume) {
	t.Helper()
	text, err := json.Marshal(struct {
		Version int `json:"version"`
		volume.Volume
	}{1, v})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.root, ".berth/volumes", v.Name.String()+".json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func listed(t *testing.T, p *pool) string {
	t.Helper()
	var all []string
	for v, err := range p.List(t.Context()) {
		if err != nil {
			t.Error(err)
		}
		all = append(all, fmt.Sprint(v.Name, " ", v.State))
	}
	return strings.Join(all, ", ")
}

func TestWhereArchivesLie(t *testing.T) {
	long := strings.Repeat("x", 250)
	longest := strings.Repeat(strings.Repeat("y", 253)+"/", 4)[:4*254-1]
	for _, c := range []struct {
		beside            bool
		path, taken, want string
	}{
		{false, "ns/a", "", ".berth/archive/pvc-1/ns/a"},
		{true, "ns/a", "", "archived-ns/a"},
		{true, "a", "", "archived-a"},
		{true, "ns/a", "archived-ns/a", "archived-pvc-1/ns/a"},
		{true, "ns/a", "archived-ns", "archived-ns/a"},
		{true, long, "", "archived-pvc-1/" + long},
		{true, longest, "", ".berth/archive/pvc-1/" + longest},
	} {
		t.Run(fmt.Sprintf("%v %.20s %s", c.beside, c.path, c.taken), func(t *testing.T) {
			p := openWith(t, t.TempDir(), dir.Options{ArchiveBeside: c.beside})
			if c.taken != "" {
				if err := os.MkdirAll(filepath.Join(p.root, c.taken), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			mark(t, createAt(t, p, "pvc-1", c.path))
			v := archive(t, p, "pvc-1")
			if v.ArchivePath != c.want {
				t.Errorf("archived at %s, want %s", v.ArchivePath, c.want)
			}
			wantContent(t, filepath.Join(p.root, c.want), "pvc-1")
			gone(t, filepath.Join(p.root, c.path))
			if first, _, nested := strings.Cut(c.path, "/"); nested {
				gone(t, filepath.Join(p.root, first))
			}
			drop(t, p, v)
			gone(t, filepath.Join(p.root, c.want), filepath.Join(p.root, ".berth/archive/pvc-1"))
		})
	}
}

// Each of the steps of archiving can be the last one of a run.
func TestArchivingGoesOnAfterACrash(t *testing.T) {
	for _, moved := range []bool{false, true} {
		for _, then := range []string{"archive", "discard"} {
			t.Run(fmt.Sprint("moved ", moved, ", ", then), func(t *testing.T) {
				p := open(t, t.TempDir())
				v := createAt(t, p, "pvc-1", "ns/a")
				mark(t, v)
				v.State, v.ArchivePath, v.Ended = volume.StateArchiving, ".berth/archive/pvc-1/ns/a", v.Created
				writeRecord(t, p, v)
				at := filepath.Join(p.root, v.ArchivePath)
				if moved {
					if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), os.Rename(v.Dir, at)); err != nil {
						t.Fatal(err)
					}
				}
				if then == "discard" {
					drop(t, p, v)
					gone(t, v.Dir, at)
					if got := listed(t, p); got != "" {
						t.Errorf("left is %s", got)
					}
					return
				}
				archived := archive(t, p, "pvc-1")
				if archived.State != volume.StateArchived || archived.ArchivePath != v.ArchivePath {
					t.Errorf("archived as %+v", archived)
				}
				wantContent(t, at, "pvc-1")
				gone(t, v.Dir)
			})
		}
	}
}

func TestArchivingWithoutADirectory(t *testing.T) {
	p := open(t, t.TempDir())
	v := createAt(t, p, "pvc-1", "ns/a")
	if err := os.Remove(v.Dir); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Archive(t.Context(), v.Name, free); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("got error %v, want %v", err, volume.ErrNotFound)
	}
	drop(t, p, v)
}

// An archive whose folder a person has taken away does not stand for what has its old
// path since.
func TestArchivesThatAreAway(t *testing.T) {
	p := open(t, t.TempDir())
	createAt(t, p, "pvc-1", "ns/a")
	v := archive(t, p, "pvc-1")
	if err := os.Remove(v.Dir); err != nil {
		t.Fatal(err)
	}
	since := createAt(t, p, "pvc-2", "ns/a")
	mark(t, since)
	archive(t, p, "pvc-1")
	s := volumetest.SpecAt(t, "pvc-3", "ns/b")
	s.From = &volume.Source{Archive: v.Name}
	if v, err := p.Create(t.Context(), s); err == nil {
		t.Errorf("restored from nothing: %+v", v)
	}
	drop(t, p, v)
	wantContent(t, since.Dir, "pvc-2")
}

// crashedRestore makes an archive, or a retained volume, and the record of pvc-2, which
// is to have its content, up to a step.
func crashedRestore(t *testing.T, state volume.State, moved, consumed bool) (*pool, volume.Volume, volume.Volume) {
	t.Helper()
	p := open(t, t.TempDir())
	from := createAt(t, p, "pvc-1", "ns/a")
	mark(t, from)
	if state == volume.StateArchived {
		from = archive(t, p, "pvc-1")
	} else {
		from.State, from.Ended = state, time.Now()
		writeRecord(t, p, from)
	}
	s := volumetest.SpecAt(t, "pvc-2", "ns/new/b")
	s.From = &volume.Source{Archive: from.Name}
	v := volume.New(s, time.Now())
	v.Dir = v.Path.Below(p.root)
	writeRecord(t, p, v)
	if moved {
		if err := errors.Join(os.MkdirAll(filepath.Dir(v.Dir), 0o755), os.Rename(from.Dir, v.Dir)); err != nil {
			t.Fatal(err)
		}
	}
	if consumed {
		if err := p.Release(t.Context(), from.Name); err != nil {
			t.Fatal(err)
		}
	}
	return p, from, v
}

func TestRestoringGoesOnAfterACrash(t *testing.T) {
	for _, state := range []volume.State{volume.StateArchived, volume.StateRetained} {
		for _, c := range []struct{ moved, consumed bool }{{false, false}, {true, false}, {true, true}} {
			t.Run(fmt.Sprint(state, ", moved ", c.moved, ", consumed ", c.consumed), func(t *testing.T) {
				p, from, v := crashedRestore(t, state, c.moved, c.consumed)
				s := volumetest.SpecAt(t, "pvc-2", "ns/new/b")
				s.From = &volume.Source{Archive: from.Name}
				if _, err := p.Create(t.Context(), s); err != nil {
					t.Fatal(err)
				}
				wantContent(t, v.Dir, "pvc-1")
				gone(t, from.Dir)
				if got := listed(t, p); got != "pvc-2 ready" {
					t.Errorf("there are %s", got)
				}
			})
		}
	}
}

func TestRestoringThatNobodyWantsIsUndone(t *testing.T) {
	for _, state := range []volume.State{volume.StateArchived, volume.StateRetained} {
		for _, moved := range []bool{false, true} {
			t.Run(fmt.Sprint(state, ", moved ", moved), func(t *testing.T) {
				p, from, v := crashedRestore(t, state, moved, false)
				got, err := p.Archive(t.Context(), v.Name, free)
				if err != nil || got != (volume.Volume{}) {
					t.Fatalf("got %+v, %v", got, err)
				}
				wantContent(t, from.Dir, "pvc-1")
				gone(t, v.Dir)
				if got := listed(t, p); got != "pvc-1 "+string(state) {
					t.Errorf("there are %s", got)
				}
			})
		}
	}
	// Once the archive's record is gone, what is there is archived.
	p, _, v := crashedRestore(t, volume.StateArchived, true, true)
	wantContent(t, archive(t, p, v.Name.String()).Dir, "pvc-1")
}

func TestMeasureCountsEachFileOnce(t *testing.T) {
	p := open(t, t.TempDir())
	v := createAt(t, p, "pvc-1", "ns/a")
	big := filepath.Join(v.Dir, "deep/er/big")
	outside := filepath.Join(t.TempDir(), "outside")
	if err := errors.Join(
		os.MkdirAll(filepath.Dir(big), 0o755),
		os.WriteFile(big, make([]byte, 1<<20), 0o600),
		os.Link(big, filepath.Join(v.Dir, "same")),
		os.WriteFile(outside, make([]byte, 8<<20), 0o600),
		os.Symlink(outside, filepath.Join(v.Dir, "link")),
		os.Symlink(filepath.Dir(outside), filepath.Join(v.Dir, "folder")),
	); err != nil {
		t.Fatal(err)
	}
	nest(t, v.Dir, 1000) // deeper than anybody counts
	bytes, err := p.Measure(t.Context(), archive(t, p, "pvc-1"))
	if err != nil || bytes < 1<<20 || bytes > 3<<20 {
		t.Errorf("%d bytes, %v; want about 1 MiB", bytes, err)
	}
}

// Records that say anything.
func TestArchivePathsOfDamagedRecords(t *testing.T) {
	for _, c := range []struct{ state, archivePath string }{
		{"archived", ""},
		{"archived", "../outside"},
		{"archived", "/etc"},
		{"archived", ".berth/volumes"},
		{"archived", ".berth/archive/pvc-2/ns/a"},
		{"archiving", ".berth/archive/pvc-1/../../volumes"},
		{"ready", "archived-a"},
		{"retained", "archived-a"},
	} {
		text := fmt.Sprintf(`{"version": 1, "name": "pvc-1", "path": "ns/a", "state": %q, "archivePath": %q}`, c.state, c.archivePath)
		if v, err := dir.ParseRecord(name(t, "pvc-1"), []byte(text)); err == nil {
			t.Errorf("accepted %s: %+v", text, v)
		}
	}
}
