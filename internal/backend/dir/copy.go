package dir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/copytree"
	"github.com/berth-storage/berth/internal/volume"
)

// copyTree copies what is in from into to, which is empty. What would be missing in the
// copy is an error, since nobody could tell the copy from a whole one.
func (b *Backend) copyTree(ctx context.Context, from, to *os.File, p *volume.Progress) error {
	over, err := p.Turn(ctx)
	if err != nil {
		return err
	}
	defer over()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	done, err := copytree.Copy(ctx, from, to, copytree.Options{Progress: newSparing(p, to, end)})
	if full := context.Cause(ctx); errors.Is(full, volume.ErrNoSpace) {
		return full
	}
	if b.onNFS && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)) {
		return fmt.Errorf("%w: the NFS server does not let root read or write everything (root_squash); "+
			"export the share to this host with no_root_squash: %w", volume.ErrUnsupported, err)
	}
	if errors.Is(err, copytree.ErrTooMuch) {
		return fmt.Errorf("%w: %w", volume.ErrUnsupported, err)
	}
	if err != nil {
		return err
	}
	if err := done.Lacks(); err != nil { // nobody could tell it from a whole one
		return fmt.Errorf("%w: %w", volume.ErrUnsupported, err)
	}
	return nil
}

// What a copy leaves free: a twentieth of the file system, but not more than a GiB. Nothing if that is less than
// copytree may copy before it tells of it.
const (
	spareParts = 20
	spareMost  = 1 << 30
	spareLeast = 16 << 20
)

// sparing counts what a copy does, and ends it before it takes the last of what others write to. A copy
// that does not fit is tried again and again, and each time nobody could write.
type sparing struct {
	*volume.Progress
	in    *os.File
	end   context.CancelCauseFunc
	spare uint64       // bytes
	since atomic.Int64 // bytes, since it was last looked
}

// newSparing has a copy to a folder ended by end.
func newSparing(p *volume.Progress, to *os.File, end context.CancelCauseFunc) *sparing {
	s := &sparing{Progress: p, in: to, end: end}
	var fs unix.Statfs_t
	if unix.Fstatfs(int(to.Fd()), &fs) == nil {
		s.spare = min(fs.Blocks*uint64(fs.Bsize)/spareParts, spareMost)
	}
	if s.spare < spareLeast {
		s.spare = 0
	}
	return s
}

// Add implements copytree.Progress.
func (s *sparing) Add(files, bytes int64) {
	const inode, looks = 4096, 16 // bytes, and how often it is looked while as much is copied as is to stay free
	s.Progress.Add(files, bytes)
	if s.spare == 0 || s.since.Add(bytes+files*inode) < int64(s.spare/looks) {
		return
	}
	s.since.Store(0)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(s.in.Fd()), &fs); err != nil {
		return // writing will say what is wrong
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < s.spare {
		s.end(fmt.Errorf("%w: the copy would take the last %d bytes of the pool, which are left to those who write to volumes", volume.ErrNoSpace, s.spare))
	}
}
