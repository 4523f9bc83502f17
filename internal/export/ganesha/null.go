package ganesha

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// null calls the NULL procedure of NFSv4 over TCP (RFC 7530 section 16.1, message
// format of RFC 5531), which does nothing but be answered.
func null(ctx context.Context, address string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	const (
		lastFragment = 1 << 31
		xid          = 0x42657274
		call         = 0
		rpcVersion   = 2
		nfsProgram   = 100003
		nfsVersion   = 4
		procedure    = 0
	)
	// The last four words are an empty credential and verifier (AUTH_NONE).
	message := []uint32{xid, call, rpcVersion, nfsProgram, nfsVersion, procedure, 0, 0, 0, 0}
	request := binary.BigEndian.AppendUint32(nil, lastFragment|uint32(4*len(message)))
	for _, word := range message {
		request = binary.BigEndian.AppendUint32(request, word)
	}
	if _, err := conn.Write(request); err != nil {
		return err
	}
	// Fragment header, xid, REPLY, MSG_ACCEPTED, empty verifier, SUCCESS.
	reply := make([]byte, 28)
	if _, err := io.ReadFull(conn, reply); err != nil {
		return err
	}
	word := func(i int) uint32 { return binary.BigEndian.Uint32(reply[4*i:]) }
	if word(1) != xid || word(2) != 1 || word(3) != 0 || word(6) != 0 {
		return fmt.Errorf("unexpected answer % x to a NULL call", reply)
	}
	return nil
}
