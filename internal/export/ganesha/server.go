package ganesha

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/export/probe"
)

const (
	// waitForServer is how long a call waits for a server that is being
	// (re)started before it says ErrUnavailable.
	waitForServer = 15 * time.Second
	waitForPort   = 3 * time.Second
	restartMin    = 100 * time.Millisecond
	restartMax    = 10 * time.Second
	// A server that was up for this long was started well: the next restart is at once.
	stableAfter = 30 * time.Second
)

// Options of a Server.
type Options struct {
	Listen      string        // IP address to serve on; "" for all
	Port        int           // of NFS
	NFSv3       bool          // also NFSv3, with its side protocols on fixed ports
	GracePeriod time.Duration // how long clients may reclaim what they had open after a restart; 0: not at all
	// DeviceFSIDs has file handles name a file system by its device number, as the
	// program before may have done, and not by its UUID. Handles break if the device
	// gets another number: see docs/decisions/handles.md.
	DeviceFSIDs bool
	StateDir    string // kept: which clients may reclaim
	RunDir      string // not kept: sockets and configuration; emptied at start, removed at the end
	Log         *slog.Logger
	// Restarted is called each time the server has ended and is started again. It may be nil.
	Restarted func()
}

func (o Options) recoveryDir() string { return filepath.Join(o.StateDir, "recovery") }
func (o Options) socket() string      { return filepath.Join(o.RunDir, "bus") }
func (o Options) statusDir() string   { return o.RunDir + "-statd" } // rpc.statd, which is not root, cannot enter RunDir
func (o Options) configFile() string  { return filepath.Join(o.RunDir, "ganesha.conf") }

// address is where the server answers on this host.
func (o Options) address() string {
	host := o.Listen
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, strconv.Itoa(o.Port))
}

// Server is a supervised NFS-Ganesha. It implements export.Server.
type Server struct {
	*driver
	o        Options
	programs programs
	synced   chan struct{} // closed by the first Sync: before that there is nothing to serve
}

var _ export.Server = (*Server)(nil)

// New checks that the programs are installed and the port is free, and makes the
// folders. The server starts with Run.
func New(o Options) (*Server, error) {
	s := &Server{driver: newDriver(), o: o, synced: make(chan struct{})}
	var err error
	if s.programs, err = findPrograms(o.NFSv3); err != nil {
		return nil, err
	}
	if err := checkPort(o); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.recoveryDir(), 0o700); err != nil {
		return nil, fmt.Errorf("state of the NFS server: %w", err)
	}
	if err := os.RemoveAll(o.RunDir); err != nil {
		return nil, fmt.Errorf("run folder of the NFS server: %w", err)
	}
	// sun_path of unix(7) has 108 bytes.
	if len(o.socket()) > 100 {
		return nil, fmt.Errorf("run folder of the NFS server: %s is too long for a socket's path, choose a shorter one", o.RunDir)
	}
	return s, s.makeRunDir()
}

// makeRunDir is done at each start: what cleans up temporary files may have been there.
func (s *Server) makeRunDir() error {
	err := os.MkdirAll(filepath.Dir(s.o.RunDir), 0o755)
	if err == nil {
		err = os.MkdirAll(s.o.RunDir, 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(s.o.RunDir, "bus.conf"), busConfig(s.o.socket()), 0o600)
	}
	if err != nil {
		return fmt.Errorf("run folder of the NFS server: %w", err)
	}
	return nil
}

// checkPort says whether the port can be had. The server of a Berth that was just
// killed may take a moment to end.
func checkPort(o Options) error {
	address := net.JoinHostPort(o.Listen, strconv.Itoa(o.Port))
	l, err := net.Listen("tcp", address)
	for deadline := time.Now().Add(waitForPort); errors.Is(err, syscall.EADDRINUSE) && time.Now().Before(deadline); {
		time.Sleep(pollStart)
		l, err = net.Listen("tcp", address)
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("port %d is taken by another process, perhaps the kernel's NFS server (rpc.nfsd 0 stops it): "+
			"stop that one, or give another port: %w", o.Port, err)
	}
	if err != nil {
		return fmt.Errorf("port %d cannot be served: %w", o.Port, err)
	}
	return l.Close()
}

