package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// maxSessions is what sshd allows on one connection unless it is told otherwise
	// (sshd_config(5), MaxSessions).
	maxSessions = 10
	// searchPath has zfs and chown on every system, whatever the PATH of the account is.
	searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// firstSignal: a shell's exit status above it says that a signal ended the program
	// (POSIX, Shell Command Language, 2.8.2).
	firstSignal = 128
	// How long Berth waits for a session that sshd refuses: in all one second.
	sessionPause, sessionPauseMax = 5 * time.Millisecond, 500 * time.Millisecond
)

// SSHOptions say how to reach another host, and who to be there.
type SSHOptions struct {
	Host       string // a name or an address
	Port       int    // 0 is 22
	User       string
	KeyFile    string // of a private key in OpenSSH's or PEM's format, or
	Key        []byte // that key itself
	Passphrase string // of the key
	Password   string // also or instead of a key
	// KnownHosts is the path of a file with the host's keys, as sshd(8) says under SSH_KNOWN_HOSTS
	// FILE FORMAT. It is read anew for each connection. A host that is not in it is refused.
	KnownHosts string
	BecomeRoot bool          // by sudo(8), which must ask for no password
	Limit      time.Duration // how long one command may take; 0 is a minute
	Sessions   int           // commands at a time; 0 is what sshd allows by default
	// Lock is a command that says the line "locked" and then lives until its input
	// ends; each byte of that says that Berth is there. It is run as the first thing on a
	// connection, and without it nothing else is. See SSH.Lost.
	Lock []string

	beat, quiet time.Duration // how often Berth asks whether the host is there, and how long it waits for the answer
	pause       time.Duration // before a host is asked again that could not be reached
}

func (o *SSHOptions) setDefaults() {
	if o.Port == 0 {
		o.Port = 22
	}
	if o.Limit == 0 {
		o.Limit = time.Minute
	}
	if o.Sessions == 0 {
		o.Sessions = maxSessions
	}
	if o.beat == 0 {
		o.beat, o.quiet = 15*time.Second, 20*time.Second
	}
	if o.pause == 0 {
		o.pause = 2 * time.Second
	}
}

// SSH runs programs on another host, all over one connection, which is made when the
// first of them comes, and made anew when it was lost. Safe for concurrent use.
type SSH struct {
	o       SSHOptions
	address string
	auth    []ssh.AuthMethod
	slots   chan struct{} // taken by each command that runs there,
	spare   chan struct{} // but those of Probe
	lost    chan struct{}
	alive   context.Context // until Close cuts whatever there is
	cut     context.CancelFunc

	mu     sync.Mutex
	link   *link // the connection or the attempt to make one; nil before the first
	closed error // why no connection is made any more
}

// NewSSH reads the key, and connects to nothing yet.
func NewSSH(o SSHOptions) (*SSH, error) {
	o.setDefaults()
	auth, err := authMethods(o)
	if err != nil {
		return nil, err
	}
	slots := o.Sessions - 1 // the spare one
	if len(o.Lock) > 0 {
		slots-- // it has a session of its own
	}
	if slots < 1 {
		return nil, fmt.Errorf("%d sessions are too few for %s", o.Sessions, o.Host)
	}
	h := &SSH{
		o: o, address: net.JoinHostPort(o.Host, strconv.Itoa(o.Port)), auth: auth,
		slots: make(chan struct{}, slots), spare: make(chan struct{}, 1), lost: make(chan struct{}),
	}
	h.alive, h.cut = context.WithCancel(context.Background())
	return h, nil
}

// Output runs argv on the host and gives what it printed on standard output, like the function
// Output: done (nil), refused (*ExitError), or not known (any other error). An error that is
// ErrNotStarted is sure to have changed nothing. A shell there gets each argument quoted; it has to be
// one as POSIX describes it. A command that takes longer than the limit is left
// to itself, after an attempt to kill it: it may go on.
func (h *SSH) Output(ctx context.Context, argv []string) ([]byte, error) {
	return h.output(ctx, argv, h.slots)
}

// Probe is Output for a question whose answer shows that the host answers: it waits for no command but
// another Probe, however many there are and however long they take.
func (h *SSH) Probe(ctx context.Context, argv []string) ([]byte, error) {
	return h.output(ctx, argv, h.spare)
}

