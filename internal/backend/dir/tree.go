package dir

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/volume"
)

// resolve is how every path below the root is resolved, but that a volume's own
// directory may be the top of a mount of ours.
const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// openBelow opens a directory by its path below the root.
//
// What a name stands for, a client of NFS remembers for half a minute, and another cluster
// may have moved that to its trash meanwhile. It asks again when it sees that the folder
// has changed, so each folder on the way is asked about first.
func (b *Backend) openBelow(rel string) (*os.File, error) {
	if !b.onNFS {
		return openBelow(b.rootDir, rel, resolve)
	}
	at := b.rootDir
	for element := range strings.SplitSeq(rel, "/") {
		err := askAgain(at)
		var next *os.File
		if err == nil {
			next, err = openBelow(at, element, resolve)
		}
		if at != b.rootDir {
			err = errors.Join(err, at.Close())
		}
		if err != nil {
			return nil, err
		}
		at = next
	}
	if err := askAgain(at); err != nil {
		return nil, errors.Join(err, at.Close())
	}
	return at, nil
}

// askAgain has a client of NFS ask the server whether d has changed.
func askAgain(d *os.File) error {
	var s unix.Statx_t
	err := unix.Statx(int(d.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &s)
	return pathError("stat", d.Name(), err)
}

func openBelow(folder *os.File, rel string, resolve uint64) (*os.File, error) {
	where := path.Join(folder.Name(), rel)
	for {
		fd, err := unix.Openat2(int(folder.Fd()), rel, &unix.OpenHow{
			Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: resolve,
		})
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN): // EAGAIN: something was renamed meanwhile
			continue
		case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
			return nil, fmt.Errorf("%w: %s is not a directory, or not below a directory: a file or a symbolic link lies there", volume.ErrForeign, where)
		case errors.Is(err, unix.EXDEV):
			return nil, fmt.Errorf("%w: another file system is mounted at %s, or above it", volume.ErrForeign, where)
		case err != nil:
			return nil, &os.PathError{Op: "open", Path: where, Err: err}
		}
		return os.NewFile(uintptr(fd), where), nil
	}
}

// openParent opens the folder that rel lies in, and gives the name of rel there.
func (b *Backend) openParent(rel string) (parent *os.File, name string, err error) {
	parent, err = b.openBelow(path.Dir(rel))
	return parent, path.Base(rel), err
}

// exists says whether anything lies at rel, without following a link.
func (b *Backend) exists(rel string) (bool, error) {
	parent, name, err := b.openParent(rel)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer parent.Close()
	return existsIn(parent, name)
}

func existsIn(folder *os.File, name string) (bool, error) {
	var s unix.Stat_t
	err := unix.Fstatat(int(folder.Fd()), name, &s, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "stat", Path: path.Join(folder.Name(), name), Err: err}
	}
	return true, nil
}

// syncParent makes the name of v's directory durable.
func (b *Backend) syncParent(v volume.Volume) error {
	parent, _, err := b.openParent(b.home(v))
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}

// home is where v's directory is, below the root, as long as v is not archived.
func (b *Backend) home(v volume.Volume) string {
	if isSnapshot(v) {
		return b.folder + "/snapshots/" + v.Name.String()
	}
	return v.Path.String()
}

// place is where v's directory is, below the root.
func (b *Backend) place(v volume.Volume) string {
	if v.ArchivePath != "" && v.State != volume.StateArchiving {
		return v.ArchivePath
	}
	return b.home(v)
}

const inParentTries = 10

// inParent calls do with the folder that rel lies in, which is made if it is missing.
// Meanwhile no folder is removed; if another cluster removes it, it is made again.
func (b *Backend) inParent(rel string, do func(parent *os.File, name string) error) error {
	b.parentsMu.RLock()
	defer b.parentsMu.RUnlock()
	for try := 1; ; try++ {
		err := b.makeParents(path.Dir(rel))
		if err == nil {
			var parent *os.File
			var name string
			if parent, name, err = b.openParent(rel); err == nil {
				err = errors.Join(do(parent, name), parent.Close())
			}
		}
		if !errors.Is(err, fs.ErrNotExist) || try == inParentTries {
			return err
		}
	}
}

// makeParents makes the folder at rel and those above it, for root alone to write to.
func (b *Backend) makeParents(rel string) error {
	there, err := b.isFolder(rel)
	if err != nil || there {
		return err
	}
	b.makingMu.Lock()
	defer b.makingMu.Unlock()
	return b.makeFolder(rel)
}

func (b *Backend) isFolder(rel string) (bool, error) {
	d, err := b.openBelow(rel)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, d.Close()
}

