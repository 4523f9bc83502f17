package dir

import (
	"context"
	"errors"
	"fmt"
	"os"

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
	done, err := copytree.Copy(ctx, from, to, copytree.Options{Progress: p})
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
