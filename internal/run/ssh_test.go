package run_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/berth-storage/berth/internal/run"
	openssh "github.com/berth-storage/berth/test/sshd"
)

const environment = `'env' 'LC_ALL=C' 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' `

func TestSSHSendsQuotedWords(t *testing.T) {
	s := serve(t, func(line string, c ssh.Channel) {
		fmt.Fprint(c, line)
		exit(c, 0)
	})
	o := s.options()
	for _, root := range []bool{false, true} {
		o.BecomeRoot = root
		want := environment
		if root {
			want += `'sudo' '-n' '--' `
		}
		got, err := openssh.Connect(t, o).Output(t.Context(), []string{"zfs", "set", "a=it's $HOME\n`x`", ""})
		if want += `'zfs' 'set' 'a=it'\''s $HOME` + "\n`x`' ''"; err != nil || string(got) != want {
			t.Errorf("root: %t: got %q, %v, want %q", root, got, err, want)
		}
	}
}

func TestSSHOutcomes(t *testing.T) {
	for _, c := range []struct {
		name             string
		exec             func(s *sshd, c ssh.Channel)
		refused, unknown bool
	}{
		{"done", func(_ *sshd, c ssh.Channel) { exit(c, 0) }, false, false},
		{"refused", func(_ *sshd, c ssh.Channel) {
			fmt.Fprintln(c.Stderr(), "no such thing")
			exit(c, 1)
		}, true, false},
		{"killed", func(_ *sshd, c ssh.Channel) { signal(c, "KILL") }, false, true},
		{"killed below a shell", func(_ *sshd, c ssh.Channel) { exit(c, 137) }, false, true},
		{"no exit status", func(_ *sshd, c ssh.Channel) { c.Close() }, false, true},
		{"cut", func(s *sshd, _ ssh.Channel) { s.cut() }, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			servers := make(chan *sshd, 1)
			s := serve(t, func(_ string, channel ssh.Channel) { c.exec(<-servers, channel) })
			servers <- s
			_, err := openssh.Connect(t, s.options()).Output(t.Context(), []string{"zfs"})
			exit, refused := errors.AsType[*run.ExitError](err)
			if refused != c.refused || (err != nil) != (c.refused || c.unknown) || errors.Is(err, run.ErrNotStarted) {
				t.Fatalf("got %v", err)
			}
			if refused && (exit.Status != 1 || exit.Stderr != "no such thing") {
				t.Errorf("got %+v", exit)
			}
		})
	}
}

func TestSSHConnectsAnewAfterACut(t *testing.T) {
	s := serve(t, func(_ string, c ssh.Channel) { exit(c, 0) })
	h := openssh.Connect(t, s.options())
	for range 5 {
		if _, err := h.Output(t.Context(), []string{"true"}); err != nil {
			t.Fatal(err)
		}
		s.cut() // while no command runs: nothing is lost
	}
}

func TestSSHNotStarted(t *testing.T) {
	ended, end := context.WithCancel(t.Context())
	end()
	for _, c := range []struct {
		name string
		ctx  context.Context
		set  func(*run.SSHOptions)
		want string
	}{
		{"nobody listens", t.Context(), func(o *run.SSHOptions) { o.Port = 1 }, "connection refused"},
		{"wrong password", t.Context(), func(o *run.SSHOptions) { o.Password = "wrong" }, "as berth: ssh: handshake failed: ssh: unable to authenticate"},
		{"no more sessions", t.Context(), func(*run.SSHOptions) {}, "MaxSessions"},
		{"ended context", ended, func(*run.SSHOptions) {}, "canceled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var runs atomic.Int32
			s := serve(t, func(_ string, c ssh.Channel) { runs.Add(1); exit(c, 0) }, func(s *sshd) { s.refuse = true })
			o := s.options()
			c.set(&o)
			_, err := openssh.Connect(t, o).Output(c.ctx, []string{"zfs"})
			if !errors.Is(err, run.ErrNotStarted) || !strings.Contains(err.Error(), c.want) || runs.Load() != 0 {
				t.Errorf("got %v, and %d commands were run; want %q", err, runs.Load(), c.want)
			}
		})
	}
}

