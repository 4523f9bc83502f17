package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/berth-storage/berth/internal/volume"
)

// others are the records of other clusters on one share, as far as it matters where
// their volumes lie. They are read each time that one of ours is made, after its own record
// is written: of two clusters that begin at once at least one sees the other. That
// what is read is true is what close-to-open is for, see nfs(5): the client asks the server
// about each folder and file that is opened.
type others struct {
	mu      sync.Mutex
	folders map[string]*otherFolder // by cluster; Private for one that has no part of its own
}

type otherFolder struct {
	changed time.Time              // when what was read last was changed
	settled bool                   // nothing can have been changed since at that time
	records map[string]otherRecord // by file
}

type otherRecord struct {
	info   fs.FileInfo
	volume volume.Volume
	err    error // it cannot be read
}

// check says whether v may be at p, as far as other clusters go. ErrForeign if it overlaps
// a volume of theirs, and if v takes over what is there and not all their records can be read.
func (o *others) check(ctx context.Context, b *Backend, v volume.Volume, p volume.RelPath) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	folders, err := otherFolders(b)
	if err != nil {
		return fmt.Errorf("%w: volume %s: which other clusters have volumes here: %w", volume.ErrUnknown, v.Name, err)
	}
	for _, folder := range folders {
		if err := o.checkFolder(b, folder, v, p); err != nil {
			return err
		}
	}
	return nil
}

// all gives the volumes of other clusters whose records can be read.
func (o *others) all(b *Backend) (all []volume.Volume, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	folders, err := otherFolders(b)
	if err != nil {
		return nil, err
	}
	for _, folder := range folders {
		f := o.folder(folder)
		if err := f.read(b, folder); err != nil {
			return nil, err
		}
		for _, r := range f.records {
			if r.err == nil {
				all = append(all, r.volume)
			}
		}
	}
	return all, nil
}

// otherFolders are those that other clusters may have records in; see Folder.
func otherFolders(b *Backend) ([]string, error) {
	folders := []string{Private}
	entries, err := fs.ReadDir(b.root.FS(), clusters)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		folders = append(folders, clusters+"/"+e.Name())
	}
	return slices.DeleteFunc(folders, func(folder string) bool { return folder == b.folder }), nil
}

func (o *others) folder(folder string) *otherFolder {
	f := o.folders[folder]
	if f == nil {
		if o.folders == nil {
			o.folders = make(map[string]*otherFolder)
		}
		f = &otherFolder{}
		o.folders[folder] = f
	}
	return f
}

func (o *others) checkFolder(b *Backend, folder string, v volume.Volume, p volume.RelPath) error {
	f := o.folder(folder)
	if err := f.read(b, folder); err != nil {
		return fmt.Errorf("%w: volume %s: where the volumes of another cluster are (%s): %w", volume.ErrUnknown, v.Name, path.Join(b.path, folder), err)
	}
	for file, r := range f.records {
		if r.err != nil {
			if v.TookOver {
				return fmt.Errorf("%w: volume %s: %s exists, and a record of another cluster cannot be read that may be its: %s: %w",
					volume.ErrForeign, v.Name, v.Dir, path.Join(b.path, folder, "volumes", file), r.err)
			}
			continue
		}
		if isSnapshot(r.volume) {
			continue // in a folder of theirs
		}
		for _, theirs := range []string{r.volume.Path.String(), r.volume.ArchivePath} {
			if theirs == "" || !overlap(theirs, p.String()) || r.volume.State == volume.StateArchived && theirs != r.volume.ArchivePath {
				continue
			}
			if strings.HasSuffix(file, trashedSuffix) || strings.HasSuffix(file, discardedSuffix) && b.inTrash(folder, r.volume.Name) {
				continue
			}
			return fmt.Errorf("%w: volume %s: its path %s overlaps %s, where volume %s of another cluster (%s) lies on this share: choose another path",
				volume.ErrForeign, v.Name, p, theirs, r.volume.Name, r.volume.Cluster)
		}
	}
	return nil
}

// overlap says whether one of two paths is the other or inside of it.
func overlap(a, b string) bool {
	return a == b || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}

// inTrash says whether a discarded volume is no longer where its record says.
func (b *Backend) inTrash(folder string, n volume.Name) bool {
	there, err := b.exists(path.Join(folder, "trash", n.String()))
	return err == nil && there
}

// settleTime is more than the times of a server's files may be coarse.
const settleTime = 2 * time.Second

// read brings f to what is there. Only what has changed is read.
func (f *otherFolder) read(b *Backend, folder string) error {
	d, err := b.root.Open(path.Join(folder, "volumes"))
	if errors.Is(err, fs.ErrNotExist) {
		f.records, f.settled = nil, false
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	info, err := d.Stat()
	if err != nil {
		return err
	}
	if f.settled && info.ModTime().Equal(f.changed) {
		return nil
	}
	// What time it is at the server tells the folder that was written to just now.
	ours, err := fs.Stat(b.records.dir.FS(), ".")
	if err != nil {
		return err
	}
	entries, err := d.ReadDir(-1)
	if err != nil {
		return err
	}
	records := make(map[string]otherRecord, len(entries))
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), tempSuffix) {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if old, known := f.records[e.Name()]; known && sameFile(old.info, info) {
			records[e.Name()] = old
			continue
		}
		r := otherRecord{info: info}
		r.volume, r.err = readOther(b.root, folder, e.Name())
		switch {
		case errors.Is(r.err, fs.ErrNotExist):
			continue
		case errors.Is(r.err, volume.ErrUnknown): // to remember that would be to pass over a volume
			return r.err
		}
		records[e.Name()] = r
	}
	f.records, f.changed = records, info.ModTime()
	f.settled = ours.ModTime().Sub(f.changed) > settleTime
	return nil
}

func sameFile(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

func readOther(root *os.Root, folder, file string) (volume.Volume, error) {
	n, err := recordName(file)
	if err != nil {
		return volume.Volume{}, err
	}
	text, err := root.ReadFile(path.Join(folder, "volumes", file))
	if err != nil {
		return volume.Volume{}, readError(true, err)
	}
	return parseRecord(folder, n, text)
}

// outsideOfPools refuses a path in the root of another pool: one whose share begins further
// down in the tree of the same server, so that its records are not where ours are.
func (b *Backend) outsideOfPools(v volume.Volume) error {
	for folder := path.Dir(v.Path.String()); folder != "."; folder = path.Dir(folder) {
		isPool, err := b.exists(path.Join(folder, Private))
		if err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
		if isPool {
			return anotherPool(v, path.Join(b.path, folder))
		}
	}
	return nil
}

func anotherPool(v volume.Volume, root string) error {
	return fmt.Errorf("%w: volume %s: %s is the root of another pool (it has %s in it): choose another path", volume.ErrForeign, v.Name, root, Private)
}
