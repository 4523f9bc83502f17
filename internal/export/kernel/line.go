package kernel

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/berth-storage/berth/internal/export"
)

// line is what Berth writes to a file of exports (exports(5)): one directory for one
// client.
type line struct {
	text    string // the whole
	path    string
	client  string
	options string // with commas between them
}

// anonymousID is nobody and nogroup, whom squashed users become, as with NFS-Ganesha.
const anonymousID = "65534"

// linesOf are the lines of an export, one for each client.
func linesOf(e export.Export) []line {
	access, squash := "rw", "no_root_squash"
	if e.ReadOnly {
		access = "ro"
	}
	if e.Squash == export.SquashRoot {
		squash = "root_squash"
	}
	// Everything is said, so that no default has a meaning. "insecure": a client
	// behind address translation has no port below 1024. The flags of "sec" are
	// those before it.
	options := access + ",sync,insecure," + squash + ",no_all_squash,no_subtree_check" +
		",anonuid=" + anonymousID + ",anongid=" + anonymousID + ",fsid=" + fsid(e.FSID) + ",sec=sys"
	var lines []line
	for _, client := range clients(e.Clients) {
		lines = append(lines, line{
			text: escape(e.Dir) + "\t" + client + "(" + options + ")",
			path: e.Dir, client: client, options: options,
		})
	}
	return lines
}

// fsid is how exports(5) has an FSID.
func fsid(f export.FSID) string {
	if n, ok := f.Number(); ok {
		return strconv.Itoa(int(n))
	}
	return f.String()
}

// clients are how exports(5) has them. An address is written as a network: the name
// of a host would be looked up. mountd takes a prefix of no bits for one of all
// bits, so it is written as a mask.
func clients(c export.Clients) []string {
	if c.All() {
		return []string{"*"}
	}
	list := c.List()
	for i, word := range list {
		address, bits, network := strings.Cut(word, "/")
		switch {
		case network && bits == "0":
			list[i] = address + "/" + address
		case !network && strings.Contains(address, ":"):
			list[i] = address + "/128"
		case !network:
			list[i] = address + "/32"
		}
	}
	return list
}

// escape writes a path as exportfs itself does, see exports(5): no character in it
// can end the word or begin a comment. checkPath comes first.
func escape(path string) string {
	if !strings.ContainsFunc(path, special) {
		return path
	}
	var b strings.Builder
	for _, c := range []byte(path) {
		if special(rune(c)) {
			fmt.Fprintf(&b, `\%03o`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func special(c rune) bool { return c <= ' ' || c == 0x7f || c == '"' || c == '#' || c == '\\' }

// unescape reads what exportfs or the kernel writes.
func unescape(text string) string {
	if !strings.Contains(text, `\`) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) {
			if c, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

// maxPath is below NFS_MAXPATHLEN of mountd (1024), where its parser gives up the
// rest of a file.
const maxPath = 1000

// checkPath refuses what cannot stand in a file of exports.
func checkPath(path string) error {
	switch {
	case !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/":
		return fmt.Errorf("path %q is not a clean absolute path below /", path)
	case len(path) > maxPath:
		return fmt.Errorf("path %q is longer than %d bytes", path, maxPath)
	}
	// mountd reads "\134040" (a backslash, then 040) as a space.
	if i := strings.IndexFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }); i >= 0 {
		return fmt.Errorf("path %q has the character %q, which exports(5) cannot express", path, path[i])
	}
	return nil
}

// CheckDir refuses a directory that the server could not export under its name.
func CheckDir(dir string) error {
	resolved, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	if resolved != dir {
		// mountd resolves links, and clients would have to mount the other path.
		return errors.New("it is a symbolic link, or below one; its real path is " + resolved)
	}
	return nil
}
