package dir

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/berth-storage/berth/internal/volume"
)

// Options of Open.
type Options struct {
	// Wait, if not nil, is called with the holder when another process has the
	// pool open; Open then waits for that process to end instead of giving up.
	Wait func(Holder)
	// Quota says whether new volumes are kept to their sizes.
	Quota Quota
	// MountVolumes: the NFS server needs each subvolume of btrfs mounted by itself.
	MountVolumes bool
	// Cluster, if not "", names the part of one cluster in a root that others may have
	// parts of too: one element of a path, not hidden.
	Cluster string
	// Ours, if not nil, says whether a volume of that name is this cluster's. If Cluster has
	// no part yet, and one of the volumes in the part Unnamed is, that becomes Cluster's.
	Ours func(volume.Name) bool
	// LocalLocks: locks on the root are this host's alone. A process on another host may have
	// the same one then, and be at work at the same time.
	LocalLocks bool
	// ArchiveBeside: archives lie among the volumes, as archived-<path>, as far as that
	// place is free.
	ArchiveBeside bool
}

// Folder is the folder below a root, relative to it, that holds what is Berth's own for
// the cluster of Options.
func Folder(cluster string) string {
	if cluster == "" {
		return Private
	}
	return clusters + "/" + cluster
}

const (
	clusters = Private + "/clusters"
	// What file systems that were damaged put there may be anybody's.
	lostFound = "lost+found"
)

// Open opens the pool at root, an absolute path of an existing directory, and
// takes its lock: at any time one process works on a root. A pool that another
// process has open is a *LockedError.
func Open(ctx context.Context, root string, o Options) (_ *Backend, err error) {
	if !filepath.IsAbs(root) || filepath.Clean(root) != root {
		return nil, fmt.Errorf("pool root %q: not a clean absolute path", root)
	}
	if strings.HasPrefix(o.Cluster, ".") || strings.ContainsAny(o.Cluster, "/\x00") {
		return nil, fmt.Errorf("pool root %s: %q cannot name a cluster", root, o.Cluster)
	}
	b := &Backend{
		path: root, folder: Folder(o.Cluster), beside: o.ArchiveBeside, mountVolumes: o.MountVolumes, mounts: map[volume.Name]volume.Volume{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if b.root, err = os.OpenRoot(root); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("pool root %s does not exist: make it (mkdir -p %s), or mount its file system", root, root)
	} else if err != nil {
		return nil, fmt.Errorf("pool root: %w", err)
	}
	if b.rootDir, err = b.root.Open("."); err != nil {
		return nil, fmt.Errorf("pool root: %w", err)
	}
	if b.onNFS, err = isNFS(b.rootDir); err != nil {
		return nil, fmt.Errorf("pool root: %w", err)
	}
	if b.onNFS {
		spareProcessor()
	}
	if err := b.inherit(ctx, o); err != nil {
		return nil, fmt.Errorf("pool root %s: %w", root, err)
	}
	if err := b.openPrivate(); err != nil {
		return nil, fmt.Errorf("pool root %s: %w", root, err)
	}
	if b.lock, err = acquire(ctx, b.private, root, o.Wait); err != nil {
		return nil, err
	}
	if !o.LocalLocks {
		if b.holder, err = b.private.ReadFile(lockFile); err != nil {
			return nil, fmt.Errorf("pool root %s: lock: %w", root, err)
		}
	}
	if b.identity, b.isNew, err = loadIdentity(b.private); err != nil {
		return nil, err
	}
	if b.trash, err = b.private.Open("trash"); err != nil {
		return nil, fmt.Errorf("pool root: %w", err)
	}
	if b.records, err = openRecords(b.private, b.folder); err != nil {
		return nil, err
	}
	b.records.onNFS = b.onNFS
	if err := b.records.clean(); err != nil {
		return nil, err
	}
	if err := b.openLimiter(ctx, o.Quota); err != nil {
		return nil, fmt.Errorf("pool root %s: %w", root, err)
	}
	return b, nil
}

// openPrivate opens the folder of what is Berth's own, with all that is in it.
func (b *Backend) openPrivate() (err error) {
	folders := []string{Private}
	if b.folder != Private {
		folders = append(folders, clusters, b.folder)
	}
	for _, sub := range []string{"volumes", "trash", "archive", "snapshots", "parents"} {
		folders = append(folders, b.folder+"/"+sub)
	}
	for _, folder := range folders {
		err := b.root.Mkdir(folder, 0o700)
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w: on a share, its server may take root for somebody else (root_squash): "+
				"export it to this host with no_root_squash, or let that user write to its top folder", err)
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	b.private, err = b.root.OpenRoot(b.folder)
	return err
}

// Close lets go of the root and its lock.
func (b *Backend) Close() error {
	errs := []error{b.unmountAll()}
	if b.lock != nil {
		errs = append(errs, b.lock.Close())
	}
	if b.records.dir != nil {
		errs = append(errs, b.records.Close())
	}
	if b.trash != nil {
		errs = append(errs, b.trash.Close())
	}
	if b.private != nil {
		errs = append(errs, b.private.Close())
	}
	if b.rootDir != nil {
		errs = append(errs, b.rootDir.Close())
	}
	if b.root != nil {
		errs = append(errs, b.root.Close())
	}
	return errors.Join(errs...)
}

// Identity is the pool's own name, a UUID made when the root was first opened.
func (b *Backend) Identity() string { return b.identity }

// New says whether the pool was made by Open: the root held none before.
func (b *Backend) New() bool { return b.isNew }

func loadIdentity(private *os.Root) (identity string, isNew bool, err error) {
	text, err := private.ReadFile("identity")
	if id := strings.TrimSpace(string(text)); err == nil && id != "" {
		return id, false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", false, fmt.Errorf("pool identity: %w", err)
	}
	var u [16]byte
	if _, err := rand.Read(u[:]); err != nil {
		return "", false, fmt.Errorf("pool identity: %w", err)
	}
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80 // version 4, RFC 9562
	id := fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
	if err := writeFile(private, false, "identity", []byte(id+"\n")); err != nil {
		return "", false, fmt.Errorf("pool identity: %w", err)
	}
	return id, true, nil
}
