package treetest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Make makes a tree of so many files, folders and links below dir, which has to be empty: one
// of each kind that this package knows first, and then more of them, most of them small
// files. The same number gives the same tree. What needs root is left out without it.
//
// 120 names are enough for one of each; 100,000 take up less than half a GiB.
func Make(t testing.TB, dir string, files int, without ...Part) {
	t.Helper()
	m := maker{top: dir, without: joined(without), random: rand.New(rand.NewPCG(1, 2)), left: files}
	if os.Geteuid() != 0 {
		m.without |= needsRoot
	}
	m.folders = []string{dir}
	if err := m.tree(); err != nil {
		t.Fatal(err)
	}
}

type maker struct {
	top     string
	without Part
	random  *rand.Rand
	left    int // names to make
	made    int
	folders []string // that more is made in
	deeper  []string // folders in one another
	files   []string // regular ones with contents
}

func (m *maker) has(p Part) bool { return m.without&p == 0 }

// next is a path for one more name, "" if there are enough.
func (m *maker) next(kind string) string {
	if m.left == 0 {
		return ""
	}
	m.left--
	m.made++
	folder := m.folders[m.random.IntN(len(m.folders))]
	if many := len(m.folders) / 2; m.made%3 == 0 {
		folder = m.folders[many] // as many as all others have together
	}
	return filepath.Join(folder, fmt.Sprintf("%s-%d", kind, m.made))
}

func (m *maker) tree() error {
	steps := m.kinds()
	for i := 0; m.left > 0; i++ {
		step := m.small
		switch {
		case i < len(steps):
			step = steps[i]
		case m.made%7 == 0:
			step = steps[m.random.IntN(len(steps))]
		}
		if err := step(); err != nil {
			return err
		}
	}
	// What was made in them changed these.
	for _, folder := range append(m.folders, m.deeper...) {
		if err := m.dress(folder, 0o700|m.random.Uint32N(0o100)); err != nil {
			return err
		}
	}
	return nil
}

// kinds makes one of each.
func (m *maker) kinds() []func() error {
	kinds := []func() error{
		m.folder, m.small, m.folder, m.small, m.hardLink, m.small, m.empty, m.sparse, m.oneHole, m.large,
		m.folder, m.hardLink, m.symlink("small-2"), m.symlink("/etc/hostname"), m.symlink("../../../../nowhere"),
		m.symlink(strings.Repeat("long/", 200)), m.linkedLink, m.special(unix.S_IFIFO, 0), m.special(unix.S_IFSOCK, 0),
		m.mode(unix.S_ISUID | 0o755), m.mode(unix.S_ISGID | 0o755), m.mode(unix.S_ISVTX | 0o666), m.mode(0), m.mode(0o777),
		m.deep, m.modeFolder(unix.S_ISGID | 0o775), m.modeFolder(unix.S_ISVTX | 0o777),
		m.named(strings.Repeat("n", 245)), m.named(" a name\nof \t two lines "), m.named("-rf"), m.named("ünïcode ✓"), m.named("..."), m.named("*?$(x)`'\"\\"),
	}
	if m.has(OddBytes) {
		kinds = append(kinds, m.named("\xff\xfe\x01\x80"))
	}
	if m.has(Attributes) {
		kinds = append(kinds, m.attribute("user.empty", nil), m.attribute("user.binary\xff", []byte{0, 1, 2, 255}),
			m.attribute("user.large", bytes.Repeat([]byte("0123456789abcdef"), 128)))
	}
	if m.has(ACLs) {
		kinds = append(kinds, m.acl, m.defaultACL)
	}
	if m.has(Trusted) {
		// CAP_NET_BIND_SERVICE, permitted and effective; see <linux/capability.h>.
		kinds = append(kinds, m.attribute("trusted.test", []byte("root sees it")), m.trustedLink,
			m.attribute("security.capability", []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}))
	}
	if m.has(Devices) {
		kinds = append(kinds, m.special(unix.S_IFCHR, unix.Mkdev(1, 3)), m.special(unix.S_IFBLK, unix.Mkdev(259, 70000)))
	}
	return kinds
}

