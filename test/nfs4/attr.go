package nfs4

import (
	"fmt"
	"math/bits"
)

// FileType is an nfs_ftype4.
type FileType uint32

// The types a server may report.
const (
	TypeRegular FileType = iota + 1
	TypeDirectory
	TypeBlockDevice
	TypeCharDevice
	TypeSymlink
	TypeSocket
	TypeFIFO
)

// String returns the letter that ls -l shows.
func (t FileType) String() string {
	const letters = "?-dbclsp"
	if int64(t) < int64(len(letters)) {
		return letters[t : t+1]
	}
	return letters[:1]
}

// FSID names a file system of the server.
type FSID struct{ Major, Minor uint64 }

// Attr is what the server says about one object. A field that the server does
// not support is zero.
type Attr struct {
	Type   FileType
	Mode   uint32 // permission bits, set-uid, set-gid and sticky included
	Size   uint64
	FSID   FSID
	FileID uint64
	Owner  string // a number, or name@domain
	Group  string
	// Of the file system, for this user, in bytes. ReadDir leaves them zero.
	SpaceAvail, SpaceFree, SpaceTotal uint64
}

// serverAttr is what the server says about itself.
type serverAttr struct {
	leaseSeconds      uint32
	maxRead, maxWrite uint64
}

// attrSet is a bitmap4 of attribute numbers below 64 (RFC 7530 section 5).
type attrSet uint64

const (
	attrType        attrSet = 1 << 1
	attrSize        attrSet = 1 << 4
	attrFSID        attrSet = 1 << 8
	attrLeaseTime   attrSet = 1 << 10
	attrRdattrError attrSet = 1 << 11
	attrFileID      attrSet = 1 << 20
	attrMaxRead     attrSet = 1 << 30
	attrMaxWrite    attrSet = 1 << 31
	attrMode        attrSet = 1 << 33
	attrOwner       attrSet = 1 << 36
	attrOwnerGroup  attrSet = 1 << 37
	attrSpaceAvail  attrSet = 1 << 42
	attrSpaceFree   attrSet = 1 << 43
	attrSpaceTotal  attrSet = 1 << 44

	objectAttrs = attrType | attrSize | attrFSID | attrFileID | attrMode | attrOwner | attrOwnerGroup
	statAttrs   = objectAttrs | attrSpaceAvail | attrSpaceFree | attrSpaceTotal
	// Without rdattr_error one unreadable entry would fail the whole READDIR
	// (RFC 7530 section 5.8.1.12).
	entryAttrs  = objectAttrs | attrRdattrError
	serverAttrs = attrLeaseTime | attrMaxRead | attrMaxWrite
)

func (e *encoder) attrSet(s attrSet) { e.uint32(2, uint32(s), uint32(s>>32)) }

func (d *decoder) attrSet() attrSet {
	var s attrSet
	words := d.uint32()
	for i := uint32(0); i < words && d.err == nil; i++ {
		word := d.uint32()
		switch {
		case i < 2:
			s |= attrSet(word) << (32 * i)
		case word != 0:
			d.fail("an attribute that was not asked for")
		}
	}
	return s
}

// settable appends a fattr4 with the attributes of set, which may be size and mode.
func (e *encoder) settable(set attrSet, a Attr) {
	var values encoder
	if set&attrSize != 0 {
		values.uint64(a.Size)
	}
	if set&attrMode != 0 {
		values.uint32(a.Mode)
	}
	e.attrSet(set)
	e.opaque(values.buf)
}

// attrs takes a fattr4. The values have no length of their own, so one
// attribute of unknown form makes the rest unreadable: it is an error.
func (d *decoder) attrs(a *Attr, server *serverAttr) {
	set := d.attrSet()
	values := decoder{buf: d.opaque(maxReply), err: d.err}
	for ; set != 0 && values.err == nil; set &= set - 1 {
		values.attr(attrSet(1)<<bits.TrailingZeros64(uint64(set)), a, server)
	}
	values.end()
	if values.err != nil {
		d.fail("attributes: %v", values.err)
	}
}

func (d *decoder) attr(which attrSet, a *Attr, server *serverAttr) {
	switch which {
	case attrType:
		a.Type = FileType(d.uint32())
	case attrSize:
		a.Size = d.uint64()
	case attrFSID:
		a.FSID.Major = d.uint64()
		a.FSID.Minor = d.uint64()
	case attrLeaseTime:
		server.leaseSeconds = d.uint32()
	case attrRdattrError:
		d.uint32()
	case attrFileID:
		a.FileID = d.uint64()
	case attrMaxRead:
		server.maxRead = d.uint64()
	case attrMaxWrite:
		server.maxWrite = d.uint64()
	case attrMode:
		a.Mode = d.uint32()
	case attrOwner:
		a.Owner = string(d.opaque(maxName))
	case attrOwnerGroup:
		a.Group = string(d.opaque(maxName))
	case attrSpaceAvail:
		a.SpaceAvail = d.uint64()
	case attrSpaceFree:
		a.SpaceFree = d.uint64()
	case attrSpaceTotal:
		a.SpaceTotal = d.uint64()
	default:
		d.fail("attribute %d was not asked for", bits.TrailingZeros64(uint64(which)))
	}
}

// String shows the attributes on one line, as ls -l would.
func (a Attr) String() string {
	return fmt.Sprintf("%v%04o %s %s %d fsid=%d.%d fileid=%d",
		a.Type, a.Mode, a.Owner, a.Group, a.Size, a.FSID.Major, a.FSID.Minor, a.FileID)
}
