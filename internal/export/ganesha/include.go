package ganesha

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"sync"

	"github.com/berth-storage/berth/internal/durable"
	"github.com/berth-storage/berth/internal/export"
)

// exportsFile is a file with the configuration of all exports that are wanted.
type exportsFile struct {
	path string

	mu     sync.Mutex
	blocks map[export.ID][]byte
	dirs   map[export.ID]string
}

// blockLine is a line that exportBlock wrote; no path in it has a quote.
var blockLine = regexp.MustCompile(`(?m)^EXPORT \{ Export_Id = ([0-9]+); Path = "([^"\n]*)";.*\n`)

// openExportsFile reads the file that an earlier run has left. If there is none, it
// is made: Ganesha does not start if it is to include a file that is not there.
func openExportsFile(path string) (*exportsFile, error) {
	f := &exportsFile{path: path, blocks: map[export.ID][]byte{}, dirs: map[export.ID]string{}}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, f.write()
	}
	if err != nil {
		return nil, fmt.Errorf("exports of the NFS server: %w", err)
	}
	for _, m := range blockLine.FindAllSubmatch(text, -1) {
		if id, err := strconv.ParseUint(string(m[1]), 10, 16); err == nil {
			f.blocks[export.ID(id)], f.dirs[export.ID(id)] = m[0], string(m[2])
		}
	}
	return f, nil
}

// set makes the file have exactly want, and gives the directories that it had.
func (f *exportsFile) set(want []export.Export) (before map[export.ID]string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before = f.dirs
	f.blocks, f.dirs = map[export.ID][]byte{}, map[export.ID]string{}
	var failed []error
	for _, e := range want {
		// One whose directory is missing would keep Ganesha from starting.
		block, err := exportBlock(e, true)
		if err == nil {
			_, err = os.Lstat(e.Dir)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s (export %d): %w", e.Dir, e.ID, err))
			continue
		}
		f.blocks[e.ID], f.dirs[e.ID] = block, e.Dir
	}
	return before, errors.Join(append(failed, f.write())...)
}

// add adds an export, or replaces the one of its id. With an error nothing has changed.
func (f *exportsFile) add(e export.Export) error {
	block, err := exportBlock(e, true)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(e.Dir); err != nil {
		return fmt.Errorf("%w: %w", export.ErrRefused, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	oldBlock, had := f.blocks[e.ID]
	oldDir := f.dirs[e.ID]
	f.blocks[e.ID], f.dirs[e.ID] = block, e.Dir
	err = f.write()
	if err == nil {
		return nil
	}
	delete(f.blocks, e.ID)
	delete(f.dirs, e.ID)
	if had {
		f.blocks[e.ID], f.dirs[e.ID] = oldBlock, oldDir
	}
	return fmt.Errorf("%w: %w", export.ErrUnavailable, err)
}

func (f *exportsFile) remove(id export.ID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.blocks, id)
	delete(f.dirs, id)
	return f.write()
}

// write needs the lock. A crash leaves the old file or the new one.
func (f *exportsFile) write() error {
	err := durable.WriteFile(f.path, 0o600, func(w io.Writer) error {
		_, err := io.WriteString(w, "# Written by Berth: its volumes, to be included by the configuration of NFS-Ganesha.\n")
		for _, id := range slices.Sorted(maps.Keys(f.blocks)) {
			if err == nil {
				_, err = w.Write(f.blocks[id])
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("exports of the NFS server: %w", err)
	}
	return nil
}
