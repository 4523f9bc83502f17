package dir

import (
	"context"
	"os"

	"github.com/berth-storage/berth/internal/volume"
)

// TakeForShare has b read its records as those of a share.
func TakeForShare(b *Backend) { b.records.onNFS = true }

// ParseRecord is for the fuzz test.
func ParseRecord(n volume.Name, text []byte) (volume.Volume, error) {
	return parseRecord(Private, n, text)
}

// RemoveTree is how Purge removes what is in the trash.
func RemoveTree(ctx context.Context, parent *os.File, name string) error {
	return removeTree(ctx, parent, name, nil)
}
