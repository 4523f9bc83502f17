package nfs4

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrBadReply means that a server's answer is not what the protocol allows.
var ErrBadReply = errors.New("malformed reply")

// encoder appends values in XDR (RFC 4506).
type encoder struct{ buf []byte }

func (e *encoder) uint32(values ...uint32) {
	for _, v := range values {
		e.buf = binary.BigEndian.AppendUint32(e.buf, v)
	}
}

func (e *encoder) uint64(v uint64) { e.buf = binary.BigEndian.AppendUint64(e.buf, v) }

// fixed appends opaque data whose length both sides know.
func (e *encoder) fixed(p []byte) {
	e.buf = append(e.buf, p...)
	e.buf = append(e.buf, make([]byte, padding(len(p)))...)
}

func (e *encoder) opaque(p []byte) {
	e.uint32(uint32(len(p)))
	e.fixed(p)
}

func (e *encoder) string(s string) { e.opaque([]byte(s)) }

// decoder takes values from an XDR message. After the first fault every method
// returns zero values and err says what was wrong, so that a caller may decode
// a whole structure and look at err once. Slices alias the message.
type decoder struct {
	buf []byte
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: "+format, append([]any{ErrBadReply}, args...)...)
	}
	d.buf = nil
}

func (d *decoder) uint32() uint32 {
	if len(d.buf) < 4 {
		d.fail("too short for a number")
		return 0
	}
	v := binary.BigEndian.Uint32(d.buf)
	d.buf = d.buf[4:]
	return v
}

func (d *decoder) uint64() uint64 {
	high := d.uint32()
	low := d.uint32()
	return uint64(high)<<32 | uint64(low)
}

func (d *decoder) bool() bool {
	v := d.uint32()
	if v > 1 {
		d.fail("%d is not a boolean", v)
	}
	return v == 1
}

func (d *decoder) fixed(n int) []byte {
	if len(d.buf) < n+padding(n) {
		d.fail("%d bytes do not fit into the %d left", n, len(d.buf))
		return nil
	}
	p := d.buf[:n]
	d.buf = d.buf[n+padding(n):]
	return p
}

// opaque takes data of at most limit bytes.
func (d *decoder) opaque(limit int) []byte {
	n := d.uint32()
	if uint64(n) > uint64(limit) {
		d.fail("%d bytes where at most %d may be", n, limit)
		return nil
	}
	return d.fixed(int(n))
}

// end makes bytes left over an error.
func (d *decoder) end() {
	if len(d.buf) > 0 {
		d.fail("%d bytes left over", len(d.buf))
	}
}

// padding is the number of zero bytes that fill n up to a multiple of four.
func padding(n int) int { return -n & 3 }
