// Package mountinfo tells what is mounted where, as this process sees it.
package mountinfo

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount is a line of /proc/self/mountinfo, see proc(5).
type Mount struct {
	ID     string
	Device uint64 // of the file system, as st_dev of stat(2)
	Point  string // the directory that it is mounted at
	Type   string
	Source string
	// Options are those of the file system.
	Options []string
}

// Read gives what is mounted now; what is mounted later hides what was at the same place before.
func Read() ([]Mount, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return Parse(string(text)), nil
}

// Parse reads lines of mountinfo. What is none is left out.
func Parse(text string) (mounts []Mount) {
	for line := range strings.Lines(text) {
		fields, rest, found := strings.Cut(line, " - ")
		before, after := strings.Fields(fields), strings.Fields(rest)
		if !found || len(before) < 5 || len(after) < 3 {
			continue
		}
		mounts = append(mounts, Mount{
			ID: before[0], Device: device(before[2]), Point: unescape.Replace(before[4]),
			Type: after[0], Source: unescape.Replace(after[1]), Options: strings.Split(after[2], ","),
		})
	}
	return mounts
}

// At finds the mount at a directory that hides the others there.
func At(mounts []Mount, dir string) (m Mount, found bool) {
	for _, other := range mounts {
		if other.Point == dir {
			m, found = other, true
		}
	}
	return m, found
}

// device reads MAJOR:MINOR. 0, which no mounted file system has, if it is not that.
func device(text string) uint64 {
	major, minor, _ := strings.Cut(text, ":")
	a, err := strconv.ParseUint(major, 10, 32)
	if err != nil {
		return 0
	}
	i, err := strconv.ParseUint(minor, 10, 32)
	if err != nil {
		return 0
	}
	return unix.Mkdev(uint32(a), uint32(i))
}

// unescape is for what is written in octal.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
