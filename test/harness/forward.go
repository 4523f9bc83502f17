package harness

import (
	"io"
	"net"
	"sync"
)

// Forwarder passes TCP connections on, so that a node reaches what listens on the
// host's loopback only.
type Forwarder struct {
	net.Listener
	to string
}

// Forward listens at the address from, port 0 for any, until it is closed.
func Forward(from, to string) (*Forwarder, error) {
	l, err := net.Listen("tcp", from)
	if err != nil {
		return nil, err
	}
	f := &Forwarder{Listener: l, to: to}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			go f.pass(conn)
		}
	}()
	return f, nil
}

// pass connects the two sides until both have said all.
func (f *Forwarder) pass(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", f.to)
	if err != nil {
		return // the client sees a closed connection, as of a server that is away
	}
	defer server.Close()
	var both sync.WaitGroup
	for to, from := range map[net.Conn]net.Conn{client: server, server: client} {
		both.Go(func() {
			_, _ = io.Copy(to, from)
			_ = to.(*net.TCPConn).CloseWrite()
		})
	}
	both.Wait()
}
