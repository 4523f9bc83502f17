// Package btrfs makes and deletes subvolumes and snapshots, and limits them by qgroups, with the
// ioctls of btrfs; see btrfs-ioctl(3), btrfs-subvolume(8) and btrfs-qgroup(8). All but
// making these needs the capability SYS_ADMIN.
package btrfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Is says whether dir is on btrfs.
func Is(dir *os.File) (bool, error) {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &s); err != nil {
		return false, &os.PathError{Op: "statfs", Path: dir.Name(), Err: err}
	}
	return s.Type == unix.BTRFS_SUPER_MAGIC, nil
}

// topInode is the inode number of a subvolume's top directory
// (BTRFS_FIRST_FREE_OBJECTID), which no other directory of btrfs has.
const topInode = 256

// SubvolumeID gives the id of the subvolume that dir is in, and whether dir is its top
// directory. Ids are never used again. On other file systems it fails.
func SubvolumeID(dir *os.File) (id uint64, top bool, err error) {
	var s unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &s); err != nil {
		return 0, false, &os.PathError{Op: "stat", Path: dir.Name(), Err: err}
	}
	a := lookupArgs{object: topInode}
	if err := call(dir, inoLookup, unsafe.Pointer(&a)); err != nil {
		return 0, false, fmt.Errorf("subvolume of %s: %w", dir.Name(), err)
	}
	return a.tree, s.Ino == topInode, nil
}

// CreateSubvolume makes an empty subvolume in parent.
func CreateSubvolume(parent *os.File, name string) error {
	return named(parent, name, subvolCreate, "making")
}

// Snapshot makes a subvolume in parent that holds what source holds, which is the top
// directory of one on the same file system. What was written to that before is in it,
// also what was in memory only, and it is durable with what was done to the file system before:
// making it writes the source to the disk and commits. Subvolumes in source are empty folders there.
func Snapshot(parent *os.File, name string, source *os.File, readOnly bool) error {
	a := snapshotArgs{source: int64(source.Fd())}
	if readOnly {
		a.flags = subvolReadOnly
	}
	if len(name) >= len(a.name) {
		return fmt.Errorf("making a snapshot %s in %s: %w", name, parent.Name(), unix.ENAMETOOLONG)
	}
	copy(a.name[:], name)
	err := call(parent, snapCreate, unsafe.Pointer(&a))
	runtime.KeepAlive(source)
	if err != nil {
		return fmt.Errorf("making a snapshot %s in %s of %s: %w", name, parent.Name(), source.Name(), err)
	}
	return nil
}

// MakeWritable makes a subvolume that is read-only one that is not. dir is its top directory.
func MakeWritable(dir *os.File) error {
	var flags uint64
	err := call(dir, subvolGetFlags, unsafe.Pointer(&flags))
	if err == nil && flags&subvolReadOnly != 0 {
		flags &^= subvolReadOnly
		err = call(dir, subvolSetFlags, unsafe.Pointer(&flags))
	}
	if err != nil {
		return fmt.Errorf("making subvolume %s writable: %w", dir.Name(), err)
	}
	return nil
}

// DeleteSubvolume deletes a subvolume with all that is in it. unix.ENOTEMPTY: there are
// other subvolumes in it. What it took up is freed later, see AwaitDeleted.
func DeleteSubvolume(parent *os.File, name string) error {
	return named(parent, name, snapDestroy, "deleting")
}

func named(parent *os.File, name string, request uintptr, doing string) error {
	var a volumeArgs
	if len(name) >= len(a.name) {
		return fmt.Errorf("%s subvolume %s in %s: %w", doing, name, parent.Name(), unix.ENAMETOOLONG)
	}
	copy(a.name[:], name)
	if err := call(parent, request, unsafe.Pointer(&a)); err != nil {
		return fmt.Errorf("%s subvolume %s in %s: %w", doing, name, parent.Name(), err)
	}
	return nil
}

