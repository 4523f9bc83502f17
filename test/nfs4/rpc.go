package nfs4

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

const (
	nfsProgram = 100003
	nfsVersion = 4

	procNull     = 0
	procCompound = 1

	authNone = 0
	authSys  = 1

	lastFragment = 1 << 31

	// maxReply is more than any answer to this client: the longest is a READ
	// of maxTransfer bytes.
	maxReply = 4 << 20
)

// transportError means that a call got no answer. If it may have reached the
// server, sent is true: then nobody knows whether it was executed.
type transportError struct {
	sent bool
	err  error
}

func (e *transportError) Error() string { return e.err.Error() }
func (e *transportError) Unwrap() error { return e.err }

// newCall begins an RPC call (RFC 5531 section 9). It leaves room for the
// record mark and the xid, which transport.call fills in.
func newCall(proc, flavor uint32, credential []byte) encoder {
	var e encoder
	const markAndXID, call, rpcVersion = 2, 0, 2
	e.uint32(make([]uint32, markAndXID)...)
	e.uint32(call, rpcVersion, nfsProgram, nfsVersion, proc)
	e.uint32(flavor)
	e.opaque(credential)
	e.uint32(authNone, 0)
	return e
}

// sysCredential is an authsys_parms (RFC 5531 appendix A).
func sysCredential(machine string, uid, gid uint32, groups []uint32) []byte {
	var e encoder
	const stamp = 0
	e.uint32(stamp)
	e.string(machine)
	e.uint32(uid, gid, uint32(len(groups)))
	e.uint32(groups...)
	return e.buf
}

// transport is one TCP connection with at most one call under way.
type transport struct {
	conn net.Conn
	in   *bufio.Reader
	xid  uint32
}

func newTransport(conn net.Conn) *transport {
	return &transport{conn: conn, in: bufio.NewReader(conn), xid: rand.Uint32()}
}

// call sends msg and returns the results in the reply. After an error, and when
// ctx has ended, the connection must not be used again: an answer may still be
// on its way. Within one connection a call is never sent twice (RFC 7530
// section 3.1.1).
func (t *transport) call(ctx context.Context, timeout time.Duration, msg []byte) (*decoder, error) {
	t.xid++
	binary.BigEndian.PutUint32(msg, lastFragment|uint32(len(msg)-4))
	binary.BigEndian.PutUint32(msg[4:], t.xid)

	stop := context.AfterFunc(ctx, func() { t.conn.Close() })
	defer stop()
	if err := t.conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, &transportError{err: err}
	}
	if _, err := t.conn.Write(msg); err != nil {
		return nil, &transportError{sent: true, err: err}
	}
	reply, err := readRecord(t.in)
	if err != nil {
		return nil, err
	}
	return parseReply(reply, t.xid)
}

// readRecord joins the fragments of one record (RFC 5531 section 11).
func readRecord(r io.Reader) ([]byte, error) {
	var record []byte
	for {
		var mark [4]byte
		if _, err := io.ReadFull(r, mark[:]); err != nil {
			return nil, &transportError{sent: true, err: fmt.Errorf("waiting for a reply: %w", err)}
		}
		n := binary.BigEndian.Uint32(mark[:])
		last := n&lastFragment != 0
		n &^= lastFragment
		if uint64(len(record))+uint64(n) > maxReply {
			return nil, fmt.Errorf("%w: longer than %d bytes", ErrBadReply, maxReply)
		}
		fragment := make([]byte, n)
		if _, err := io.ReadFull(r, fragment); err != nil {
			return nil, &transportError{sent: true, err: fmt.Errorf("reading a reply: %w", err)}
		}
		if record == nil {
			record = fragment
		} else {
			record = append(record, fragment...)
		}
		if last {
			return record, nil
		}
	}
}

// parseReply checks the head of a reply and returns what follows it.
func parseReply(reply []byte, xid uint32) (*decoder, error) {
	const (
		msgReply    = 1
		accepted    = 0
		success     = 0
		maxVerifier = 400
	)
	d := &decoder{buf: reply}
	if got := d.uint32(); d.err == nil && got != xid {
		d.fail("for call %d, not %d", got, xid)
	}
	if kind := d.uint32(); d.err == nil && kind != msgReply {
		d.fail("message type %d", kind)
	}
	if status := d.uint32(); d.err == nil && status != accepted {
		return nil, fmt.Errorf("RPC call denied: reason %d, detail %d", d.uint32(), d.uint32())
	}
	d.uint32() // flavor of the verifier
	d.opaque(maxVerifier)
	if status := d.uint32(); d.err == nil && status != success {
		return nil, fmt.Errorf("RPC call not accepted: %s", acceptError(status))
	}
	return d, d.err
}

// acceptError names an accept_stat.
func acceptError(status uint32) string {
	names := []string{"success", "program unavailable", "program version mismatch",
		"procedure unavailable", "garbage arguments", "system error"}
	if int64(status) < int64(len(names)) {
		return names[status]
	}
	return fmt.Sprintf("accept status %d", status)
}

// Null calls the procedure that does nothing: it returns nil if an NFSv4
// server answers at addr. It does not retry.
func Null(ctx context.Context, addr string) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	call := newCall(procNull, authNone, nil)
	d, err := newTransport(conn).call(ctx, defaultTimeout, call.buf)
	if err != nil {
		return fmt.Errorf("NULL call to %s: %w", addr, errors.Join(context.Cause(ctx), err))
	}
	d.end()
	return d.err
}
