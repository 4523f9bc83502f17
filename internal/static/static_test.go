package static_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/static"
)

// process is one life of Berth: its ids, and the book in folder.
func process(t *testing.T, folder string, reserved ...export.ID) (*static.Book, *export.IDs) {
	t.Helper()
	ids, err := export.OpenIDs(filepath.Join(folder, "export-ids"))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range reserved {
		if err := ids.Reserve(id); err != nil {
			t.Fatal(err)
		}
	}
	book, err := static.Open(filepath.Join(folder, "static.json"), ids)
	if err != nil {
		t.Fatal(err)
	}
	if err := ids.Compact(); err != nil {
		t.Fatal(err)
	}
	return book, ids
}

func exported(t *testing.T, b *static.Book, d static.Dir) export.Export {
	t.Helper()
	e, err := b.Export(d)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestIDsStayForGood(t *testing.T) {
	folder := t.TempDir()
	book, ids := process(t, folder, 1)
	home, data := static.Dir{Path: "/home", ExportPath: "/homes", ReadOnly: true}, static.Dir{Path: "/data", ExportPath: "/data"}
	first, second := exported(t, book, home), exported(t, book, data)
	want := export.Export{ID: 2, FSID: first.FSID, Dir: "/home", Path: "/homes", ReadOnly: true}
	if first != want || second.ID != 3 || first.FSID == second.FSID || first.FSID == (export.FSID{}) {
		t.Errorf("exports %+v and %+v", first, second)
	}
	if again := exported(t, book, home); again != first {
		t.Errorf("a second time: %+v, want %+v", again, first)
	}
	if id, err := ids.Take(); id != 4 || err != nil {
		t.Errorf("a volume gets the id %d, %v", id, err)
	}
	// In the next life data is not exported; its id is nobody else's for that.
	book, ids = process(t, folder, 1, 4)
	if again := exported(t, book, home); again != first {
		t.Errorf("after a restart: %+v, want %+v", again, first)
	}
	if id, err := ids.Take(); id <= 4 || err != nil {
		t.Errorf("a volume gets the id %d, %v, which a directory had", id, err)
	}
	book, _ = process(t, folder, 1)
	if again := exported(t, book, data); again != second {
		t.Errorf("exported again later: %+v, want %+v", again, second)
	}
}

func TestAnIDOfAnotherExportIsNotUsed(t *testing.T) {
	folder := t.TempDir()
	book, _ := process(t, folder)
	exported(t, book, static.Dir{Path: "/home", ExportPath: "/home"})
	book, _ = process(t, folder, 1)
	if e, err := book.Export(static.Dir{Path: "/home", ExportPath: "/home"}); err == nil || !strings.Contains(err.Error(), "export id 1 is already another volume's") {
		t.Errorf("exported as %+v, %v", e, err)
	}
	if e := exported(t, book, static.Dir{Path: "/data", ExportPath: "/data"}); e.ID == 1 {
		t.Errorf("another directory: %+v", e)
	}
}

func TestNoIDIsUsedBeforeItIsWritten(t *testing.T) {
	folder := t.TempDir()
	book, _ := process(t, folder)
	// In the place of the book is something that cannot be replaced.
	file, home := filepath.Join(folder, "static.json"), static.Dir{Path: "/home", ExportPath: "/home"}
	if err := os.MkdirAll(filepath.Join(file, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if e, err := book.Export(home); err == nil {
			t.Errorf("exported as %+v", e)
		}
	}
	if err := os.RemoveAll(file); err != nil {
		t.Fatal(err)
	}
	e := exported(t, book, home)
	book, _ = process(t, folder)
	if again := exported(t, book, home); again != e {
		t.Errorf("after a restart: %+v, want %+v", again, e)
	}
}

func TestBooksThatCannotBeRead(t *testing.T) {
	for what, text := range map[string]string{
		"damaged":       `{"version": 1, "exports": [`,
		"of the future": `{"version": 2}`,
		"a bad fsid":    `{"version": 1, "exports": [{"path": "/home", "id": 1, "fsid": "x"}]}`,
		"a bad id":      `{"version": 1, "exports": [{"path": "/home", "id": 70000}]}`,
	} {
		folder := t.TempDir()
		file := filepath.Join(folder, "static.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		ids, err := export.OpenIDs(filepath.Join(folder, "export-ids"))
		if err != nil {
			t.Fatal(err)
		}
		if book, err := static.Open(file, ids); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %+v, %v", what, book, err)
		}
		if after, err := os.ReadFile(file); string(after) != text || err != nil {
			t.Errorf("%s: afterwards it is %s, %v", what, after, err)
		}
	}
}

func TestDirectoriesThatMayBeExported(t *testing.T) {
	folder := t.TempDir()
	root, home := filepath.Join(folder, "root"), filepath.Join(folder, "home")
	if err := errors.Join(os.MkdirAll(filepath.Join(root, "pvc-1"), 0o700), os.Mkdir(home, 0o700), os.WriteFile(filepath.Join(folder, "file"), nil, 0o600),
		os.Symlink("root/pvc-1", filepath.Join(folder, "into")), os.Symlink("root", filepath.Join(folder, "to")), os.Symlink("home", filepath.Join(folder, "good")),
		os.Symlink("root", filepath.Join(folder, "other-root")), os.Mkdir(filepath.Join(folder, "rooted"), 0o700)); err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, name := range []string{"home", "good", "rooted", "missing", "file", "root", "root/pvc-1", "into", "to", "."} {
		got[name] = static.Check(static.Dir{Path: filepath.Join(folder, name)}, []string{filepath.Join(folder, "other-root")}) == nil
	}
	want := map[string]bool{
		"home": true, "good": true, "rooted": true, "missing": false, "file": false, "root": false, "root/pvc-1": false, "into": false, "to": false, ".": false,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("which may be (-want +got):\n%s", diff)
	}
}
