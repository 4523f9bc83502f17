package ganesha

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/berth-storage/berth/internal/export/probe"
	"github.com/berth-storage/berth/internal/run"
)

const (
	stopGrace    = 10 * time.Second // Ganesha takes about 2 s to end by itself
	helperLimit  = 5 * time.Second  // for what Ganesha needs to be there
	pollStart    = 20 * time.Millisecond
	probeEvery   = 5 * time.Second
	probeTimeout = 5 * time.Second
	probeLimit   = 3 // failures in a row after which a server counts as hung
)

// programs are the paths of what a server consists of.
type programs struct {
	ganesha, bus    string
	rpcbind, status string // for NFSv3 only
}

func findPrograms(nfsv3 bool) (programs, error) {
	var p programs
	var errs [4]error
	p.ganesha, errs[0] = run.Find("ganesha.nfsd", "nfs-ganesha")
	p.bus, errs[1] = run.Find("dbus-daemon", "dbus")
	if nfsv3 {
		p.rpcbind, errs[2] = run.Find("rpcbind", "rpcbind")
		p.status, errs[3] = run.Find("rpc.statd", "nfs-common")
	}
	if err := errors.Join(errs[:]...); err != nil {
		return p, err
	}
	return p, findVFS()
}

// findVFS looks for the module that serves local file systems, which Debian has
// in a package of its own. Distributions put it in one of these folders.
func findVFS() error {
	for _, pattern := range []string{"/usr/lib/ganesha", "/usr/lib/*/ganesha", "/usr/lib64/ganesha", "/usr/local/lib*/ganesha"} {
		if found, err := filepath.Glob(pattern + "/libfsalvfs.so"); err == nil && len(found) > 0 {
			return nil
		}
	}
	return errors.New("NFS-Ganesha's module for local file systems (libfsalvfs.so) is not installed: " +
		"it is in the package nfs-ganesha-vfs (apt-get install nfs-ganesha-vfs)")
}

// group is the processes of one run of the server.
type group struct {
	processes []*run.Process // in order of their start
	ganesha   *run.Process
	names     map[*run.Process]string
	last      map[*run.Process]*lastLine
}

// lastLine keeps what a program said last, which is often why it ended.
type lastLine struct {
	mu   sync.Mutex
	text string
}

func (l *lastLine) set(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = text
}

func (l *lastLine) get() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text
}

// start starts the processes. The group it returns is to be stopped, also with an error.
func (s *Server) start(log *recentLines) (*group, error) {
	g := &group{names: map[*run.Process]string{}, last: map[*run.Process]*lastLine{}}
	plain := func(line string) { s.o.Log.Debug(line) }
	if s.programs.rpcbind != "" {
		if err := s.startNFSv3(g, plain); err != nil {
			return g, err
		}
	}
	// A socket left by a killed bus would refuse the new one.
	if err := os.RemoveAll(s.o.socket()); err != nil {
		return g, err
	}
	if _, err := g.add("dbus-daemon", run.Command{
		Path: s.programs.bus,
		Args: []string{"--config-file=" + filepath.Join(s.o.RunDir, "bus.conf"), "--nofork", "--nopidfile"},
		Line: plain,
	}); err != nil {
		return g, err
	}
	// Ganesha connects to the bus once, when it starts, and does without one if it
	// is not there: wait for it.
	if err := awaitListener("unix", s.o.socket(), helperLimit); err != nil {
		return g, fmt.Errorf("dbus-daemon: %w", err)
	}
	epoch, err := nextEpoch(filepath.Join(s.o.StateDir, "epoch"), time.Now())
	if err != nil {
		// A full disk, most likely: the time serves unless it is the same second.
		s.o.Log.Warn("the epoch of the NFS server is not kept", "err", err)
	}
	p, err := g.add("ganesha.nfsd", run.Command{
		Path: s.programs.ganesha,
		Args: []string{
			"-F", "-f", s.o.configFile(), "-L", "STDOUT", "-p", filepath.Join(s.o.RunDir, "ganesha.pid"),
			"-E", strconv.FormatInt(epoch, 10),
		},
		Env: []string{
			"DBUS_SYSTEM_BUS_ADDRESS=unix:path=" + s.o.socket(),
			// Ganesha looks up the block device of each export's file system. With a
			// cache file that exists that takes three times as long.
			"BLKID_FILE=/nonexistent/blkid.tab",
		},
		Line: log.line,
	})
	g.ganesha = p
	return g, err
}

