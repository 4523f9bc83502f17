package cluster

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// soReusePort is SO_REUSEPORT of asm-generic/socket.h, which package syscall
// lacks on some platforms.
const soReusePort = 0xf

// port is a TCP port of 127.0.0.1 that is kept for one component.
//
// It is held by a socket that is bound but does not listen, and that shares
// the port with the component, which must set SO_REUSEPORT too. So between
// the choice of the port and its use, and while the component is stopped,
// neither another process nor an outgoing connection can get it.
type port struct {
	number int
	socket int
}

// newPort lets the kernel choose a free port.
func newPort() (*port, error) {
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("choosing a port: %w", os.NewSyscallError("socket", err))
	}
	p := &port{socket: socket}
	if err := p.bind(); err != nil {
		p.release()
		return nil, fmt.Errorf("choosing a port: %w", err)
	}
	return p, nil
}

// bind binds the socket and notes the number of its port.
func (p *port) bind() error {
	if err := syscall.SetsockoptInt(p.socket, syscall.SOL_SOCKET, soReusePort, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := syscall.Bind(p.socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	address, err := syscall.Getsockname(p.socket)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	p.number = address.(*syscall.SockaddrInet4).Port
	return nil
}

// release gives the port up; a component that listens on it keeps it. Only
// the first call does so: the number of the socket may be in use again.
func (p *port) release() {
	if p.socket >= 0 {
		syscall.Close(p.socket)
		p.socket = -1
	}
}

// url returns the URL of the port. All components speak TLS.
func (p *port) url() string {
	return "https://127.0.0.1:" + strconv.Itoa(p.number)
}
