// Package static gives directories that were there before Berth their exports. They are
// no volumes: no record says that they are Berth's, so that nothing can delete them.
// What is kept of them is which export id and FSID each of them has.
package static

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/berth-storage/berth/internal/durable"
	"github.com/berth-storage/berth/internal/export"
)

// Dir is a directory to export.
type Dir struct {
	Path       string // on this host; absolute and clean
	ExportPath string // what clients mount
	ReadOnly   bool
}

// Book is which ids directories have. A directory's id is part of the handles that its
// clients hold, and its data is never purged: so the id stays its own for good, also
// while it is not exported.
type Book struct {
	file    string
	ids     *export.IDs
	entries map[string]entry // by path
	// unusable are paths whose id is another export's.
	unusable map[string]error
}

type entry struct {
	Path string      `json:"path"`
	ID   export.ID   `json:"id"`
	FSID export.FSID `json:"fsid"`
}

// book is the form of the file.
type book struct {
	Version int     `json:"version"`
	Exports []entry `json:"exports"`
}

const version = 1

// Open reads the book in file, which need not exist, and reserves its ids. That is to
// be done before any new id is taken.
func Open(file string, ids *export.IDs) (*Book, error) {
	b := &Book{file: file, ids: ids, entries: map[string]entry{}, unusable: map[string]error{}}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	var read book
	if err == nil {
		err = json.Unmarshal(text, &read)
	}
	if err == nil && read.Version != version {
		err = fmt.Errorf("version %d; this program knows %d", read.Version, version)
	}
	if err != nil {
		return nil, fmt.Errorf("the export ids of static directories (%s): %w", file, err)
	}
	for _, e := range read.Exports {
		if err := ids.Reserve(e.ID); err != nil {
			b.unusable[e.Path] = fmt.Errorf("%w; take it out of %s, and clients mount it anew", err, file)
		}
		b.entries[e.Path] = e
	}
	return b, nil
}

// Export gives the export of d, without who may mount it. The first time it takes an id.
func (b *Book) Export(d Dir) (export.Export, error) {
	if err := b.unusable[d.Path]; err != nil {
		return export.Export{}, err
	}
	e, known := b.entries[d.Path]
	if !known {
		id, err := b.ids.Take()
		if err != nil {
			return export.Export{}, err
		}
		e = entry{Path: d.Path, ID: id, FSID: export.NewFSID("static " + b.file + " " + d.Path)}
		// Before any client sees the id. A crash before that costs nothing.
		if err := b.add(e); err != nil {
			b.ids.Return(id)
			return export.Export{}, err
		}
	}
	return export.Export{ID: e.ID, FSID: e.FSID, Dir: d.Path, Path: d.ExportPath, ReadOnly: d.ReadOnly}, nil
}

func (b *Book) add(e entry) error {
	entries := maps.Clone(b.entries)
	entries[e.Path] = e
	all := slices.SortedFunc(maps.Values(entries), func(x, y entry) int { return strings.Compare(x.Path, y.Path) })
	err := durable.WriteFile(b.file, 0o600, func(w io.Writer) error {
		text := json.NewEncoder(w)
		text.SetIndent("", "  ")
		return text.Encode(book{version, all})
	})
	if err != nil {
		return fmt.Errorf("the export ids of static directories: %w", err)
	}
	b.entries = entries
	return nil
}

// Check says whether d is a directory that may be exported: it is there, and does not
// lie in one of the roots, also not by a link.
func Check(d Dir, roots []string) error {
	info, err := os.Stat(d.Path)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is not a directory", d.Path)
	}
	if err != nil {
		return err
	}
	path, err := filepath.EvalSymlinks(d.Path)
	if err != nil {
		return err
	}
	for _, root := range roots {
		folder, err := filepath.EvalSymlinks(root)
		if err != nil {
			return err
		}
		if within(path, folder) || within(folder, path) {
			return fmt.Errorf("%s is %s, and lies in a pool's root (%s) or around it: what is in there is Berth's to delete", d.Path, path, root)
		}
	}
	return nil
}

// within says whether path is folder or lies below it.
func within(path, folder string) bool {
	rel, err := filepath.Rel(folder, path)
	return err == nil && filepath.IsLocal(rel)
}