func TestSSHStopsWaiting(t *testing.T) {
	s := serve(t, func(string, ssh.Channel) {}) // never ends
	o := s.options()
	o.Limit = 50 * time.Millisecond
	_, err := openssh.Connect(t, o).Output(t.Context(), []string{"zfs"})
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, run.ErrNotStarted) {
		t.Errorf("got %v", err)
	}
}

func TestSSHSessionsAreLimited(t *testing.T) {
	var now, most atomic.Int32
	s := serve(t, func(_ string, c ssh.Channel) {
		most.Store(max(most.Load(), now.Add(1)))
		time.Sleep(time.Millisecond)
		now.Add(-1)
		exit(c, 0)
	})
	o := s.options()
	o.Sessions = 4
	h := openssh.Connect(t, o)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if _, err := h.Output(t.Context(), []string{"true"}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if most.Load() > 3 {
		t.Errorf("%d commands at a time", most.Load())
	}
}

// Whether the host answers is not told by how long the commands take that it was given.
func TestSSHProbeWaitsForNoCommand(t *testing.T) {
	begun := make(chan struct{})
	s := serve(t, func(line string, c ssh.Channel) {
		if strings.HasSuffix(line, "'zfs'") {
			close(begun)
			return // never ends
		}
		exit(c, 0)
	})
	o := s.options()
	o.Sessions = 2
	h := openssh.Connect(t, o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := h.Output(ctx, []string{"zfs"})
		done <- err
	}()
	<-begun
	if _, err := h.Probe(t.Context(), []string{"true"}); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the command ended with %v", err)
	}
}

