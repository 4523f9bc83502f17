// Package treetest makes trees of all that a copy has to keep, and tells whether two
// trees are the same: for tests of whatever copies, snapshots or restores volumes.
package treetest

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Part is something that not every file system has, that not every process can make, or that
// others change by looking at it.
type Part uint

const (
	// Holes are those of sparse files, of whole MiB.
	Holes Part = 1 << iota
	// AccessTimes are not those of symbolic links, which are never compared: looking
	// at a link changes its own.
	AccessTimes
	// Attributes are extended attributes of the namespace user.
	Attributes
	// ACLs are POSIX access and default ACLs.
	ACLs
	// Trusted are the extended attributes trusted.*, also of symbolic links, and file
	// capabilities. They need root.
	Trusted
	// Owners are users and groups. To have other ones than its own needs root.
	Owners
	// Devices need root.
	Devices
	// OddBytes are names that are not UTF-8.
	OddBytes

	needsRoot = Trusted | Owners | Devices
)

func joined(without []Part) (all Part) {
	for _, p := range without {
		all |= p
	}
	return all
}

// Sum is a checksum of all that is below dir, and of what belongs to dir itself. It stands
// for names, kinds, modes, owners, sizes, contents, holes, times of access and modification,
// links of both sorts, devices and extended attributes, but for the parts left out.
// Two runs give the same for the same tree, on any file system.
func Sum(t testing.TB, dir string, without ...Part) string {
	t.Helper()
	return list(t, dir, joined(without)).sum()
}

// Compare fails the test if the trees below a and b differ, and says in what.
func Compare(t testing.TB, a, b string, without ...Part) {
	t.Helper()
	const most = 10
	left, right := list(t, a, joined(without)), list(t, b, joined(without))
	differences := 0
	say := func(path, text string) {
		if differences++; differences <= most {
			t.Errorf("%q: %s", path, text)
		}
	}
	for path, in := range left {
		if other, there := right[path]; !there {
			say(path, "it is not in "+b)
		} else if in != other {
			say(path, "in "+a+" it is\n\t"+in+"\nand in "+b+"\n\t"+other)
		}
	}
	for path := range right {
		if _, there := left[path]; !there {
			say(path, "it is not in "+a)
		}
	}
	if differences > most {
		t.Errorf("%d differences in all", differences)
	}
	if len(left) < 2 {
		t.Errorf("there is nothing in %s", a)
	}
}

// Names is how many files, folders and links there are below dir.
func Names(t testing.TB, dir string) int {
	t.Helper()
	return len(list(t, dir, ^Devices)) - 1
}

func list(t testing.TB, dir string, without Part) listing {
	t.Helper()
	here, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	fd, err := open(here, ".", unix.O_DIRECTORY)
	if err != nil {
		t.Fatal(err)
	}
	d := os.NewFile(uintptr(fd), dir)
	defer d.Close()
	l := lister{without: without, entries: listing{}, first: map[inode]string{}, block: make([]byte, chunk), names: make([]byte, 64<<10), value: make([]byte, 64<<10)}
	if err := l.folder(d, "."); err != nil {
		t.Fatal(err)
	}
	return l.entries
}
