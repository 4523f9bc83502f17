package quota

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands of quotactl(2), from linux/dqblk_xfs.h. They are xfs's, and the kernel
// translates them for every other file system with quotas.
const (
	qXGetQuota  = 'X'<<8 + 3
	qXSetLimit  = 'X'<<8 + 4
	qXGetQStatV = 'X'<<8 + 8

	projectType = 2 // PRJQUOTA of linux/quota.h

	quotaBlock       = 512 // bytes
	diskQuotaVersion = 1
	statvVersion     = 1
	projectQuota     = 1 << 1 // FS_PROJ_QUOTA
	projectEnforced  = 1 << 5 // FS_QUOTA_PDQ_ENFD

	fieldInodesSoft = 1 << 0
	fieldInodesHard = 1 << 1
	fieldBlocksSoft = 1 << 2
	fieldBlocksHard = 1 << 3
)

// diskQuota is struct fs_disk_quota of linux/dqblk_xfs.h.
type diskQuota struct {
	version, flags         int8
	fields                 uint16
	id                     uint32
	blocksHard, blocksSoft uint64
	inodesHard, inodesSoft uint64
	blocks, inodes         uint64 // in use
	_                      [48]byte
}

// statv is struct fs_quota_statv of linux/dqblk_xfs.h.
type statv struct {
	version int8
	_       uint8
	flags   uint16
	_       [156]byte
}

// The requests FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR of linux/fs.h, see
// ioctl_xfs_fsgetxattr(2).
const (
	getXattr       = 0x801c581f
	setXattr       = 0x401c5820
	projectInherit = 0x200 // FS_XFLAG_PROJINHERIT
)

// attributes is struct fsxattr of linux/fs.h.
type attributes struct {
	flags, extentSize, extents uint32
	project                    uint32
	_                          [12]byte
}

// quotactl is a call for the project quotas of one file system.
type quotactl func(command, id uint32, argument unsafe.Pointer) error

// quotactlOf gives the call for the file system that dir is on, whose block device is
// device. Kernels since 5.14 take the directory itself, which needs no device: a
// container has none.
func quotactlOf(dir *os.File, device string) quotactl {
	if _, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, ^uintptr(0), 0, 0, 0, 0, 0); errno == unix.ENOSYS {
		return quotactlByDevice(device)
	}
	return func(command, id uint32, argument unsafe.Pointer) error {
		_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, dir.Fd(), uintptr(command<<8|projectType), uintptr(id), uintptr(argument), 0, 0)
		return asError(errno)
	}
}

func quotactlByDevice(device string) quotactl {
	return func(command, id uint32, argument unsafe.Pointer) error {
		path, err := unix.BytePtrFromString(device)
		if err != nil {
			return err
		}
		_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL, uintptr(command<<8|projectType), uintptr(unsafe.Pointer(path)), uintptr(id), uintptr(argument), 0, 0)
		if errno == unix.ENOENT {
			// That no quota is there must not be taken for that no device is there.
			if _, err := os.Stat(device); err != nil {
				return fmt.Errorf("the kernel wants the block device %s for this, which is not there", device)
			}
		}
		return asError(errno)
	}
}

func ioctl(f *os.File, request uintptr, argument unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(argument))
	return asError(errno)
}

func asError(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}