func (b *Backend) makeFolder(rel string) error {
	there, err := b.isFolder(rel)
	if err != nil || there {
		return err
	}
	if err := b.makeFolder(path.Dir(rel)); err != nil {
		return err
	}
	parent, name, err := b.openParent(rel)
	if err != nil {
		return err
	}
	defer parent.Close()
	ours := b.isArchive(rel)
	mode := uint32(0o700)
	if !ours {
		mode = 0o755
		// First the note that it is ours: a crash after it leaves a note of nothing.
		if err := writeFile(b.private, b.onNFS, noteOf(rel), []byte(rel+"\n")); err != nil {
			return fmt.Errorf("note of %s: %w", path.Join(b.path, rel), err)
		}
	}
	if err := unix.Mkdirat(int(parent.Fd()), name, mode); err != nil && !errors.Is(err, unix.EEXIST) {
		return &os.PathError{Op: "mkdir", Path: path.Join(b.path, rel), Err: err}
	} else if err != nil { // another cluster made it just now
		if ours {
			return nil
		}
		return b.removeNote(rel)
	}
	d, err := b.openBelow(rel)
	if err != nil {
		return err
	}
	// mkdir's mode goes through the umask.
	return errors.Join(pathError("chmod", d.Name(), unix.Fchmod(int(d.Fd()), mode)), d.Close(), parent.Sync())
}

// noteOf is the file that says that Berth made the folder at rel.
func noteOf(rel string) string {
	sum := sha256.Sum256([]byte(rel))
	return "parents/" + hex.EncodeToString(sum[:16])
}

// occupy has nobody tidy away what is at rel or comes there: it is a volume's, or an archive,
// and may be empty. It may have been a folder that volumes lay in before.
func (b *Backend) occupy(rel string) error {
	b.parentsMu.RLock()
	defer b.parentsMu.RUnlock()
	return b.removeNote(rel)
}

// isOthers says whether a volume of another cluster may be at rel.
func (b *Backend) isOthers(rel string) bool {
	p, err := volume.ParseRelPath(rel)
	return err != nil || b.others.check(context.Background(), b, volume.Volume{}, p) != nil
}

func (b *Backend) removeNote(rel string) error {
	if err := b.private.Remove(noteOf(rel)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// tidy removes the folders that what is not at these paths any more lay in: those that Berth
// made, as far as nothing else is in them. rmdir(2) removes nothing else. It comes before
// the record that says that all is done, so that a crash leaves no folders. Tidying that
// fails is no reason to fail.
func (b *Backend) tidy(paths ...string) {
	b.parentsMu.Lock()
	defer b.parentsMu.Unlock()
	for _, rel := range paths {
		b.tidyOne(rel)
	}
}

func (b *Backend) tidyOne(rel string) {
	for rel = path.Dir(rel); rel != "."; rel = path.Dir(rel) {
		if !b.isArchive(rel) {
			// Without a note it is somebody else's; or it was removed, by a run that was cut off.
			if _, err := b.private.Lstat(noteOf(rel)); errors.Is(err, fs.ErrNotExist) {
				if there, err := b.exists(rel); there || err != nil {
					return
				}
				continue
			} else if err != nil || b.isOthers(rel) {
				return
			}
		}
		parent, name, err := b.openParent(rel)
		if err == nil {
			err = errors.Join(unix.Unlinkat(int(parent.Fd()), name, unix.AT_REMOVEDIR), parent.Close())
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return
		}
		if b.removeNote(rel) != nil {
			return
		}
	}
}

// isArchive says whether the folder at rel is one in Berth's own, made for an archive.
func (b *Backend) isArchive(rel string) bool { return strings.HasPrefix(rel, b.folder+"/archive/") }

// move moves what lies at from, whatever that is, to a name in a folder where nothing
// has it. A link is moved as one. fs.ErrNotExist if nothing lies at from.
func (b *Backend) move(from string, folder *os.File, name string) error {
	parent, old, err := b.openParent(from)
	if err != nil {
		return err
	}
	defer parent.Close()
	err = unix.Renameat2(int(parent.Fd()), old, int(folder.Fd()), name, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) { // NFS knows no such rename
		// Who could put something there now is root, or owns the share.
		if there, err := existsIn(folder, name); err != nil || there {
			return errors.Join(err, pathError("rename", path.Join(folder.Name(), name), unix.EEXIST))
		}
		err = unix.Renameat(int(parent.Fd()), old, int(folder.Fd()), name)
	}
	return pathError("rename", path.Join(b.path, from), err)
}

// moveTo moves what lies at from to the path to, and makes that durable.
func (b *Backend) moveTo(from, to string) error {
	source, _, err := b.openParent(from)
	if err != nil {
		return err
	}
	defer source.Close()
	return b.inParent(to, func(parent *os.File, name string) error {
		if there, err := existsIn(parent, name); err != nil || there {
			return errors.Join(err, fmt.Errorf("%w: something lies at %s", volume.ErrForeign, path.Join(b.path, to)))
		}
		if err := b.move(from, parent, name); err != nil {
			return err
		}
		return errors.Join(parent.Sync(), source.Sync())
	})
}