func (m *maker) write(path string, size int) error {
	data := make([]byte, size)
	for at := 0; at < size; at += 8 {
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], m.random.Uint64()|1)
		copy(data[at:], word[:])
	}
	m.files = append(m.files, path)
	return os.WriteFile(path, data, 0o600)
}

// dress gives a file an owner, a mode and times.
func (m *maker) dress(path string, mode uint32) error {
	if m.has(Owners) {
		if err := os.Lchown(path, m.random.IntN(70000), m.random.IntN(70000)); err != nil {
			return err
		}
	}
	if os.Geteuid() != 0 {
		mode |= 0o400 // or nobody could read it
	}
	if err := unix.Chmod(path, mode); err != nil {
		return fmt.Errorf("chmod %q: %w", path, err)
	}
	return m.times(path)
}

// times gives a file times of this century, with nanoseconds.
func (m *maker) times(path string) error {
	at := func() unix.Timespec {
		return unix.NsecToTimespec(time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano() + m.random.Int64N(int64(36*365*24*time.Hour)))
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{at(), at()}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("times of %q: %w", path, err)
	}
	return nil
}

// each makes a path, if there are to be more, and gives it all that any file has.
func (m *maker) each(kind string, mode uint32, create func(path string) error) error {
	path := m.next(kind)
	if path == "" {
		return nil
	}
	if err := create(path); err != nil {
		return err
	}
	return m.dress(path, mode)
}

func (m *maker) folder() error {
	path := m.next("folder")
	if path == "" {
		return nil
	}
	m.folders = append(m.folders, path)
	return os.Mkdir(path, 0o700)
}

// deep makes folders in one another.
func (m *maker) deep() error {
	for in := m.next("deep"); in != ""; {
		if err := os.Mkdir(in, 0o700); err != nil {
			return err
		}
		m.deeper = append(m.deeper, in)
		if m.left == 0 || len(m.deeper)%30 == 0 {
			m.folders = append(m.folders, in)
			return nil
		}
		m.left--
		m.made++
		in = filepath.Join(in, fmt.Sprint("deep-", m.made))
	}
	return nil
}

func (m *maker) small() error {
	return m.each("small", 0o600|m.random.Uint32N(0o100), func(path string) error { return m.write(path, 1+m.random.IntN(6000)) })
}

func (m *maker) empty() error {
	return m.each("empty", 0o644, func(path string) error { return os.WriteFile(path, nil, 0o600) })
}

// large makes a file of more than a block of whoever copies. One is enough.
func (m *maker) large() error {
	size := 2_500_000
	if m.made > 20 {
		size = 25_000
	}
	return m.each("large", 0o644, func(path string) error { return m.write(path, size) })
}

// sparse makes a file with holes at the beginning, in the middle and at the end.
func (m *maker) sparse() error {
	return m.each("sparse", 0o644, func(path string) error {
		if err := m.write(path, 0); err != nil {
			return err
		}
		for _, at := range []int64{3, 7, 8} {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("data between holes"), at*chunk+17)
			f.Close()
			if err != nil {
				return err
			}
		}
		return os.Truncate(path, 20*chunk+123)
	})
}

// oneHole makes a file of nothing but a hole. The first one is large, but not so large that
// reading it takes long where nobody tells that it is a hole.
func (m *maker) oneHole() error {
	return m.each("hole", 0o644, func(path string) error {
		if err := m.write(path, 0); err != nil {
			return err
		}
		size := int64(8*chunk + 1)
		if m.made < 20 {
			size = 256*chunk + 1
		}
		return os.Truncate(path, size)
	})
}

func (m *maker) hardLink() error {
	path := m.next("hard")
	if path == "" {
		return nil
	}
	return os.Link(m.files[m.random.IntN(len(m.files))], path)
}

func (m *maker) symlink(to string) func() error {
	return func() error {
		path := m.next("link")
		if path == "" {
			return nil
		}
		if err := os.Symlink(to, path); err != nil {
			return err
		}
		return m.dressLink(path)
	}
}