func (h *SSH) output(ctx context.Context, argv []string, slots chan struct{}) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, h.o.Limit)
	defer cancel()
	program := path.Base(argv[0]) + " on " + h.o.Host
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w: the commands before it take too long: %w", program, ErrNotStarted, context.Cause(ctx))
	}
	c := &call{program: program, line: h.line(argv), done: make(chan struct{})}
	go func() {
		defer func() { <-slots }()
		c.out, c.err = h.run(ctx, c)
		close(c.done)
	}()
	select {
	case <-c.done:
		return c.out, c.err
	case <-ctx.Done():
		if c.begun.Swap(true) {
			return nil, c.unknown(context.Cause(ctx))
		}
		return nil, fmt.Errorf("%s: %w: %w", program, ErrNotStarted, context.Cause(ctx))
	}
}

// line is argv for the shell of the host.
func (h *SSH) line(argv []string) string {
	words := []string{"env", "LC_ALL=C", "PATH=" + searchPath}
	if h.o.BecomeRoot {
		words = append(words, "sudo", "-n", "--")
	}
	return Quote(append(words, argv...))
}

// call is a command on its way.
type call struct {
	program, line string
	// begun is set by whoever is first: the one who sends the command, or the one who no longer waits for it.
	begun atomic.Bool
	done  chan struct{}
	out   []byte
	err   error
}

func (c *call) unknown(err error) error {
	return fmt.Errorf("%s: it is not known what it did: %w", c.program, err)
}

// run runs c to its end, which may come long after ctx's.
func (h *SSH) run(ctx context.Context, c *call) ([]byte, error) {
	session, err := h.session(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", c.program, ErrNotStarted, err)
	}
	defer session.Close()
	if c.begun.Swap(true) {
		return nil, context.Cause(ctx) // nobody waits any more
	}
	var stdout, stderr bytes.Buffer
	session.Stdout, session.Stderr = &stdout, &stderr
	if err := session.Start(c.line); err != nil {
		return nil, c.unknown(err)
	}
	defer context.AfterFunc(ctx, func() {
		_ = session.Signal(ssh.SIGKILL) // OpenSSH passes it on unless a command is forced
		_ = session.Close()
	})()
	err = session.Wait()
	exit, ended := errors.AsType[*ssh.ExitError](err)
	switch {
	case err == nil:
		return stdout.Bytes(), nil
	case ended && exit.Signal() == "" && exit.ExitStatus() < firstSignal:
		return nil, &ExitError{Program: c.program, Status: exit.ExitStatus(), Stderr: strings.TrimSpace(stderr.String()), Stdout: stdout.Bytes()}
	default:
		return nil, c.unknown(err)
	}
}

// session opens one on a connection that lives.
func (h *SSH) session(ctx context.Context) (*ssh.Session, error) {
	again := true
	for pause := sessionPause; ; {
		l, err := h.connected(ctx)
		if err != nil {
			return nil, err
		}
		session, err := l.session()
		if err == nil {
			return session, nil
		}
		refused, ok := errors.AsType[*ssh.OpenChannelError](err)
		switch {
		case ok && pause > sessionPauseMax:
			return nil, fmt.Errorf("its sshd refuses another session (%s, %s): it may allow fewer than the %d that Berth uses (MaxSessions in sshd_config), or programs hang there",
				refused.Reason, refused.Message, h.o.Sessions)
		case ok: // sshd forgets a session a little after its end
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			pause *= 2
		case again: // the connection was lost while nobody used it, and nothing was sent
			again = false
			l.hangUp()
			<-l.gone
		default:
			return nil, fmt.Errorf("the connection was lost: %w", err)
		}
	}
}

// connected is the connection to the host, made if there is none. All that ask while it is
// being made get the outcome of that one attempt.
func (h *SSH) connected(ctx context.Context) (*link, error) {
	h.mu.Lock()
	if h.closed != nil {
		h.mu.Unlock()
		return nil, h.closed
	}
	if h.link == nil || h.link.over(h.o.pause) {
		h.link = newLink(h)
		go h.link.connect()
	}
	l := h.link
	h.mu.Unlock()
	select {
	case <-l.ready:
		return l, l.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Lost is closed when a connection ended that held the lock: from then on no command is run,
// because another process may have had the lock meanwhile. Whoever wants to go on makes a new
// SSH and looks at all anew. It is never closed if there is no Lock, or the host has no such command.
func (h *SSH) Lost() <-chan struct{} { return h.lost }

// Close ends the connection, and with it the lock. Commands that run there may go on.
func (h *SSH) Close() {
	h.end(fmt.Errorf("the connection to %s was closed", h.o.Host))
	h.mu.Lock()
	l := h.link
	h.mu.Unlock()
	if l != nil {
		l.unlock()
	}
	h.cut()
	if l != nil {
		<-l.gone
	}
}

// end has no connection be made any more, for the reason why. It is true the first time.
func (h *SSH) end(why error) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed != nil {
		return false
	}
	h.closed = why
	return true
}
