package dir

import "github.com/berth-storage/berth/internal/volume"

// TakeForShare has b read its records as those of a share.
func TakeForShare(b *Backend) { b.records.onNFS = true }

// ParseRecord is for the fuzz test.
func ParseRecord(n volume.Name, text []byte) (volume.Volume, error) {
	return parseRecord(Private, n, text)
}
