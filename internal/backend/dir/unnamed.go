package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/berth-storage/berth/internal/volume"
)

// Unnamed is the part of a root of the cluster whose name may not be read.
const Unnamed = "unknown"

// inherit makes the part of the unnamed cluster that of b's cluster, which has none yet,
// if one of its volumes is ours: it was made before the cluster's name could be read.
func (b *Backend) inherit(ctx context.Context, o Options) error {
	unnamed := Folder(Unnamed)
	if o.Ours == nil || b.folder == Private || b.folder == unnamed {
		return nil
	}
	if _, err := b.root.Lstat(b.folder); !errors.Is(err, fs.ErrNotExist) {
		return err // it has a part
	}
	private, err := b.root.OpenRoot(unnamed)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer private.Close()
	records, err := openRecords(private, unnamed)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	ours, err := records.any(o.Ours)
	if err := errors.Join(err, records.Close()); err != nil || !ours {
		return err
	}
	// Whoever is at work there must not lose the ground under his feet.
	lock, err := acquire(ctx, private, b.path, o.Wait)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := b.root.Rename(unnamed, b.folder); err != nil {
		return fmt.Errorf("making the part of the cluster without a name that of cluster %s: %w", o.Cluster, err)
	}
	parts, err := b.root.OpenRoot(clusters)
	if err != nil {
		return err
	}
	return errors.Join(syncFolder(parts), parts.Close())
}

// any says whether a record's name is one that f knows.
func (s recordStore) any(f func(volume.Name) bool) (bool, error) {
	files, err := s.names()
	if err != nil {
		return false, err
	}
	for _, file := range files {
		if n, err := recordName(file); err == nil && f(n) {
			return true, nil
		}
	}
	return false, nil
}
