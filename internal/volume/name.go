package volume

import (
	"fmt"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of names. 255 bytes is NAME_MAX of Linux file systems; a Name is
// shorter, so that a suffix (".json", a temporary name) still fits.
const (
	maxName    = 200
	maxElement = 255
	maxRelPath = 1024
)

// Name is a volume's name, unique in its pool: one safe element of a path. A
// value other than the zero one comes from ParseName only; holding it is the
// proof that it is safe to use in a path.
type Name struct{ s string }

// ParseName accepts 1 to 200 bytes of letters, digits, '-', '_' and '.', the
// first of them a letter or digit.
func ParseName(s string) (Name, error) {
	if s == "" || len(s) > maxName {
		return Name{}, fmt.Errorf("%w: a name has 1 to %d characters, %.64q has %d", ErrInvalid, maxName, s, len(s))
	}
	for i, r := range []byte(s) {
		alnum := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !alnum && (i == 0 || r != '-' && r != '_' && r != '.') {
			return Name{}, fmt.Errorf("%w: name %q: %q is not allowed at position %d", ErrInvalid, s, r, i)
		}
	}
	return Name{s}, nil
}

// NameForClaim is the name of the volume of the claim with this uid. It is the
// name that the PersistentVolume gets too ("pvc-" and the uid).
func NameForClaim(uid string) (Name, error) { return ParseName("pvc-" + uid) }

func (n Name) String() string { return n.s }

// MarshalText gives the name.
func (n Name) MarshalText() ([]byte, error) { return []byte(n.s), nil }

// UnmarshalText is ParseName.
func (n *Name) UnmarshalText(text []byte) (err error) {
	*n, err = ParseName(string(text))
	return err
}

// RelPath is where a volume lies below its pool's root. A value other than the
// zero one comes from ParseRelPath only.
type RelPath struct{ s string }

// ParseRelPath accepts a relative path, 1024 bytes at the most, that stays
// below where it starts: no empty, hidden, "." or ".." element, no backslash and
// no control character. It is UTF-8, because a record cannot hold anything else.
func ParseRelPath(s string) (RelPath, error) {
	if s == "" || len(s) > maxRelPath {
		return RelPath{}, fmt.Errorf("%w: a path has 1 to %d bytes, %.64q has %d", ErrInvalid, maxRelPath, s, len(s))
	}
	if !utf8.ValidString(s) {
		return RelPath{}, fmt.Errorf("%w: path %q is not UTF-8", ErrInvalid, s)
	}
	for _, r := range s {
		if r == '\\' || unicode.IsControl(r) {
			return RelPath{}, fmt.Errorf("%w: path %q: %q is not allowed", ErrInvalid, s, r)
		}
	}
	for element := range strings.SplitSeq(s, "/") {
		switch {
		case element == "":
			return RelPath{}, fmt.Errorf("%w: path %q is absolute or has an empty element", ErrInvalid, s)
		case element[0] == '.':
			return RelPath{}, fmt.Errorf("%w: path %q: element %q is hidden or leaves the folder", ErrInvalid, s, element)
		case len(element) > maxElement:
			return RelPath{}, fmt.Errorf("%w: path %.64q…: an element is longer than %d bytes", ErrInvalid, s, maxElement)
		}
	}
	return RelPath{s}, nil
}

// RelPath is the name as a path of one element.
func (n Name) RelPath() RelPath { return RelPath(n) }

func (p RelPath) String() string { return p.s }

// Below joins the path to an absolute one.
func (p RelPath) Below(root string) string { return path.Join(root, p.s) }

// MarshalText gives the path.
func (p RelPath) MarshalText() ([]byte, error) { return []byte(p.s), nil }

// UnmarshalText is ParseRelPath.
func (p *RelPath) UnmarshalText(text []byte) (err error) {
	*p, err = ParseRelPath(string(text))
	return err
}
