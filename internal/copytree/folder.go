package copytree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// maxOpen is how many folders are open in the source, and in the target, on the way
	// to where the copy is at work. A tenant may nest them as deep as the disk allows.
	maxOpen = 32
	// maxPath is a length of paths that openat2(2) takes.
	maxPath = 4000
	// maxTries is how often a name is tried whose file is replaced all the time. Then it is no
	// chance any more.
	maxTries = 20
	// workers copy files of one folder at the same time. On a share each of them waits for the
	// server most of the time; in one folder of a disk many get in each other's way.
	workers      = 4
	namesAtATime = 4096
	// filesPerWorker are enough to start one more.
	filesPerWorker = 8
)

// side is the source or the target.
type side int

const (
	source side = iota
	target
)

// folder is one that is being copied, in the source and in the target.
type folder struct {
	parent *folder // nil for the top
	name   string
	depth  int
	open   [2]*os.File  // nil if not open now
	stat   unix.Statx_t // of the source, before it was read
}

// pathOf is the path of a name in f, below the top.
func (f *folder) pathOf(name string) string {
	names := []string{name}
	for ; f.parent != nil; f = f.parent {
		names = append(names, f.name)
	}
	slices.Reverse(names)
	return path.Join(names...)
}

func (f *folder) close() {
	for i, d := range f.open {
		if d != nil {
			_ = d.Close() // it was only read
			f.open[i] = nil
		}
	}
}

// find opens f by its path. It changes no folder.
func (f *folder) find(s side) (*os.File, error) {
	var names []string // f first
	for ; f.open[s] == nil; f = f.parent {
		names = append(names, f.name)
	}
	at := f.open[s]
	for last := len(names) - 1; ; {
		from := last
		length := 0
		for ; last >= 0 && length+len(names[last]) < maxPath; last-- {
			length += len(names[last]) + 1
		}
		step := slices.Clone(names[last+1 : from+1])
		slices.Reverse(step)
		next, err := openFolder(at, strings.Join(append(step, "."), "/"))
		if at != f.open[s] {
			_ = at.Close()
		}
		if err != nil || last < 0 {
			return next, err
		}
		at = next
	}
}

// reach has f open again. Of those above it some are opened too: it is their turn next.
func (f *folder) reach(s side) (*os.File, error) {
	var closed []*folder // f first
	for a := f; a.open[s] == nil && len(closed) < maxOpen/2; a = a.parent {
		closed = append(closed, a)
	}
	for i, a := range slices.Backward(closed) {
		var err error
		if i == len(closed)-1 {
			a.open[s], err = a.find(s)
		} else {
			a.open[s], err = openFolder(a.parent.open[s], a.name)
		}
		if err != nil {
			return nil, err
		}
	}
	return f.open[s], nil
}

// folder copies what is in f, which is open, and then what belongs to f itself.
func (c *copier) folder(f *folder) error {
	folders, err := c.files(f)
	if err != nil {
		return err
	}
	for _, name := range folders {
		if err := c.below(f, name); err != nil {
			return err
		}
	}
	from, err := f.reach(source)
	if err != nil && !isChange(err) {
		return c.failed("opening", f, "", err)
	}
	to, err := f.reach(target)
	if err != nil {
		return c.failed("opening the copy of", f, "", err)
	}
	if from == nil { // it is gone: what is known of it is enough
		return c.finish(f, "", &f.stat, nil, inode{fd: int(to.Fd())})
	}
	return c.finish(f, "", &f.stat, &inode{fd: int(from.Fd())}, inode{fd: int(to.Fd())})
}

// isChange says that what an error is about is not there any more, or is no folder now.
func isChange(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ESTALE)
}

// list reads the names in f, which is open.
func (c *copier) list(f *folder) (names []string, err error) {
	for {
		more, err := f.open[source].Readdirnames(namesAtATime)
		names = append(names, more...)
		switch {
		case errors.Is(err, io.EOF):
			return names, nil
		case err != nil:
			return names, err
		case len(names) > c.most.names:
			return nil, fmt.Errorf("%w: more than %d names in one folder", ErrTooMuch, c.most.names)
		}
	}
}

// files copies all entries of f but its folders, of which it gives the names: they are
// made in the target, and empty.
func (c *copier) files(f *folder) (folders []string, err error) {
	names, err := c.list(f)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESTALE) {
		return nil, c.failed("reading", f, "", err)
	}
	// One that is removed and made again meanwhile may be there twice.
	slices.Sort(names)
	names = slices.Compact(names)
	var (
		isFolder = make([]bool, len(names))
		next     atomic.Int64
		failed   atomic.Pointer[error]
		others   sync.WaitGroup
	)
	work := func() {
		for failed.Load() == nil {
			i := int(next.Add(1)) - 1
			if i >= len(names) {
				return
			}
			var err error
			if isFolder[i], err = c.entry(f, names[i]); err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		}
	}
	for range min(len(names)/filesPerWorker, workers-1) {
		others.Go(work)
	}
	work()
	others.Wait()
	if err := failed.Load(); err != nil {
		return nil, *err
	}
	for i, name := range names {
		if isFolder[i] {
			folders = append(folders, strings.Clone(name)) // not all the others' memory
		}
	}
	return folders, nil
}

// below copies the folder name in f, which files has made in the target.
func (c *copier) below(f *folder, name string) error {
	for try := 1; ; try++ {
		there, err := c.enter(f, name)
		if err != nil || there {
			return err
		}
		to, err := f.reach(target)
		if err == nil {
			err = unix.Unlinkat(int(to.Fd()), name, unix.AT_REMOVEDIR)
		}
		if err != nil {
			return c.failed("removing the copy of", f, name, err)
		}
		c.count(-1, 0)
		if _, err := f.reach(source); isChange(err) {
			return nil
		}
		if isFolder, err := c.entry(f, name); err != nil || !isFolder {
			return err
		}
		if try == maxTries {
			return c.failed("opening", f, name, errRestless)
		}
	}
}

// enter copies a folder, if it is one still.
func (c *copier) enter(f *folder, name string) (there bool, err error) {
	if err := c.ctx.Err(); err != nil {
		return false, err
	}
	child := &folder{parent: f, name: name, depth: f.depth + 1}
	if child.depth > c.most.depth {
		return false, c.failed("copying", f, name, fmt.Errorf("%w: %d folders in each other", ErrTooMuch, child.depth))
	}
	defer child.close()
	from, err := f.reach(source)
	if err == nil {
		child.open[source], err = openFolder(from, name)
	}
	if isChange(err) {
		return false, nil
	}
	if err == nil {
		child.stat, err = stat(int(child.open[source].Fd()))
	}
	if err != nil {
		return false, c.failed("opening", f, name, err)
	}
	to, err := f.reach(target)
	if err == nil {
		child.open[target], err = openFolder(to, name)
	}
	if err != nil {
		return false, c.failed("opening the copy of", f, name, err)
	}
	child.leave()
	return true, c.folder(child)
}

// leave closes the folder that is so far above f that it is not needed soon.
func (f *folder) leave() {
	for range maxOpen {
		if f = f.parent; f == nil {
			return
		}
	}
	if f.parent != nil { // without the top nothing is found again
		f.close()
	}
}

func sortedKeys(m map[string]*Loss) []string { return slices.Sorted(maps.Keys(m)) }
