package run_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/berth-storage/berth/internal/run"
)

// sshd is a server that says what a test has it say. What a real one does is shown in
// the system tests.
type sshd struct {
	address    string
	config     *ssh.ServerConfig
	exec       func(line string, c ssh.Channel) // ends with the channel
	refuse     bool                             // further sessions
	mute       bool                             // to requests that are not a session's
	knownHosts string
	mu         sync.Mutex
	conns      []net.Conn
}

// key is a new private key, and the same in OpenSSH's format.
func key(t *testing.T) (ssh.Signer, []byte) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer, pem.EncodeToMemory(block)
}

// serve starts a server that takes the password "right", with what set changes of it.
func serve(t *testing.T, exec func(line string, c ssh.Channel), set ...func(*sshd)) *sshd {
	t.Helper()
	hostKey, _ := key(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &sshd{address: l.Addr().String(), exec: exec, knownHosts: filepath.Join(t.TempDir(), "known_hosts"), config: &ssh.ServerConfig{
		PasswordCallback: func(_ ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
			if string(password) != "right" {
				return nil, errors.New("wrong")
			}
			return nil, nil
		},
	}}
	s.config.AddHostKey(hostKey)
	s.know(t, knownhosts.Line([]string{s.address}, hostKey.PublicKey()))
	for _, f := range set {
		f(s)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.connection(c)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		s.cut()
	})
	return s
}

// know replaces what is known of the host.
func (s *sshd) know(t *testing.T, lines string) {
	t.Helper()
	if err := os.WriteFile(s.knownHosts, []byte(lines+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *sshd) options() run.SSHOptions {
	host, port, _ := net.SplitHostPort(s.address)
	number, _ := strconv.Atoi(port)
	return run.SSHOptions{Host: host, Port: number, User: "berth", Password: "right", KnownHosts: s.knownHosts}
}

// cut ends all connections as if the network did.
func (s *sshd) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

func (s *sshd) connection(raw net.Conn) {
	s.mu.Lock()
	s.conns = append(s.conns, raw)
	s.mu.Unlock()
	_, channels, requests, err := ssh.NewServerConn(raw, s.config)
	if err != nil {
		raw.Close()
		return
	}
	if s.mute {
		go func() {
			for range requests {
				continue
			}
		}()
	} else {
		go ssh.DiscardRequests(requests)
	}
	for c := range channels {
		if s.refuse {
			_ = c.Reject(ssh.ConnectionFailed, "open failed")
			continue
		}
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range requests {
				_ = r.Reply(r.Type == "exec", nil)
				if r.Type == "exec" {
					go s.exec(string(r.Payload[4:]), channel)
				}
			}
		}()
	}
}

// exit ends a command as a program does that ends by itself.
func exit(c ssh.Channel, status uint32) {
	_, _ = c.SendRequest("exit-status", false, binary.BigEndian.AppendUint32(nil, status))
	c.Close()
}

// signal ends a command as a program does that is killed.
func signal(c ssh.Channel, name string) {
	var b bytes.Buffer
	b.Write(ssh.Marshal(struct {
		Signal     string
		Core       bool
		Text, Lang string
	}{name, false, "", ""}))
	_, _ = c.SendRequest("exit-signal", false, b.Bytes())
	c.Close()
}

// ecdsaKey is a new private key of another kind than key's.
func ecdsaKey(t *testing.T) ssh.Signer {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}
