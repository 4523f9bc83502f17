package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/berth-storage/berth/internal/volume"
)

// Inspection is what lies in a pool.
type Inspection struct {
	Identity string
	Advisory error // why new volumes are not limited; nil: they are
	Reports  []volume.Report
	// Problems are what is wrong with single volumes: a record that cannot be read, a
	// directory or a limit that the record tells of and that is not there.
	Problems []error
	// Unknown are the paths of what no record names.
	Unknown []string
}

// Inspect reads the pool at root. It takes no lock and changes nothing, so that it can
// be called while another process works there: a volume that comes or goes meanwhile
// may be in it or not. The cluster is that of Options, want is what the pool's
// configuration says of quotas.
func Inspect(ctx context.Context, root, cluster string, want Quota) (_ Inspection, err error) {
	view, err := OpenView(root, cluster)
	if err != nil {
		return Inspection{}, err
	}
	b := &view.b
	defer func() { err = errors.Join(err, b.Close()) }()
	identity, err := b.root.ReadFile(b.folder + "/identity")
	if errors.Is(err, fs.ErrNotExist) {
		return Inspection{}, fmt.Errorf("%w: %s is the root of no pool: it has no %s/identity", volume.ErrForeign, root, b.folder)
	}
	if err != nil {
		return Inspection{}, fmt.Errorf("pool root: %w", err)
	}
	b.identity = strings.TrimSpace(string(identity))
	if want == QuotaRequired {
		want = QuotaAuto // that they are missing is to be told, not to be refused
	}
	if err := b.openLimiter(ctx, want); err != nil {
		return Inspection{}, err
	}
	return b.inspect(ctx)
}

func (b *Backend) inspect(ctx context.Context) (Inspection, error) {
	i := Inspection{Identity: b.identity, Advisory: b.advisory}
	for v, err := range b.List(ctx) {
		if errors.Is(err, volume.ErrUnknown) || ctx.Err() != nil {
			return i, err
		}
		if err != nil {
			i.Problems = append(i.Problems, err)
			continue
		}
		report, err := b.report(ctx, v)
		i.Reports = append(i.Reports, report)
		if err != nil {
			i.Problems = append(i.Problems, err)
		}
	}
	k, err := b.known(ctx)
	if err != nil {
		return i, err
	}
	found, err := b.found(k)
	if err != nil || len(found) == 0 {
		return i, err
	}
	// It may be what was made since the records were read, or was purged.
	if k, err = b.known(ctx); err != nil {
		return i, err
	}
	for _, path := range found {
		if _, err := b.root.Lstat(path); err == nil && !k.paths[path] && !k.folders[path] {
			i.Unknown = append(i.Unknown, filepath.Join(b.path, path))
		}
	}
	return i, nil
}

// known is what records name, those of other clusters too. All is below the root.
type known struct {
	paths   map[string]bool
	folders map[string]bool // in which paths lie
}

func (b *Backend) known(ctx context.Context) (known, error) {
	k := known{
		paths:   map[string]bool{Private: true, lostFound: true},
		folders: map[string]bool{".": true},
	}
	records, err := b.records.names()
	if err != nil {
		return k, err
	}
	for _, file := range records { // also those that cannot be read
		if n, err := recordName(file); err == nil {
			k.paths[n.String()] = true
			for _, folder := range []string{"trash", "archive", "snapshots"} {
				k.paths[path.Join(b.folder, folder, n.String())] = true
			}
		}
	}
	for v, err := range b.List(ctx) {
		if errors.Is(err, volume.ErrUnknown) || ctx.Err() != nil {
			return k, err
		}
		if err == nil {
			k.add(v)
		}
	}
	theirs, err := b.others.all(b)
	for _, v := range theirs {
		k.add(v)
	}
	return k, err
}

func (k known) add(v volume.Volume) {
	if isSnapshot(v) {
		return // known by its name
	}
	for _, p := range []string{v.Path.String(), v.ArchivePath} {
		if p == "" {
			continue
		}
		k.paths[p] = true
		for p = path.Dir(p); p != "."; p = path.Dir(p) {
			k.folders[p] = true
		}
	}
}

// found gives what lies where volumes and discarded volumes do and is not known, in order.
func (b *Backend) found(k known) ([]string, error) {
	folders := []string{b.folder + "/trash", b.folder + "/archive", b.folder + "/snapshots"}
	for folder := range k.folders {
		if folder != Private && !strings.HasPrefix(folder, Private+"/") {
			folders = append(folders, folder)
		}
	}
	var paths []string
	for _, folder := range folders {
		entries, err := fs.ReadDir(b.root.FS(), folder)
		if errors.Is(err, fs.ErrNotExist) && folder != "." { // gone with its last volume, or never made
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%w: reading %s: %w", volume.ErrUnknown, filepath.Join(b.path, folder), err)
		}
		for _, e := range entries {
			if p := path.Join(folder, e.Name()); !k.paths[p] && !k.folders[p] {
				paths = append(paths, p)
			}
		}
	}
	slices.Sort(paths)
	return paths, nil
}

// report tells what v takes up, and what of it is not as its record says.
func (b *Backend) report(ctx context.Context, v volume.Volume) (volume.Report, error) {
	r := volume.Report{Volume: v}
	var wrong []error
	u, err := b.Usage(ctx, v)
	switch {
	case err == nil:
		r.Usage = &u
		if r.Limit == volume.LimitNone { // it was set since then
			r.Limit = LimitServer
		}
	case v.Limit != volume.LimitNone:
		wrong = append(wrong, err)
	}
	switch v.State {
	case volume.StateReady, volume.StateRetained, volume.StateArchived, volume.StateSnapshot:
		if _, err := b.root.Lstat(b.place(v)); err != nil {
			wrong = append(wrong, fmt.Errorf("volume %s: its directory: %w", v.Name, err))
		}
		// A quota of a share's server is as great as its administrator likes.
		enough := isSnapshot(v) || r.Limit == LimitServer && u.LimitBytes > uint64(v.Size)
		if r.Usage != nil && u.LimitBytes != uint64(v.Size) && !enough {
			wrong = append(wrong, fmt.Errorf("volume %s: its record says %d bytes (%s), the file system limits it to %d (0: not at all)",
				v.Name, v.Size, v.Limit, u.LimitBytes))
		}
	}
	return r, errors.Join(wrong...)
}
