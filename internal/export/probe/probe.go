// Package probe asks an NFS server whether it is there, by calls that need
// neither a mount nor any state (ONC RPC of RFC 5531, NFSv4 of RFC 7530).
package probe

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

const (
	procedureNull     = 0
	procedureCompound = 1

	lastFragment = 1 << 31
	xid          = 0x42657274
	reply        = 1
	accepted     = 0
	success      = 0
)

// Null calls the NULL procedure of NFSv4 over TCP, which does nothing but be
// answered. address is host:port.
func Null(ctx context.Context, address string, timeout time.Duration) error {
	// The header of the answer: xid, REPLY, MSG_ACCEPTED, an empty verifier, SUCCESS.
	answer, err := call(ctx, net.Dialer{}, address, timeout, 6, procedureNull)
	if err == nil && (answer[0] != xid || answer[1] != reply || answer[2] != accepted || answer[5] != success) {
		err = fmt.Errorf("unexpected answer %x to a NULL call", answer)
	}
	return err
}

// Caller calls a COMPOUND of no operations from an IP address of this host. The
// server has to find out who the caller is before it answers; it may refuse, which
// is an answer too.
func Caller(ctx context.Context, address, from string, timeout time.Duration) error {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	// Of the body: an empty tag, minor version 0, no operations. xid and REPLY are
	// enough of an answer.
	answer, err := call(ctx, dialer, address, timeout, 2, procedureCompound, 0, 0, 0)
	if err == nil && (answer[0] != xid || answer[1] != reply) {
		err = fmt.Errorf("unexpected answer %x to a COMPOUND call", answer)
	}
	return err
}

// call sends one call and reads the first n words of the answer.
func call(ctx context.Context, dialer net.Dialer, address string, timeout time.Duration, n int, procedure uint32, body ...uint32) ([]uint32, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	const (
		message    = 0 // a call
		rpcVersion = 2
		nfsProgram = 100003
		nfsVersion = 4
	)
	// The four words after the procedure are an empty credential and verifier (AUTH_NONE).
	words := append([]uint32{xid, message, rpcVersion, nfsProgram, nfsVersion, procedure, 0, 0, 0, 0}, body...)
	request := binary.BigEndian.AppendUint32(nil, lastFragment|uint32(4*len(words)))
	for _, word := range words {
		request = binary.BigEndian.AppendUint32(request, word)
	}
	if _, err := conn.Write(request); err != nil {
		return nil, err
	}
	raw := make([]byte, 4*(1+n)) // the first word is the fragment's header
	if _, err := io.ReadFull(conn, raw); err != nil {
		return nil, err
	}
	answer := make([]uint32, n)
	for i := range answer {
		answer[i] = binary.BigEndian.Uint32(raw[4*(i+1):])
	}
	return answer, nil
}
