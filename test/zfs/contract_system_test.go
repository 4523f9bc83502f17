//go:build system

package zfs

import (
	"testing"

	"github.com/berth-storage/berth/internal/backend/zfs"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
	"github.com/berth-storage/berth/test/vm"
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

// Clones of clones are freed in any order, here as on zfs-fuse, where there are more steps: a command of zfs
// takes a tenth of a second to start in the guest.
func TestRandomClones(t *testing.T) {
	for on, steps := range map[zfs.OnClones]int{zfs.OnClonesWait: 150, zfs.OnClonesPromote: 75} {
		t.Run(string(on), func(t *testing.T) {
			parent := newParent(t)
			b := open(t, zfs.Options{Dataset: parent, OnClones: on, Sizing: volume.SizingQuota})
			volumetest.Model(t, b, 2, steps)
			if left := vm.Sh(t, `zfs list -rHo name -t all "$1"`, parent); left != parent+"\n"+parent+"/.berth\n" {
				t.Errorf("what is left:\n%s", left)
			}
		})
	}
}
