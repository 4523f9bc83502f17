package nfs4

import (
	"encoding/binary"
	"fmt"
)

// Limits of RFC 7531, and of names, for which it has none.
const (
	maxHandle = 128
	maxTag    = 1024
	maxName   = 1024
)

type (
	handle   []byte
	stateID  [16]byte // sequence number and "other" together: the client never looks inside
	verifier [8]byte
)

// opcode is an nfs_opnum4.
type opcode uint32

const (
	opClose              opcode = 4
	opCommit             opcode = 5
	opCreate             opcode = 6
	opGetAttr            opcode = 9
	opGetFH              opcode = 10
	opLookup             opcode = 15
	opOpen               opcode = 18
	opOpenConfirm        opcode = 20
	opPutFH              opcode = 22
	opPutRootFH          opcode = 24
	opRead               opcode = 25
	opReadDir            opcode = 26
	opRemove             opcode = 28
	opRename             opcode = 29
	opRenew              opcode = 30
	opSaveFH             opcode = 32
	opSetAttr            opcode = 34
	opSetClientID        opcode = 35
	opSetClientIDConfirm opcode = 36
	opWrite              opcode = 38
)

var opNames = map[opcode]string{
	opClose:              "CLOSE",
	opCommit:             "COMMIT",
	opCreate:             "CREATE",
	opGetAttr:            "GETATTR",
	opGetFH:              "GETFH",
	opLookup:             "LOOKUP",
	opOpen:               "OPEN",
	opOpenConfirm:        "OPEN_CONFIRM",
	opPutFH:              "PUTFH",
	opPutRootFH:          "PUTROOTFH",
	opRead:               "READ",
	opReadDir:            "READDIR",
	opRemove:             "REMOVE",
	opRename:             "RENAME",
	opRenew:              "RENEW",
	opSaveFH:             "SAVEFH",
	opSetAttr:            "SETATTR",
	opSetClientID:        "SETCLIENTID",
	opSetClientIDConfirm: "SETCLIENTID_CONFIRM",
	opWrite:              "WRITE",
}

func (o opcode) String() string {
	if name, ok := opNames[o]; ok {
		return name
	}
	return fmt.Sprintf("operation %d", uint32(o))
}

// opError is the failure of one operation of a compound.
type opError struct {
	op     opcode
	status Status
	// resent says that an earlier sending of the same request got no answer.
	// If the server executed that one, this error is its echo.
	resent bool
}

func (e *opError) Error() string { return fmt.Sprintf("%v: %v", e.op, e.status) }
func (e *opError) Unwrap() error { return e.status }

// operation is one step of a compound. When the reply says that it went well,
// result takes its results; nil means that it has none.
type operation struct {
	code   opcode
	result func(*decoder)
	ran    bool
	status Status
}

// compound is a COMPOUND call under construction (RFC 7530 section 15.2). The
// message starts with the RPC head, so that file data is copied only once.
type compound struct {
	encoder
	countAt int
	ops     []operation
}

func newCompound(credential []byte) *compound {
	c := &compound{encoder: newCall(procCompound, authSys, credential)}
	const tag, minorVersion, count = "", 0, 0
	c.string(tag)
	c.uint32(minorVersion)
	c.countAt = len(c.buf)
	c.uint32(count)
	return c
}

func (c *compound) add(code opcode, result func(*decoder)) {
	c.uint32(uint32(code))
	c.ops = append(c.ops, operation{code: code, result: result})
}

// message returns the finished call.
func (c *compound) message() []byte {
	binary.BigEndian.PutUint32(c.buf[c.countAt:], uint32(len(c.ops)))
	return c.buf
}

// parse takes the results of a reply. The first operation that failed is the
// last one that ran, and its status is the status of the whole.
func (c *compound) parse(d *decoder) error {
	whole := Status(d.uint32())
	d.opaque(maxTag)
	count := d.uint32()
	if d.err == nil && uint64(count) > uint64(len(c.ops)) {
		d.fail("%d results of %d operations", count, len(c.ops))
	}
	for i := uint32(0); i < count && d.err == nil; i++ {
		op := &c.ops[i]
		code, status := opcode(d.uint32()), Status(d.uint32())
		if d.err != nil {
			break
		}
		if code != op.code {
			d.fail("result of %v where %v was asked", code, op.code)
			break
		}
		op.ran, op.status = true, status
		if status != OK {
			return &opError{op: code, status: status}
		}
		if op.result != nil {
			op.result(d)
		}
	}
	if d.err == nil && whole != OK {
		return whole // refused before the first operation
	}
	if d.err == nil && int(count) < len(c.ops) {
		d.fail("%d results of %d operations", count, len(c.ops))
	}
	d.end()
	return d.err
}

// outcome returns the status of the first operation with that code, and
// whether the reply has one.
func (c *compound) outcome(code opcode) (Status, bool) {
	for _, op := range c.ops {
		if op.code == code {
			return op.status, op.ran
		}
	}
	return OK, false
}
