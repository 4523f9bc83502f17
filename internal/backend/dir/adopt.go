package dir

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/quota"
	"github.com/berth-storage/berth/internal/volume"
)

// View is a root to look at. It makes nothing there and takes no lock, so that it
// works beside a process that has the pool open, and on a root that is no pool yet.
type View struct{ b Backend }

// OpenView opens the root, an absolute path of an existing directory. The cluster is
// that of Options.
func OpenView(root, cluster string) (_ *View, err error) {
	v := &View{Backend{path: root, folder: Folder(cluster)}}
	defer func() {
		if err != nil {
			err = errors.Join(err, v.Close())
		}
	}()
	if v.b.root, err = os.OpenRoot(root); err != nil {
		return nil, fmt.Errorf("pool root: %w", err)
	}
	if v.b.rootDir, err = v.b.root.Open("."); err != nil {
		return nil, fmt.Errorf("pool root: %w", err)
	}
	if v.b.onNFS, err = isNFS(v.b.rootDir); err != nil {
		return nil, fmt.Errorf("pool root: %w", err)
	}
	v.b.private, err = v.b.root.OpenRoot(v.b.folder)
	if errors.Is(err, fs.ErrNotExist) {
		return v, nil
	}
	if err != nil {
		return nil, fmt.Errorf("pool root: %w", err)
	}
	v.b.records, err = openRecords(v.b.private, v.b.folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return v, nil
}

// Close lets go of the root.
func (v *View) Close() error { return v.b.Close() }

// List is Backend.List. A root that is no pool yet has no volumes.
func (v *View) List(ctx context.Context) iter.Seq2[volume.Volume, error] {
	if v.b.records.dir == nil {
		return func(func(volume.Volume, error) bool) {}
	}
	return v.b.List(ctx)
}

// Look is Backend.Look.
func (v *View) Look(ctx context.Context, p volume.RelPath) (volume.Found, error) {
	return v.b.Look(ctx, p)
}

// Folders is Backend.Folders.
func (v *View) Folders(ctx context.Context) ([]string, error) { return v.b.Folders(ctx) }

// Look says what the directory at p is like. ErrNotFound if there is none, ErrForeign
// if something else lies there: a file, a symbolic link, another file system.
func (b *Backend) Look(ctx context.Context, p volume.RelPath) (volume.Found, error) {
	if err := ctx.Err(); err != nil {
		return volume.Found{}, err
	}
	d, err := b.openFound(p)
	if err != nil {
		return volume.Found{}, err
	}
	defer d.Close()
	return describe(d)
}

func describe(d *os.File) (volume.Found, error) {
	var s unix.Stat_t
	if err := unix.Fstat(int(d.Fd()), &s); err != nil {
		return volume.Found{}, &os.PathError{Op: "stat", Path: d.Name(), Err: err}
	}
	found := volume.Found{Owner: volume.Owner{UID: s.Uid, GID: s.Gid, Mode: s.Mode & 0o7777}}
	// File systems without projects do not know the question.
	if project, inherited, err := quota.Project(d); err == nil && inherited {
		found.Project = project
	}
	return found, nil
}

// openFound opens a directory that Berth did not make. Another file system cannot be
// moved to the trash, nor can what is behind a link.
func (b *Backend) openFound(p volume.RelPath) (*os.File, error) {
	d, err := b.openBelow(p.String())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: there is no %s", volume.ErrNotFound, p.Below(b.path))
	}
	return d, err
}

// Folders are the names of the directories below the root, without Berth's own and that
// of a file system's lost files.
func (b *Backend) Folders(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d, err := b.root.Open(".")
	if err != nil {
		return nil, fmt.Errorf("pool root: %w", err)
	}
	defer d.Close()
	var names []string
	for {
		entries, err := d.ReadDir(1024)
		for _, e := range entries {
			if e.IsDir() && e.Name() != Private && e.Name() != lostFound {
				names = append(names, e.Name())
			}
		}
		if errors.Is(err, io.EOF) {
			slices.Sort(names)
			return names, nil
		}
		if err != nil {
			return nil, fmt.Errorf("pool root: %w", err)
		}
	}
}

// Adopt writes a record of v, a volume that another program made: ready, with the owner
// and mode that its directory has. The directory and what is in it stay as they are. If
// v has a QuotaID that the directory bears and that has a limit, that limits v.
// ErrExists if v's name or export id has a record, ErrForeign if another cluster has a
// volume in, at or around its path, and the errors of Look.
func (b *Backend) Adopt(ctx context.Context, v volume.Volume) (volume.Volume, error) {
	switch _, err := b.Get(ctx, v.Name); {
	case err == nil:
		return volume.Volume{}, fmt.Errorf("%w: volume %s has a record", volume.ErrExists, v.Name)
	case !errors.Is(err, volume.ErrNotFound):
		return volume.Volume{}, err
	}
	d, err := b.openFound(v.Path)
	if err != nil {
		return volume.Volume{}, err
	}
	defer d.Close()
	found, err := describe(d)
	if err != nil {
		return volume.Volume{}, err
	}
	v.Owner, v.State, v.Rev, v.Limit = found.Owner, volume.StateReady, 0, volume.LimitNone
	p, counts := b.limiter.(*projects)
	if !counts || v.QuotaID != uint64(found.Project) {
		v.QuotaID = 0
	}
	if v.QuotaID != 0 {
		if err := p.adopt(&v); err != nil {
			return volume.Volume{}, fmt.Errorf("volume %s: %w", v.Name, err)
		}
	}
	if err := b.others.check(ctx, b, v, v.Path); err != nil {
		return volume.Volume{}, err
	}
	if v, err = b.save(v); err != nil {
		return volume.Volume{}, err
	}
	// Again, now that they see ours: of two that begin at once one gives up.
	if err := b.others.check(ctx, b, v, v.Path); err != nil {
		return volume.Volume{}, errors.Join(err, b.records.remove(v.Name, recordSuffix))
	}
	return v, nil
}

// Adoption is the account of a finished adoption. As long as there is none, the volumes
// of the program before may still be nobody's.
type Adoption struct {
	From     string    `json:"from"` // the program
	Identity string    `json:"identity,omitempty"`
	Finished time.Time `json:"finished"`
	Adopted  int       `json:"adopted"` // volumes
	Left     int       `json:"left"`    // PersistentVolumes that were left alone
	// LastID is the highest export id that the program before has given out.
	LastID export.ID `json:"lastId"`
	// DeviceFSIDs says how its file handles name file systems.
	DeviceFSIDs bool `json:"deviceFsids"`
}

const adoptionFile = "adopted.json"

// Adoption reads the account. ErrNotFound if there is none.
func (b *Backend) Adoption() (a Adoption, err error) {
	text, err := b.private.ReadFile(adoptionFile)
	if errors.Is(err, fs.ErrNotExist) {
		return a, fmt.Errorf("%w: nothing was adopted in %s", volume.ErrNotFound, b.path)
	}
	if err == nil {
		err = json.Unmarshal(text, &a)
	}
	if err != nil {
		return a, fmt.Errorf("%s in %s, the account of what was adopted: %w", b.folder+"/"+adoptionFile, b.path, err)
	}
	return a, nil
}

// SetAdoption writes the account.
func (b *Backend) SetAdoption(a Adoption) error {
	text, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFile(b.private, b.onNFS, adoptionFile, append(text, '\n')); err != nil {
		return fmt.Errorf("the account of what was adopted: %w", noSpace(err))
	}
	return nil
}
