package run

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	dialLimit   = 20 * time.Second // for the connection, the keys and the lock, each
	unlockLimit = 2 * time.Second
	// Exit statuses of the command that holds the lock.
	statusLocked  = 75  // EX_TEMPFAIL of sysexits(3): somebody else has it
	statusMissing = 127 // env(1): there is no such command
)

// link is one connection to the host.
type link struct {
	host   *SSH
	client *ssh.Client
	beats  io.WriteCloser // the input of what holds the lock; nil: nothing does
	uncut  func() bool    // no longer to be closed with the host

	ready chan struct{} // closed when the attempt to connect is over; then err says how it went
	err   error
	ended time.Time     // of an attempt that failed
	dead  chan struct{} // closed when the connection has ended,
	gone  chan struct{} // and when all that follows from it is done
}

func newLink(h *SSH) *link {
	return &link{host: h, ready: make(chan struct{}), dead: make(chan struct{}), gone: make(chan struct{})}
}

// over says whether another attempt is due.
func (l *link) over(pause time.Duration) bool {
	select {
	case <-l.ready:
	default:
		return false
	}
	if l.err != nil {
		return time.Since(l.ended) >= pause // sshd may punish those who come too often (PerSourcePenalties)
	}
	select {
	case <-l.gone:
		return true
	default:
		return false
	}
}

// connect makes the connection, and looks after it until it ends.
func (l *link) connect() {
	defer close(l.gone)
	l.uncut = func() bool { return true }
	defer func() { l.uncut() }()
	l.err = l.dial()
	if l.err == nil && len(l.host.o.Lock) > 0 {
		l.beats, l.err = l.lock()
	}
	if l.err != nil {
		l.ended = time.Now()
		if l.client != nil {
			l.hangUp()
		}
		close(l.ready)
		return
	}
	close(l.ready)
	stop := make(chan struct{})
	var keeper sync.WaitGroup
	keeper.Go(func() { l.keep(stop) })
	err := l.client.Wait()
	close(stop)
	keeper.Wait()
	if l.beats != nil && l.host.end(fmt.Errorf("the connection to %s, which held the pool's lock, was lost: %w", l.host.o.Host, err)) {
		close(l.host.lost)
	}
}

// dial connects, and makes sure who the host is, and the host who Berth is.
func (l *link) dial() error {
	h := l.host
	algorithms, check, err := hostKeys(h.o.KnownHosts, h.address)
	if err != nil {
		return err
	}
	dialer := net.Dialer{Timeout: dialLimit}
	raw, err := dialer.DialContext(h.alive, "tcp", h.address)
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", h.address, err)
	}
	l.uncut = context.AfterFunc(h.alive, func() { _ = raw.Close() })
	_ = raw.SetDeadline(time.Now().Add(dialLimit))
	conn, channels, requests, err := ssh.NewClientConn(raw, h.address, &ssh.ClientConfig{
		User: h.o.User, Auth: h.auth, HostKeyCallback: check, HostKeyAlgorithms: algorithms,
	})
	if err != nil {
		_ = raw.Close()
		return fmt.Errorf("connecting to %s as %s: %w", h.address, h.o.User, err)
	}
	_ = raw.SetDeadline(time.Time{})
	l.client = ssh.NewClient(conn, channels, requests)
	go func() {
		_ = l.client.Wait()
		close(l.dead)
	}()
	return nil
}

// unlock gives the lock back, if this connection has it, and waits a moment for that.
func (l *link) unlock() {
	select {
	case <-l.ready:
	default:
		return
	}
	if l.beats == nil {
		return
	}
	_ = l.beats.Close()
	select {
	case <-l.gone:
	case <-time.After(unlockLimit):
	}
}

// hangUp ends the connection; that it ended already is no error.
func (l *link) hangUp() { _ = l.client.Close() }

// session opens a session. A session that is opened at the moment at which the connection ends may
// wait for ever in package ssh, so nobody waits for it longer than the connection lives.
func (l *link) session() (*ssh.Session, error) {
	type opened struct {
		session *ssh.Session
		err     error
	}
	result := make(chan opened, 1)
	go func() {
		session, err := l.client.NewSession()
		result <- opened{session, err}
	}()
	select {
	case o := <-result:
		return o.session, o.err
	case <-l.dead:
		return nil, net.ErrClosed
	}
}

// keep asks the host now and then whether it is there, and ends the connection if it is
// silent; and tells the keeper of the lock that Berth is there.
func (l *link) keep(stop <-chan struct{}) {
	o := l.host.o
	tick := time.NewTicker(o.beat)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		answer := make(chan error, 1)
		go func() {
			if l.beats != nil {
				if _, err := io.WriteString(l.beats, "."); err != nil {
					answer <- err
					return
				}
			}
			// A host that does not know the request says so, which is an answer too.
			_, _, err := l.client.SendRequest("keepalive@openssh.com", true, nil)
			answer <- err
		}()
		silent := time.NewTimer(o.quiet)
		select {
		case err := <-answer:
			if err != nil {
				l.hangUp()
			}
		case <-silent.C:
			l.hangUp()
		case <-stop:
		}
		silent.Stop()
	}
}

// lock takes the lock, for as long as the connection lives. beats is nil if the host has no
// command for that.
func (l *link) lock() (beats io.WriteCloser, err error) {
	h := l.host
	fail := func(err error) error { return fmt.Errorf("locking the pool on %s: %w", h.o.Host, err) }
	timer := time.AfterFunc(dialLimit, func() { l.hangUp() })
	defer timer.Stop()
	session, err := l.session()
	if err != nil {
		return nil, fail(err)
	}
	var stderr strings.Builder
	session.Stderr = &stderr
	in, err := session.StdinPipe()
	if err != nil {
		return nil, fail(err)
	}
	out, err := session.StdoutPipe()
	if err != nil {
		return nil, fail(err)
	}
	words := append([]string{"env", "LC_ALL=C", "PATH=" + searchPath}, h.o.Lock...)
	if err := session.Start(Quote(words)); err != nil {
		return nil, fail(err)
	}
	if said, _ := bufio.NewReader(out).ReadString('\n'); said == "locked\n" {
		go func() {
			_ = session.Wait()
			l.hangUp() // no lock, no connection
		}()
		return in, nil
	}
	_ = in.Close()
	err = session.Wait()
	if exit, ok := errors.AsType[*ssh.ExitError](err); ok {
		switch exit.ExitStatus() {
		case statusMissing:
			return nil, nil
		case statusLocked:
			return nil, fail(errors.New("another Berth has it open; it is free when that ends, or a minute after its connection was lost"))
		}
	}
	return nil, fail(fmt.Errorf("%w: %s", errors.Join(err, errors.New("it did not say that it is locked")), strings.TrimSpace(stderr.String())))
}
