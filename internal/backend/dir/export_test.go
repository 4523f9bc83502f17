package dir

import "github.com/berth-storage/berth/internal/volume"

// ParseRecord is for the fuzz test.
func ParseRecord(n volume.Name, text []byte) (volume.Volume, error) {
	return parseRecord(Private, n, text)
}
