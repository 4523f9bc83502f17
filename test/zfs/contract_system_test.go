//go:build system

package zfs

import (
	"testing"

	"github.com/berth-storage/berth/internal/backend/zfs"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

// The contract of backends, on OpenZFS of this host.
func TestContract(t *testing.T) {
	parents := map[volume.Backend]string{}
	start := func(t *testing.T, parent string) volume.Backend {
		b := open(t, zfs.Options{Dataset: parent, Sizing: volume.SizingQuota})
		parents[b] = parent
		return b
	}
	volumetest.Suite{
		Open: func(t *testing.T) volume.Backend { return start(t, newParent(t)) },
		Reopen: func(t *testing.T, b volume.Backend) volume.Backend {
			if err := b.(*zfs.Backend).Close(); err != nil {
				t.Fatal(err)
			}
			return start(t, parents[b])
		},
	}.Run(t)
}
