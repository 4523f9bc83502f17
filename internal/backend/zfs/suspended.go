package zfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// kstats is where OpenZFS on Linux tells of its pools, without waiting for anything.
const kstats = "/proc/spl/kstat/zfs"

// Suspended says why nothing more is done in the pool of a dataset of this host: its disks do not answer,
// and by its property failmode it waits for them (zpoolprops(7)). Every command there would wait with it, and could
// not even be killed. Nil if it is not so, or if nobody can tell.
func Suspended(dataset string) error {
	pool, _, _ := strings.Cut(dataset, "/")
	state, _ := os.ReadFile(filepath.Join(kstats, pool, "state")) // only this ZFS has it
	if strings.TrimSpace(string(state)) != "SUSPENDED" {
		return nil
	}
	return fmt.Errorf("ZFS has suspended the pool %s, whose disks do not answer: mend that, and say zpool clear %s", pool, pool)
}