// Run starts the server once Sync has said what to export, starts it again
// whenever it ends, and stops it when ctx does. It returns an error if the first
// start fails.
func (s *Server) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.synced:
	}
	defer func() {
		if err := errors.Join(os.RemoveAll(s.o.RunDir), os.RemoveAll(s.o.statusDir())); err != nil {
			s.o.Log.Warn("removing the run folder", "err", err)
		}
	}()
	wait := restartMin
	for first := true; ; first = false {
		began := time.Now()
		err := s.runOnce(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if first && time.Since(began) < stableAfter && errors.Is(err, errNotStarted) {
			return err
		}
		if time.Since(began) > stableAfter {
			wait = restartMin
		}
		s.o.Log.Error("the NFS server ended; starting it again", "err", err, "in", wait)
		if s.o.Restarted != nil {
			s.o.Restarted()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, restartMax)
	}
}

var errNotStarted = errors.New("the NFS server could not be started")

// runOnce is one life of the server: all its programs start and end together.
func (s *Server) runOnce(ctx context.Context) error {
	if err := s.makeRunDir(); err != nil {
		return err
	}
	have, err := s.writeConfig(s.wanted())
	if err != nil {
		return err
	}
	log := &recentLines{log: s.o.Log}
	group, err := s.start(log)
	if err != nil {
		return errors.Join(fmt.Errorf("%w: %w", errNotStarted, err), group.stop())
	}
	defer func() {
		if err := group.stop(); err != nil {
			s.o.Log.Error("stopping the NFS server", "err", err)
		}
	}()
	b, err := s.awaitServing(ctx, group, log)
	if err != nil {
		return fmt.Errorf("%w: %w: %s", errNotStarted, err, log.since(0))
	}
	defer b.close()
	if beyond, err := writesBeyondLimits(group.ganesha.PID()); err != nil {
		return err
	} else if beyond {
		s.o.Log.Warn("this NFS-Ganesha keeps the capability SYS_RESOURCE: quotas of ext4 do not stop its clients; use one that is built with libcap")
	}
	inst := &instance{bus: b, have: have}
	if err := s.verify(ctx, inst, log); err != nil {
		return err
	}
	log.started()
	s.setUp(inst)
	defer s.setUp(nil)
	s.o.Log.Info("the NFS server is serving", "address", s.o.address(), "exports", len(inst.have), "pid", group.ganesha.PID())
	return s.watch(ctx, group, b)
}

// writeConfig writes the configuration with all exports in it. One whose
// directory is missing would stop the server for all: it is left out and told of.
func (s *Server) writeConfig(want map[export.ID]export.Export) (map[export.ID]held, error) {
	text := baseConfig(s.o, len(want) == 0)
	have := make(map[export.ID]held, len(want))
	for id, e := range want {
		block, err := exportBlock(e, false)
		if err == nil {
			_, err = os.Lstat(e.Dir)
		}
		if err != nil {
			s.o.Log.Error("a volume cannot be exported", "export", id, "path", e.Dir, "err", err)
			continue
		}
		text = append(text, block...)
		have[id] = held{Export: e, sure: true}
	}
	if err := os.WriteFile(s.o.configFile(), text, 0o600); err != nil {
		return nil, fmt.Errorf("configuration of the NFS server: %w", err)
	}
	return have, nil
}

// verify compares what the server took from its configuration with what was in
// it, and with what was wanted meanwhile. One export that cannot be had is told
// of and does not keep the others from being served.
func (s *Server) verify(ctx context.Context, inst *instance, log *recentLines) error {
	exported, err := inst.bus.exports(ctx)
	if err != nil {
		return err
	}
	left := 0
	for id, e := range inst.have {
		if _, has := exported[id]; !has {
			s.o.Log.Error("the NFS server left an export out", "export", id, "path", e.Dir)
			delete(inst.have, id)
			left++
		}
	}
	if left > 0 {
		s.o.Log.Error("exports were left out; the server's log has why", "exports", left, "log", log.since(0))
	}
	for id, dir := range exported {
		if _, known := inst.have[id]; !known {
			inst.have[id] = held{Export: export.Export{ID: id, Dir: dir}}
		}
	}
	if err := s.align(ctx, inst); err != nil {
		s.o.Log.Error("not everything could be exported", "err", err)
	}
	return ctx.Err()
}

// Answers says whether the server answers a NULL call now, whatever it is about to do.
func (s *Server) Answers(ctx context.Context) error {
	return probe.Null(ctx, s.o.address(), probeTimeout)
}

// Sync implements export.Server. The first call lets the server start, with want
// in its configuration, and waits as long as that takes.
func (s *Server) Sync(ctx context.Context, want []export.Export) error {
	up, turn := s.setWant(want)
	select {
	case <-s.synced:
	default:
		close(s.synced)
	}
	for up == nil {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", export.ErrUnavailable, context.Cause(ctx))
		case <-turn:
		}
		up, turn = s.current()
	}
	return s.align(ctx, up)
}
