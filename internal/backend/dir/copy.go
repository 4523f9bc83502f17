package dir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/copytree"
	"github.com/berth-storage/berth/internal/volume"
)

// copyTree copies what is in from into to, which is empty. What would be missing in the
// copy is an error, since nobody could tell the copy from a whole one.
func (b *Backend) copyTree(ctx context.Context, from, to *os.File, p *volume.Progress) error {
	done, err := copytree.Copy(ctx, from, to, copytree.Options{Progress: p})
	if b.onNFS && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)) {
		return fmt.Errorf("%w: the NFS server does not let root read or write everything (root_squash); "+
			"export the share to this host with no_root_squash: %w", volume.ErrUnsupported, err)
	}
	if err != nil || len(done.Lost) == 0 {
		return err
	}
	var lost []string
	for _, l := range done.Lost {
		lost = append(lost, l.String())
	}
	return fmt.Errorf("%w: the copy would lack %s; Berth needs the capabilities for that (MKNOD for devices, SETFCAP for file capabilities, "+
		"FSETID for setgid bits)", volume.ErrUnsupported, strings.Join(lost, "; "))
}