const (
	awaitMin = 5 * time.Millisecond
	awaitMax = time.Second
	pokeFrom = 40 * time.Millisecond
)

// AwaitDeleted waits until a subvolume that was deleted is gone with all that it took
// up. dir is any directory of the file system.
func AwaitDeleted(ctx context.Context, dir *os.File, id uint64) error {
	for wait := awaitMin; ; wait = min(2*wait, awaitMax) {
		_, err := search(dir, rootTree, searchKey{object: id, kind: rootItem, anyOffset: true})
		if errors.Is(err, errNoItem) {
			return nil
		}
		if err == nil && wait >= pokeFrom {
			// The kernel thread that deletes sleeps for half a minute if the commit came
			// at the wrong moment; a sync wakes it.
			err = call(dir, syncAll, nil)
		}
		if err != nil {
			return fmt.Errorf("waiting for subvolume %d to go: %w", id, err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// Commit makes durable what was done to the file system so far, but not what waits to
// be written of files: fsync(2) of a directory does not include qgroups.
func Commit(dir *os.File) error {
	var transaction uint64
	err := call(dir, startSync, unsafe.Pointer(&transaction))
	if err == nil {
		err = call(dir, waitSync, unsafe.Pointer(&transaction))
	}
	if err != nil {
		return fmt.Errorf("committing the file system of %s: %w", dir.Name(), err)
	}
	return nil
}

// ErrNoQuota says that quotas are not enabled on a file system.
var ErrNoQuota = errors.New("quotas are not enabled on it")

// Quota says whether quotas are enabled on the file system of dir: ErrNoQuota if they
// are not.
func Quota(dir *os.File) error {
	item, err := search(dir, quotaTree, searchKey{kind: qgroupStatus})
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, errNoItem), err == nil && item.word(2)&statusOn == 0:
		return ErrNoQuota
	case err != nil:
		return fmt.Errorf("quotas of %s: %w", dir.Name(), err)
	}
	return nil
}

// SetLimit limits what a subvolume may refer to, in bytes; 0 is no limit.
func SetLimit(dir *os.File, id, bytes uint64) error {
	a := limitArgs{qgroup: id, flags: limitReferenced, referenced: bytes}
	if bytes == 0 {
		a.referenced = noLimit
	}
	if err := call(dir, qgroupLimit, unsafe.Pointer(&a)); err != nil {
		return fmt.Errorf("limiting subvolume %d: %w", id, err)
	}
	return nil
}

// Usage gives what a subvolume refers to, as of the last commit, and its limit, both in
// bytes. ErrNoQuota if nothing is counted for it.
func Usage(dir *os.File, id uint64) (used, limit uint64, err error) {
	info, err := search(dir, quotaTree, searchKey{kind: qgroupInfoItem, offset: id})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, errNoItem) {
		return 0, 0, ErrNoQuota
	}
	if err != nil {
		return 0, 0, fmt.Errorf("what subvolume %d takes up: %w", id, err)
	}
	limits, err := search(dir, quotaTree, searchKey{kind: qgroupLimitItem, offset: id})
	if err != nil && !errors.Is(err, errNoItem) {
		return 0, 0, fmt.Errorf("the limit of subvolume %d: %w", id, err)
	}
	if err == nil && limits.word(0)&limitReferenced != 0 {
		limit = limits.word(1)
	}
	return info.word(1), limit, nil
}

// RemoveQGroup removes what counted a subvolume that is gone. That there is none is
// success: newer kernels remove it themselves.
func RemoveQGroup(dir *os.File, id uint64) error {
	a := qgroupArgs{qgroup: id}
	err := call(dir, qgroupCreate, unsafe.Pointer(&a))
	// ENOTCONN: quotas have been disabled since then.
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTCONN) {
		return fmt.Errorf("removing the qgroup of subvolume %d: %w", id, err)
	}
	return nil
}