// A host that is silent, as behind a network that broke, is given up.
func TestSSHNoticesASilentHost(t *testing.T) {
	s := serve(t, func(string, ssh.Channel) {}, func(s *sshd) { s.mute = true })
	o := s.options()
	run.HurryKeepAlive(&o)
	_, err := openssh.Connect(t, o).Output(t.Context(), []string{"zfs"})
	if _, refused := errors.AsType[*run.ExitError](err); err == nil || refused || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestSSHHostKeys(t *testing.T) {
	s := serve(t, func(_ string, c ssh.Channel) { exit(c, 0) })
	good, err := os.ReadFile(s.knownHosts)
	if err != nil {
		t.Fatal(err)
	}
	other, _ := key(t)
	otherLine := knownhosts.Line([]string{s.address}, other.PublicKey())
	_, blob, _ := strings.Cut(strings.TrimSpace(string(good)), " ")
	for _, c := range []struct {
		name, lines string
		want        []string // of the error; nil: none
	}{
		{"known", string(good), nil},
		{"known by a hash", knownhosts.HashHostname(knownhosts.Normalize(s.address)) + " " + blob, nil},
		{"unknown", "", []string{"is not in " + s.knownHosts, "SHA256:", "\n" + strings.TrimSpace(string(good))}},
		{"another one's", strings.Replace(string(good), "127.0.0.1", "127.0.0.2", 1), []string{"is not in", "\n" + strings.TrimSpace(string(good))}},
		{"changed", "\n" + otherLine, []string{"shows another key", "line 2", strings.TrimSpace(string(good))}},
		{"one of two", otherLine + "\n" + string(good), nil},
		{"revoked", string(good) + "@revoked * " + blob, []string{"revoked"}},
		{"nonsense", "a b c d", []string{"known hosts"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.know(t, c.lines)
			_, err := openssh.Connect(t, s.options()).Output(t.Context(), []string{"true"})
			if (err == nil) != (c.want == nil) || err != nil && !errors.Is(err, run.ErrNotStarted) {
				t.Fatalf("got %v", err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
		})
	}

	t.Run("no file, then with the line that was told", func(t *testing.T) {
		o := s.options()
		o.KnownHosts = filepath.Join(t.TempDir(), "known_hosts")
		_, err := openssh.Connect(t, o).Output(t.Context(), []string{"true"})
		if err == nil {
			t.Fatal("connected to a host that is not known")
		}
		_, line, _ := strings.Cut(err.Error(), "\n")
		if err := os.WriteFile(o.KnownHosts, []byte(line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openssh.Connect(t, o).Output(t.Context(), []string{"true"}); err != nil {
			t.Errorf("with %q: %v", line, err)
		}
	})
}

// A host has keys of several kinds, and shows one that is known.
func TestSSHAsksForTheKindOfKeyThatIsKnown(t *testing.T) {
	ecdsa := ecdsaKey(t)
	s := serve(t, func(_ string, c ssh.Channel) { exit(c, 0) }, func(s *sshd) { s.config.AddHostKey(ecdsa) })
	s.know(t, knownhosts.Line([]string{s.address}, ecdsa.PublicKey()))
	if _, err := openssh.Connect(t, s.options()).Output(t.Context(), []string{"true"}); err != nil {
		t.Error(err)
	}
}

func TestSSHKeys(t *testing.T) {
	signer, file := key(t)
	s := serve(t, func(_ string, c ssh.Channel) { exit(c, 0) }, func(s *sshd) {
		s.config.PublicKeyCallback = func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
			if string(k.Marshal()) != string(signer.PublicKey().Marshal()) {
				return nil, errors.New("unknown key")
			}
			return nil, nil
		}
	})
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	inline, fromFile := s.options(), s.options()
	inline.Password, inline.Key = "", file
	fromFile.Password, fromFile.KeyFile = "", path
	for _, o := range []run.SSHOptions{inline, fromFile} {
		if _, err := openssh.Connect(t, o).Output(t.Context(), []string{"true"}); err != nil {
			t.Error(err)
		}
	}
	for _, c := range []struct {
		set  func(*run.SSHOptions)
		want string
	}{
		{func(o *run.SSHOptions) { o.KeyFile = "/nonexistent" }, "no such file"},
		{func(o *run.SSHOptions) { o.Key = []byte("nonsense") }, "the private key, for 127.0.0.1"},
		{func(o *run.SSHOptions) { o.Password = "" }, "neither a private key nor a password"},
		{func(o *run.SSHOptions) { o.Sessions = 2; o.Lock = []string{"lock"} }, "too few"},
	} {
		o := s.options()
		c.set(&o)
		if _, err := run.NewSSH(o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

// Some servers ask for a password as a question.
func TestSSHAnswersForThePassword(t *testing.T) {
	s := serve(t, func(_ string, c ssh.Channel) { exit(c, 0) }, func(s *sshd) {
		s.config.PasswordCallback = nil
		s.config.KeyboardInteractiveCallback = func(_ ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
			if answers, err := ask("", "", []string{"Name:", "Password:"}, []bool{true, false}); err != nil || answers[0] != "" || answers[1] != "right" {
				return nil, errors.New("wrong")
			}
			return nil, nil
		}
	})
	if _, err := openssh.Connect(t, s.options()).Output(t.Context(), []string{"true"}); err != nil {
		t.Error(err)
	}
}

// locking is a server whose command lock is the lock, of which there is one.
func locking(t *testing.T) *sshd {
	var held atomic.Bool
	return serve(t, func(line string, c ssh.Channel) {
		switch {
		case !strings.HasSuffix(line, "'lock'"):
			exit(c, 0)
		case !held.CompareAndSwap(false, true):
			exit(c, 75)
		default:
			fmt.Fprintln(c, "locked")
			for input := bufio.NewScanner(c); input.Scan(); {
			}
			held.Store(false)
			exit(c, 0)
		}
	})
}

func TestSSHLock(t *testing.T) {
	s := locking(t)
	o := s.options()
	o.Lock = []string{"lock"}
	first := openssh.Connect(t, o)
	if _, err := first.Output(t.Context(), []string{"true"}); err != nil {
		t.Fatal(err)
	}
	second := openssh.Connect(t, o)
	if _, err := second.Output(t.Context(), []string{"true"}); !errors.Is(err, run.ErrNotStarted) || !strings.Contains(err.Error(), "another Berth") {
		t.Fatalf("a second one got %v", err)
	}
	select {
	case <-first.Lost():
		t.Error("lost without a reason")
	default:
	}

	s.cut()
	<-first.Lost()
	if _, err := first.Output(t.Context(), []string{"true"}); !errors.Is(err, run.ErrNotStarted) || !strings.Contains(err.Error(), "lock, was lost") {
		t.Errorf("after that %v", err)
	}

	var third *run.SSH
	for { // the server has to notice the cut first
		third = openssh.Connect(t, o)
		_, err := third.Output(t.Context(), []string{"true"})
		if err == nil {
			break
		}
		if !strings.Contains(err.Error(), "another Berth") {
			t.Fatal(err)
		}
	}
	third.Close()
	select {
	case <-third.Lost():
		t.Error("a lock that was given back counts as lost")
	default:
	}
}

// Where the command for the lock is missing, there is none, and a new connection is as good as the old one.
func TestSSHWithoutALock(t *testing.T) {
	s := serve(t, func(line string, c ssh.Channel) {
		if strings.HasSuffix(line, "'lock'") {
			exit(c, 127)
			return
		}
		exit(c, 0)
	})
	o := s.options()
	o.Lock = []string{"lock"}
	h := openssh.Connect(t, o)
	for range 3 {
		if _, err := h.Output(t.Context(), []string{"true"}); err != nil {
			t.Fatal(err)
		}
		s.cut()
	}
}

// A lock that fails in any other way is none.
func TestSSHLockThatFails(t *testing.T) {
	s := serve(t, func(_ string, c ssh.Channel) {
		fmt.Fprintln(c.Stderr(), "no such dataset")
		exit(c, 1)
	})
	o := s.options()
	o.Lock = []string{"lock"}
	if _, err := openssh.Connect(t, o).Output(t.Context(), []string{"true"}); !errors.Is(err, run.ErrNotStarted) || !strings.Contains(err.Error(), "no such dataset") {
		t.Errorf("got %v", err)
	}
}

// When the lock's keeper ends, there is no lock, and no command any more.
func TestSSHLockThatEnds(t *testing.T) {
	keeper := make(chan ssh.Channel, 1)
	s := serve(t, func(line string, c ssh.Channel) {
		if strings.HasSuffix(line, "'lock'") {
			fmt.Fprintln(c, "locked")
			keeper <- c
			return
		}
		exit(c, 0)
	})
	o := s.options()
	o.Lock = []string{"lock"}
	h := openssh.Connect(t, o)
	if _, err := h.Output(t.Context(), []string{"true"}); err != nil {
		t.Fatal(err)
	}
	exit(<-keeper, 143)
	<-h.Lost()
	if _, err := h.Output(t.Context(), []string{"true"}); !errors.Is(err, run.ErrNotStarted) {
		t.Errorf("got %v", err)
	}
}

// A connection may end at the very moment at which a session is opened on it.
func TestSSHCutWhileASessionIsOpened(t *testing.T) {
	s := serve(t, func(_ string, c ssh.Channel) { exit(c, 0) })
	o := s.options()
	o.Limit = time.Minute
	run.NoPause(&o)
	h := openssh.Connect(t, o)
	for range 300 {
		var cut sync.WaitGroup
		cut.Go(s.cut)
		for range 3 {
			if _, err := h.Output(t.Context(), []string{"true"}); errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		}
		cut.Wait()
	}
}
