package copytree

import (
	"bytes"
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// finish gives a copy what belongs to the file besides its contents. name is "" for f
// itself. from is nil if nothing more can be asked of the source.
//
// The order matters: a new owner takes setuid bits and capabilities away, and an
// ACL changes the mode; any of them may change times.
func (c *copier) finish(f *folder, name string, s *unix.Statx_t, from *inode, to inode) error {
	if err := unix.Fchownat(to.fd, "", int(s.Uid), int(s.Gid), unix.AT_EMPTY_PATH); err != nil {
		return c.failed("setting the owner of the copy of", f, name, err)
	}
	if from != nil {
		if c.onBtrfs && s.Mode&unix.S_IFMT == unix.S_IFDIR {
			keepNoCow(from.fd, to.fd)
		}
		if err := c.attributes(f, name, *from, to); err != nil {
			return err
		}
	}
	if s.Mode&unix.S_IFMT != unix.S_IFLNK { // its mode never matters
		if err := c.mode(f, name, s, to); err != nil {
			return err
		}
	}
	times := [2]unix.Timespec{timespec(s.Atime), timespec(s.Mtime)}
	if err := to.setTimes(&times); err != nil {
		return c.failed("setting the times of the copy of", f, name, err)
	}
	return nil
}

func timespec(t unix.StatxTimestamp) unix.Timespec {
	return unix.Timespec{Sec: t.Sec, Nsec: int64(t.Nsec)}
}

func (i inode) setTimes(times *[2]unix.Timespec) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, i.proc(), times[:], 0)
}

// mode sets the permissions. Without an error, but also without CAP_FSETID, the kernel
// leaves the setgid bit out for a group that this process is not in.
func (c *copier) mode(f *folder, name string, s *unix.Statx_t, to inode) error {
	const special = unix.S_ISUID | unix.S_ISGID | unix.S_ISVTX
	mode := uint32(s.Mode) &^ unix.S_IFMT
	var err error
	if to.path {
		err = unix.Fchmodat(unix.AT_FDCWD, to.proc(), mode, 0)
	} else {
		err = unix.Fchmod(to.fd, mode)
	}
	if err != nil || mode&special == 0 {
		return c.failed("setting the mode of the copy of", f, name, err)
	}
	now, err := stat(to.fd)
	if err == nil && uint32(now.Mode)&special != mode&special {
		c.lose("setuid or setgid bits", f, name, unix.EPERM)
	}
	return c.failed("looking at the copy of", f, name, err)
}

// attributes copies extended attributes, see xattr(7).
func (c *copier) attributes(f *folder, name string, from, to inode) error {
	names, err := grow(from.listxattr)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return c.failed("listing the attributes of", f, name, err)
	}
	for each := range bytes.SplitSeq(names, []byte{0}) {
		attribute := string(each)
		if attribute == "" || isDouble(attribute) {
			continue
		}
		value, err := grow(func(b []byte) (int, error) { return from.getxattr(attribute, b) })
		if attribute == nfs4ACL && isMode(value) {
			continue
		}
		op := "reading the attribute " + quote(attribute) + " of"
		if err == nil {
			op = "setting the attribute " + quote(attribute) + " of the copy of"
			err = to.setxattr(attribute, value)
		}
		switch {
		case err == nil, errors.Is(err, unix.ENODATA): // it was removed just now
		case isOfHost(attribute):
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.EINVAL):
			c.lose("attributes "+kindOf(attribute), f, name, err)
		default:
			return c.failed(op, f, name, err)
		}
	}
	return nil
}

// isOfHost says that an attribute is what the host's security modules note of a file (SELinux, Smack, IMA), and
// not what its users do. Where it may not be set, a file has what each one has that is made there.
func isOfHost(attribute string) bool {
	return strings.HasPrefix(attribute, "security.") && attribute != "security.capability"
}

// isDouble says that an attribute is how XFS stores an ACL that has a name for all
// file systems too.
func isDouble(attribute string) bool {
	return attribute == "trusted.SGI_ACL_FILE" || attribute == "trusted.SGI_ACL_DEFAULT"
}

// kindOf puts attributes together that are lost for the same reason. Tenants choose
// the names of user.*.
func kindOf(attribute string) string {
	if namespace, _, _ := strings.Cut(attribute, "."); namespace == "user" || namespace == "trusted" {
		return namespace + ".*"
	}
	return attribute
}

// grow calls what with a buffer that is large enough for what it says. XATTR_LIST_MAX and
// XATTR_SIZE_MAX are 64 KiB.
func grow(what func(b []byte) (int, error)) ([]byte, error) {
	for _, size := range []int{512, 64 << 10} {
		b := make([]byte, size)
		n, err := what(b)
		if errors.Is(err, unix.ERANGE) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return b[:n], nil
	}
	return nil, unix.ERANGE
}

func (i inode) listxattr(b []byte) (int, error) {
	if i.path {
		return unix.Listxattr(i.proc(), b)
	}
	return unix.Flistxattr(i.fd, b)
}

func (i inode) getxattr(name string, b []byte) (int, error) {
	if i.path {
		return unix.Getxattr(i.proc(), name, b)
	}
	return unix.Fgetxattr(i.fd, name, b)
}

func (i inode) setxattr(name string, value []byte) error {
	if i.path {
		return unix.Setxattr(i.proc(), name, value, 0)
	}
	return unix.Fsetxattr(i.fd, name, value, 0)
}

// noCow is FS_NOCOW_FL of <linux/fs.h>.
const noCow = 0x00800000

// keepNoCow makes an empty file or a folder of btrfs one that is not copied on write
// (chattr +C) if from is, and only then: files share blocks only with those that are like them
// in this. It is an optimization of whoever set it, so that it fails is no error.
func keepNoCow(from, to int) {
	flags, err := unix.IoctlGetUint32(from, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return
	}
	has, err := unix.IoctlGetUint32(to, unix.FS_IOC_GETFLAGS)
	if err == nil && (has^flags)&noCow != 0 {
		_ = unix.IoctlSetPointerInt(to, unix.FS_IOC_SETFLAGS, int(has^noCow))
	}
}