func (m *maker) dressLink(path string) error {
	if m.has(Owners) {
		if err := os.Lchown(path, m.random.IntN(70000), m.random.IntN(70000)); err != nil {
			return err
		}
	}
	return m.times(path)
}

// linkedLink makes a symbolic link with two names.
func (m *maker) linkedLink() error {
	one, two := m.next("link"), m.next("link")
	if one == "" {
		return nil
	}
	if err := os.Symlink("linked", one); err != nil {
		return err
	}
	if two != "" {
		if err := unix.Linkat(unix.AT_FDCWD, one, unix.AT_FDCWD, two, 0); err != nil {
			return err
		}
	}
	return m.dressLink(one)
}

func (m *maker) trustedLink() error {
	path := m.next("trustedlink")
	if path == "" {
		return nil
	}
	if err := os.Symlink("trusted", path); err != nil {
		return err
	}
	if err := unix.Lsetxattr(path, "trusted.link", []byte("of the link"), 0); err != nil {
		return fmt.Errorf("trusted.link of %q: %w", path, err)
	}
	return m.dressLink(path)
}

func (m *maker) special(kind uint32, device uint64) func() error {
	return func() error {
		return m.each("special", 0o620, func(path string) error {
			if err := unix.Mknod(path, kind|0o600, int(device)); err != nil {
				return fmt.Errorf("mknod %q: %w", path, err)
			}
			return nil
		})
	}
}

func (m *maker) mode(mode uint32) func() error {
	return func() error {
		return m.each(fmt.Sprintf("mode-%04o", mode), mode, func(path string) error { return os.WriteFile(path, []byte("x"), 0o600) })
	}
}

func (m *maker) modeFolder(mode uint32) func() error {
	return func() error {
		return m.each(fmt.Sprintf("folder-%04o", mode), mode, func(path string) error { return os.Mkdir(path, 0o700) })
	}
}

// named makes a file whose name begins so.
func (m *maker) named(name string) func() error {
	return func() error {
		return m.each(name, 0o644, func(path string) error { return m.write(path, 10) })
	}
}

func (m *maker) attribute(name string, value []byte) func() error {
	return func() error {
		path := m.next("attribute")
		if path == "" {
			return nil
		}
		if err := m.write(path, 50); err != nil {
			return err
		}
		// A new owner would take capabilities away.
		if err := m.dress(path, 0o750); err != nil {
			return err
		}
		if err := unix.Setxattr(path, name, value, 0); err != nil {
			return fmt.Errorf("attribute %s of %q: %w", name, path, err)
		}
		return nil
	}
}

func (m *maker) acl() error {
	return m.each("acl", 0o640, func(path string) error {
		if err := m.write(path, 50); err != nil {
			return err
		}
		return setACL(path, "system.posix_acl_access")
	})
}

// defaultACL makes a folder with one, and a file in it, which has it from there.
func (m *maker) defaultACL() error {
	path := m.next("aclfolder")
	if path == "" {
		return nil
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	m.folders = append(m.folders, path)
	if err := setACL(path, "system.posix_acl_default"); err != nil || m.left == 0 {
		return err
	}
	m.left--
	m.made++
	return m.write(filepath.Join(path, "inherits"), 20)
}

// setACL lets user 12345 read and write; see <linux/posix_acl_xattr.h> for the format.
func setACL(path, name string) error {
	const (
		version                              = 2
		userObj, user, groupObj, mask, other = 0x01, 0x02, 0x04, 0x10, 0x20
		nobody                               = 1<<32 - 1
	)
	type entry struct {
		Tag, Perm uint16
		ID        uint32
	}
	var acl bytes.Buffer
	err := binary.Write(&acl, binary.LittleEndian, uint32(version))
	for _, e := range []entry{{userObj, 7, nobody}, {user, 6, 12345}, {groupObj, 5, nobody}, {mask, 6, nobody}, {other, 4, nobody}} {
		if err == nil {
			err = binary.Write(&acl, binary.LittleEndian, e)
		}
	}
	if err == nil {
		err = unix.Setxattr(path, name, acl.Bytes(), 0)
	}
	if err != nil {
		return fmt.Errorf("%s of %q: %w", name, path, err)
	}
	return nil
}