// nextEpoch gives the number by which clients tell one run of the server from
// another, and keeps it in file. Ganesha's own is the time in seconds: a server
// that is back within the second would hand out client ids that another client
// still holds (RFC 7530 section 3.3.3 wants them unique over restarts).
func nextEpoch(file string, now time.Time) (int64, error) {
	epoch := now.Unix()
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return epoch, err
	}
	// A file that was torn by a power failure says nothing; the time has gone on.
	if last, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && last >= epoch {
		epoch = last + 1
	}
	return epoch, os.WriteFile(file, fmt.Appendln(nil, epoch), 0o600)
}

func (g *group) add(name string, c run.Command) (*run.Process, error) {
	last, line := &lastLine{}, c.Line
	c.Line = func(text string) {
		last.set(text)
		line(text)
	}
	p, err := run.Start(c)
	if err != nil {
		return nil, err
	}
	g.last[p] = last
	g.processes = append(g.processes, p)
	g.names[p] = name
	return p, nil
}

// stop ends all, the last started first.
func (g *group) stop() error {
	var failed []error
	for _, p := range slices.Backward(g.processes) {
		failed = append(failed, p.Stop(stopGrace))
	}
	return errors.Join(failed...)
}

// ended says which process has ended, if any.
func (g *group) ended() error {
	for _, p := range g.processes {
		select {
		case <-p.Done():
			return g.endOf(p)
		default:
		}
	}
	return nil
}

func (g *group) endOf(p *run.Process) error {
	if err := p.Err(); err != nil {
		return fmt.Errorf("%s ended: %w: %s", g.names[p], err, g.last[p].get())
	}
	return fmt.Errorf("%s ended: %s", g.names[p], g.last[p].get())
}

// awaitListener waits until something listens at address.
func awaitListener(network, address string, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		conn, err := net.Dial(network, address)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(pollStart)
	}
}

// awaitServing waits until the server answers on its port and on the bus. That
// may take long with many exports; it is given up only if a process ends.
func (s *Server) awaitServing(ctx context.Context, g *group, log *recentLines) (*bus, error) {
	for {
		if err := probe.Null(ctx, s.o.address(), probeTimeout); err == nil {
			if b, err := dialBus(ctx, s.o.socket(), s.o.RunDir, log); err == nil {
				return b, nil
			}
		}
		if err := g.ended(); err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pollStart):
		}
	}
}

// watch returns when a process has ended or the server has stopped answering.
func (s *Server) watch(ctx context.Context, g *group, b *bus) error {
	ended := make(chan *run.Process, len(g.processes))
	for _, p := range g.processes {
		go func() {
			<-p.Done()
			ended <- p
		}()
	}
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case p := <-ended:
			return g.endOf(p)
		case <-b.conn.Context().Done():
			return errors.New("the connection to the bus is lost")
		case <-ticker.C:
		}
		err := probe.Null(ctx, s.o.address(), probeTimeout)
		if err == nil || ctx.Err() != nil {
			failures = 0
			continue
		}
		failures++
		s.o.Log.Warn("the NFS server does not answer", "err", err, "failures", failures)
		if failures == probeLimit {
			// SIGTERM would wait for the threads that hang.
			return errors.Join(fmt.Errorf("no answer for %s: %w", probeLimit*probeEvery, err), g.ganesha.Kill())
		}
	}
}
