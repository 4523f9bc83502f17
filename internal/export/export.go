// Package export says what an exported volume is and what Berth asks of any
// NFS server that exports volumes. The servers themselves are sub-packages.
package export

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"
)

// Errors of servers. Everything else that a Server returns means that the
// outcome is not known: the caller asks again.
var (
	// ErrUnavailable: the server is not up; nothing was changed by this call.
	ErrUnavailable = errors.New("NFS server is not available")
	// ErrRefused: the server looked at the export and will not have it.
	ErrRefused = errors.New("NFS server refused the export")
)

// ID is an export's number on its server, from 1 to 65535 (NFS-Ganesha's
// Export_Id is a uint16). It is part of every file handle that clients hold, so
// it stays with a volume for life; see IDs for when it may be used again.
type ID uint16

// FSID is the file system identity that clients see for an export. It is stable
// over restarts, which is what keeps their file handles good.
type FSID [16]byte

// NewFSID derives a volume's FSID from text that is unique to the volume.
func NewFSID(unique string) FSID {
	sum := sha256.Sum256([]byte(unique))
	return FSID(sum[:16])
}

// NumberFSID is the FSID "n.n", by which the programs that Berth takes the place of
// name an export to clients.
func NumberFSID(n ID) FSID {
	var f FSID
	binary.BigEndian.PutUint64(f[:8], uint64(n))
	binary.BigEndian.PutUint64(f[8:], uint64(n))
	return f
}

// String gives the FSID as a UUID, which is the form that exports(5) takes.
func (f FSID) String() string {
	h := hex.EncodeToString(f[:])
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

// Number gives the small number that f stands for, if both its halves (as NFSv4
// has them: two unsigned numbers of 64 bits, RFC 7530 section 2.2.5) are the same
// one, from 1 to 65535. Volumes that nfs-provisioner made have such an identity:
// "Filesystem_id = N.N" for NFS-Ganesha, "fsid=N" for the kernel's server.
func (f FSID) Number() (n uint16, ok bool) {
	major, minor := binary.BigEndian.Uint64(f[:8]), binary.BigEndian.Uint64(f[8:])
	if major != minor || major == 0 || major > math.MaxUint16 {
		return 0, false
	}
	return uint16(major), true
}

// MarshalText gives the form of String.
func (f FSID) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText reads the form of String.
func (f *FSID) UnmarshalText(text []byte) error {
	raw, err := hex.DecodeString(strings.ReplaceAll(string(text), "-", ""))
	if err != nil || len(raw) != len(f) {
		return fmt.Errorf("fsid %q is not a UUID", text)
	}
	copy(f[:], raw)
	return nil
}

// Squash says which client users a server maps to the anonymous user.
type Squash string

// The values of Squash.
const (
	SquashNone Squash = "none" // root stays root
	SquashRoot Squash = "root" // root becomes the anonymous user
)

// Export is one directory made reachable.
type Export struct {
	ID      ID
	FSID    FSID
	Dir     string // on the server's host; absolute and clean
	Path    string // what clients mount; absolute and clean
	Squash  Squash
	Clients Clients // who may mount it
	// ReadOnly: what clients write is refused.
	ReadOnly bool
}

// Server makes exports reachable by clients. Its methods may be called at the
// same time, but not two at once for one ID. A Server that restarts comes back
// with the exports it had, all of them before the first client is answered.
type Server interface {
	// Sync brings the server to exactly want.
	Sync(ctx context.Context, want []Export) error
	// Publish adds e; publishing the same export again changes nothing.
	Publish(ctx context.Context, e Export) error
	// Withdraw removes e: its ID and its Dir name it, the rest may have changed since.
	// When it returns nil no client reaches the directory through it any more, also if
	// the server never had it.
	Withdraw(ctx context.Context, e Export) error
}
