// Package sshd runs OpenSSH's server for tests: on a port of loopback, with keys of its own,
// for root. Its connections can be cut at chosen moments of a command.
package sshd

import (
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/berth-storage/berth/internal/run"
)

// Options of Start.
type Options struct {
	Dir     string // for its files; exists
	Address string // where it listens; "": a free port of loopback
	Command string // what the key is bound to, for the shell; "": any command
	Lines   string // more lines of sshd_config(5), which go before its own
	User    string // "" is root
}

// Server is a running server.
type Server struct {
	o        Options
	listener net.Listener
	moments  moments
	mu       sync.Mutex
	closed   bool
	conns    map[*net.TCPConn]bool
	children sync.WaitGroup
}

// privileges is where sshd locks its unprivileged part in; it must be there.
const privileges = "/run/sshd"

// Start starts a server. Each connection is a process of sshd's own, which ends with it.
func Start(o Options) (*Server, error) {
	if o.User == "" {
		o.User = "root"
	}
	s := &Server{o: o, conns: map[*net.TCPConn]bool{}, moments: moments{dir: o.Dir}}
	if err := os.MkdirAll(privileges, 0o755); err != nil {
		return nil, err
	}
	program, err := run.Find("sshd", "openssh-server")
	if err != nil {
		return nil, err
	}
	if err := s.moments.prepare(o.Command); err != nil {
		return nil, err
	}
	if s.listener, err = net.Listen("tcp", cmp.Or(o.Address, "127.0.0.1:0")); err != nil {
		return nil, err
	}
	if err := s.writeKeys(); err != nil {
		return nil, errors.Join(err, s.listener.Close())
	}
	go s.accept(program)
	return s, nil
}

func (s *Server) path(name string) string { return filepath.Join(s.o.Dir, name) }

// writeKeys makes the keys of the host and of the client, and the configuration.
func (s *Server) writeKeys() error {
	host, err := s.newKey("host_key")
	if err != nil {
		return err
	}
	client, err := s.newKey("client_key")
	if err != nil {
		return err
	}
	if err := s.Authorize(string(ssh.MarshalAuthorizedKey(client))); err != nil {
		return err
	}
	known := knownhosts.Line([]string{s.listener.Addr().String()}, host) + "\n"
	if err := os.WriteFile(s.path("known_hosts"), []byte(known), 0o600); err != nil {
		return err
	}
	config := strings.Join([]string{
		s.o.Lines, "HostKey " + s.path("host_key"), "AuthorizedKeysFile " + s.path("authorized_keys"), "StrictModes no", "UsePAM no",
		"PasswordAuthentication no", "PermitRootLogin yes", "PidFile none", "UseDNS no", "LogLevel ERROR", "",
	}, "\n")
	return os.WriteFile(s.path("sshd_config"), []byte(config), 0o600)
}

func (s *Server) newKey(name string) (ssh.PublicKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, name)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(s.path(name), pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, err
	}
	return ssh.NewPublicKey(public)
}

// Authorize lets another key in, as a line of authorized_keys without options.
func (s *Server) Authorize(key string) error {
	f, err := os.OpenFile(s.path("authorized_keys"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "restrict,command=%q %s\n", s.moments.wrapper(), strings.TrimSpace(key))
	return errors.Join(err, f.Close())
}

// SSH says how to get there.
func (s *Server) SSH() run.SSHOptions {
	address := s.listener.Addr().(*net.TCPAddr)
	return run.SSHOptions{
		Host: address.IP.String(), Port: address.Port, User: s.o.User, KeyFile: s.path("client_key"), KnownHosts: s.path("known_hosts"),
	}
}

// Connect gives what runs commands there as o says, until the test ends.
func Connect(t testing.TB, o run.SSHOptions) *run.SSH {
	t.Helper()
	h, err := run.NewSSH(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

func (s *Server) accept(program string) {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		conn := c.(*net.TCPConn)
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			conn.Close()
			return
		}
		s.conns[conn] = true
		s.children.Add(1)
		s.mu.Unlock()
		go func() {
			defer s.children.Done()
			s.serve(program, conn)
			s.mu.Lock()
			delete(s.conns, conn)
			s.mu.Unlock()
			conn.Close()
		}()
	}
}

// serve has a process of sshd serve one connection to its end.
func (s *Server) serve(program string, conn *net.TCPConn) {
	socket, err := conn.File()
	if err != nil {
		return // it is closed
	}
	defer socket.Close()
	cmd := exec.Command(program, "-i", "-e", "-f", s.path("sshd_config"))
	cmd.Stdin, cmd.Stdout = socket, socket
	if log, err := os.OpenFile(s.path("log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644); err == nil {
		defer log.Close()
		cmd.Stderr = log
	}
	_ = cmd.Run() // what a client did wrong is in the log
}

// Cut breaks all connections, as a network does that goes away: commands that run go on.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		cut(conn)
	}
}

func cut(conn *net.TCPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	// The process of sshd has the same socket, so closing it here would change nothing.
	_ = raw.Control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_RDWR) })
}

// Log is what sshd had to say.
func (s *Server) Log() string {
	text, err := os.ReadFile(s.path("log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Close ends the server and its connections, and waits for that.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.listener.Close()
	s.Cut()
	s.children.Wait()
}

// OwnAccounts gives this process and its children, which have a mount namespace of their own
// (harness.OwnMounts), accounts for tests: root's shell is sh, which reads no files
// when it starts, and there is a user berth, without any rights.
func OwnAccounts() error {
	for file, line := range map[string]string{"/etc/passwd": "berth:x:4711:4711::/:/bin/sh\n", "/etc/shadow": "berth:*:1::::::\n", "/etc/group": "berth:x:4711:\n"} {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if file == "/etc/passwd" {
			text = rootsShell.ReplaceAll(text, []byte("${1}/bin/sh"))
		}
		own, err := os.CreateTemp("", "berth-accounts-")
		if err != nil {
			return err
		}
		_, err = own.Write(append(text, line...))
		err = errors.Join(err, own.Chmod(0o644), own.Close())
		if err == nil {
			err = syscall.Mount(own.Name(), file, "", syscall.MS_BIND, "")
		}
		// What is mounted is there without its name.
		if err := errors.Join(err, os.Remove(own.Name())); err != nil {
			return fmt.Errorf("accounts for tests: %w", err)
		}
	}
	return nil
}

var rootsShell = regexp.MustCompile(`(?m)^(root:.*:)[^:\n]*$`)
