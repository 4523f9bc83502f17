// Package quota limits what trees of directories take up by the project quotas of
// xfs and ext4, with system calls only: xfs_quota(8) and setquota(8) need not be
// installed, and a container needs no block device.
//
// A project is a number that files bear. A directory with a project gives it to all
// that is made in it, and the file system counts, and limits, what the files of a
// project take up together. See xfs_quota(8), ext4(5) and quotactl(2).
package quota

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Amount is a number of bytes and of inodes. As a limit, 0 is none.
type Amount struct {
	Bytes  uint64
	Inodes uint64
}

// FS is a file system that enforces project quotas.
type FS struct {
	kind string // as mount(8) calls it
	unit uint64 // limits are multiples of it, in bytes
	call quotactl
}

// Open gives the file system that dir is on, if it enforces project quotas and this
// process may set them; else an *UnavailableError. dir has to stay open.
func Open(dir *os.File) (*FS, error) {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &s); err != nil {
		return nil, &os.PathError{Op: "statfs", Path: dir.Name(), Err: err}
	}
	f := &FS{}
	switch s.Type {
	case unix.XFS_SUPER_MAGIC:
		f.kind, f.unit = "xfs", uint64(s.Bsize) // it rounds limits up to whole blocks
	case unix.EXT4_SUPER_MAGIC:
		f.kind, f.unit = "ext4", 1024 // in its quota file
	default:
		return nil, &UnavailableError{Reason: "the file system is none that has quotas for directories: xfs, ext4 and btrfs have"}
	}
	where := mountOf(dir)
	f.call = quotactlOf(dir, where.source)
	if err := f.check(); err != nil {
		why := &UnavailableError{Reason: err.Error(), Err: err}
		if errors.Is(err, errOff) {
			why.Remedy = where.remedy(f.kind)
		}
		return nil, why
	}
	return f, nil
}

var errOff = errors.New("the file system does not enforce project quotas")

// check says whether limits are enforced, which the mount options alone do not tell.
func (f *FS) check() error {
	v := statv{version: statvVersion}
	err := f.call(qXGetQStatV, 0, unsafe.Pointer(&v))
	// ENOSYS: this file system counts no quota at all, or the kernel knows none.
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || err == nil && v.flags&projectEnforced == 0 {
		return errOff
	}
	if err == nil {
		_, _, err = f.Get(0) // needs the same capability as setting a limit
	}
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("setting quotas needs the capability SYS_ADMIN: %w", err)
	}
	return err
}

// Kind is the file system's name: xfs or ext4.
func (f *FS) Kind() string { return f.kind }

// Round gives the limit in bytes that the file system makes of one: the same or a
// little more.
func (f *FS) Round(bytes uint64) uint64 {
	if over := bytes % f.unit; over != 0 {
		return bytes + f.unit - over
	}
	return bytes
}

// Get gives what the files of a project take up, and its limit.
func (f *FS) Get(project uint32) (used, limit Amount, err error) {
	var q diskQuota
	err = f.call(qXGetQuota, project, unsafe.Pointer(&q))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return Amount{}, Amount{}, nil // no file has it, and it never had a limit
	}
	if err != nil {
		return Amount{}, Amount{}, fmt.Errorf("reading the quota of project %d: %w", project, err)
	}
	return Amount{q.blocks * quotaBlock, q.inodes}, Amount{q.blocksHard * quotaBlock, q.inodesHard}, nil
}

// SetLimit limits what the files of a project may take up. What they take up already
// stays.
func (f *FS) SetLimit(project uint32, limit Amount) error {
	if project == 0 {
		return errors.New("project 0 is what belongs to no project; it has no limit")
	}
	q := diskQuota{
		version: diskQuotaVersion, flags: projectQuota, id: project,
		fields:     fieldBlocksHard | fieldBlocksSoft | fieldInodesHard | fieldInodesSoft,
		blocksHard: f.Round(limit.Bytes) / quotaBlock, inodesHard: limit.Inodes,
	}
	if err := f.call(qXSetLimit, project, unsafe.Pointer(&q)); err != nil {
		return fmt.Errorf("setting the quota of project %d: %w", project, err)
	}
	return nil
}

// Project gives the project of a directory, 0 for none, and whether what is made in
// it gets the same one.
func Project(dir *os.File) (id uint32, inherited bool, err error) {
	a, err := getAttributes(dir)
	return a.project, a.flags&projectInherit != 0, err
}

// SetProject gives a directory a project, which all that is made in it from then on
// inherits; 0 takes it away. What is in it already stays as it is.
func SetProject(dir *os.File, id uint32) error {
	a, err := getAttributes(dir)
	if err != nil {
		return err
	}
	a.project = id
	if id != 0 {
		a.flags |= projectInherit
	} else {
		a.flags &^= projectInherit
	}
	if err := ioctl(dir, setXattr, unsafe.Pointer(&a)); err != nil {
		return &os.PathError{Op: "set project of", Path: dir.Name(), Err: err}
	}
	return nil
}

func getAttributes(dir *os.File) (attributes, error) {
	var a attributes
	if err := ioctl(dir, getXattr, unsafe.Pointer(&a)); err != nil {
		return a, &os.PathError{Op: "get project of", Path: dir.Name(), Err: err}
	}
	return a, nil
}
