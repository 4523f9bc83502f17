package treetest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// listing is what can be said of each path.
type listing map[string]string

func (l listing) sum() string {
	h := sha256.New()
	for _, p := range slices.Sorted(maps.Keys(l)) {
		fmt.Fprintf(h, "%q %s\n", p, l[p])
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

type inode struct{ dev, ino uint64 }

// lister describes a tree that nobody changes meanwhile. It changes no access time, if the
// files are its own or it is root.
type lister struct {
	without Part
	entries listing
	first   map[inode]string // path of a file with several names
	block   []byte
	names   []byte // of attributes
	value   []byte // of one
}

func (l *lister) has(p Part) bool { return l.without&p == 0 }

// folder lists d and what is below. Each folder is opened from the one that it is in: paths may be
// longer than the system takes.
func (l *lister) folder(d *os.File, at string) error {
	var s unix.Stat_t
	if err := unix.Fstat(int(d.Fd()), &s); err != nil {
		return &os.PathError{Op: "stat", Path: at, Err: err}
	}
	proc := fmt.Sprintf("/proc/self/fd/%d", d.Fd())
	attributes, err := l.attributes(proc + "/.")
	if err != nil {
		return fmt.Errorf("%q: %w", at, err)
	}
	l.entries[at] = l.common(&s) + attributes
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names) // so that the first one of a file's names is always the same
	for _, name := range names {
		if err := l.entry(d, proc, name, path.Join(at, name)); err != nil {
			return fmt.Errorf("%q: %w", path.Join(at, name), err)
		}
	}
	return nil
}

func (l *lister) entry(d *os.File, proc, name, at string) error {
	var s unix.Stat_t
	if err := unix.Fstatat(int(d.Fd()), name, &s, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if s.Mode&unix.S_IFMT == unix.S_IFDIR {
		fd, err := open(d, name, unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		child := os.NewFile(uintptr(fd), name)
		defer child.Close()
		return l.folder(child, at)
	}
	if s.Nlink > 1 {
		id := inode{s.Dev, s.Ino}
		if first, met := l.first[id]; met {
			l.entries[at] = fmt.Sprintf("is the same as %q", first)
			return nil
		}
		l.first[id] = at
	}
	text := l.common(&s)
	switch s.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		contents, err := l.contents(d, name, s.Size)
		if err != nil {
			return err
		}
		text += contents
	case unix.S_IFLNK:
		to := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(int(d.Fd()), name, to)
		if err != nil {
			return err
		}
		text += fmt.Sprintf(" to %q", to[:n])
	case unix.S_IFCHR, unix.S_IFBLK:
		if !l.has(Devices) {
			return nil
		}
		text += fmt.Sprintf(" device %d:%d", unix.Major(s.Rdev), unix.Minor(s.Rdev))
	}
	attributes, err := l.attributes(proc + "/" + name)
	l.entries[at] = text + attributes
	return err
}

func open(d *os.File, name string, flags int) (int, error) {
	flags |= unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	fd, err := unix.Openat(int(d.Fd()), name, flags|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) {
		fd, err = unix.Openat(int(d.Fd()), name, flags, 0)
	}
	return fd, err
}

func (l *lister) common(s *unix.Stat_t) string {
	kind := map[uint32]string{
		unix.S_IFDIR: "folder", unix.S_IFREG: "file", unix.S_IFLNK: "link", unix.S_IFIFO: "fifo",
		unix.S_IFSOCK: "socket", unix.S_IFCHR: "character", unix.S_IFBLK: "block",
	}[s.Mode&unix.S_IFMT]
	text := fmt.Sprintf("%s %04o modified %d.%09d", kind, s.Mode&^unix.S_IFMT, s.Mtim.Sec, s.Mtim.Nsec)
	if l.has(Owners) {
		text += fmt.Sprintf(" owner %d:%d", s.Uid, s.Gid)
	}
	if l.has(AccessTimes) && kind != "link" {
		text += fmt.Sprintf(" accessed %d.%09d", s.Atim.Sec, s.Atim.Nsec)
	}
	return text
}

func (l *lister) attributes(proc string) (string, error) {
	names := l.names
	n, err := unix.Llistxattr(proc, names)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("listing attributes: %w", err)
	}
	var all []string
	for name := range strings.SplitSeq(string(names[:n]), "\x00") {
		part, known := partOf(name)
		if !known || !l.has(part) {
			continue
		}
		value := l.value
		n, err := unix.Lgetxattr(proc, name, value)
		if err != nil {
			return "", fmt.Errorf("attribute %q: %w", name, err)
		}
		text := fmt.Sprintf("%x", value[:n])
		if n > 64 {
			text = fmt.Sprintf("%d bytes, sum %x", n, sha256.Sum256(value[:n]))
		}
		all = append(all, fmt.Sprintf(" %q=%s", name, text))
	}
	slices.Sort(all)
	return strings.Join(all, ""), nil
}

// partOf says what an attribute is part of, if it is one of those that can be kept anywhere.
func partOf(attribute string) (p Part, known bool) {
	switch {
	case strings.HasPrefix(attribute, "user."):
		return Attributes, true
	case strings.HasPrefix(attribute, "system.posix_acl_"):
		return ACLs, true
	case strings.HasPrefix(attribute, "trusted.SGI_ACL_"): // XFS shows ACLs by this name too
		return 0, false
	case strings.HasPrefix(attribute, "trusted."), attribute == "security.capability":
		return Trusted, true
	}
	return 0, false
}

// chunk is what is looked at as a whole: all data or, if nothing was written to it, a hole.
const chunk = 1 << 20

// contents describes what is in a file and where its holes are. Zeros count as contents no
// more than holes do, so that each can be left out.
func (l *lister) contents(d *os.File, name string, size int64) (string, error) {
	fd, err := open(d, name, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	h := sha256.New()
	var holes []string
	for at := int64(0); at < size; {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO):
			data = size
		case err != nil:
			return "", err
		}
		if data != size {
			data -= data % chunk
		}
		if data > at {
			holes = append(holes, fmt.Sprintf("%d-%d", at, data))
			at = data
			continue
		}
		n, err := unix.Pread(fd, l.block, at)
		if err != nil {
			return "", err
		}
		if n == 0 {
			return "", errors.New("it is shorter than its size")
		}
		if block := l.block[:n]; bytes.Count(block, []byte{0}) != n {
			_ = binary.Write(h, binary.BigEndian, at)
			h.Write(block)
		}
		at += int64(n)
	}
	text := fmt.Sprintf(" size %d sum %x", size, h.Sum(nil)[:16])
	if l.has(Holes) {
		text += fmt.Sprintf(" holes %v", holes)
	}
	return text, nil
}
