package ganesha

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/berth-storage/berth/internal/export"
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
	o        Options
	programs programs

	mu     sync.Mutex
	want   map[export.ID]export.Export
	synced chan struct{} // closed by the first Sync: before that there is nothing to serve
	up     *instance     // nil while there is no server
	turn   chan struct{} // closed and renewed whenever up changes
}

// instance is one run of the server.
type instance struct {
	bus *bus
	// have is what the server exports, as far as is known: an id whose call had
	// no clear outcome is in it with the zero Export.
	have map[export.ID]export.Export
}

var _ export.Server = (*Server)(nil)

// New checks that the programs are installed and the port is free, and makes the
// folders. The server starts with Run.
func New(o Options) (*Server, error) {
	s := &Server{o: o, want: map[export.ID]export.Export{}, synced: make(chan struct{}), turn: make(chan struct{})}
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
	s.mu.Lock()
	want := maps.Clone(s.want)
	s.mu.Unlock()
	if err := s.makeRunDir(); err != nil {
		return err
	}
	have, err := s.writeConfig(want)
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
func (s *Server) writeConfig(want map[export.ID]export.Export) (map[export.ID]export.Export, error) {
	text := baseConfig(s.o)
	have := make(map[export.ID]export.Export, len(want))
	for id, e := range want {
		block, err := exportBlock(e)
		if err == nil {
			_, err = os.Lstat(e.Dir)
		}
		if err != nil {
			s.o.Log.Error("a volume cannot be exported", "export", id, "path", e.Dir, "err", err)
			continue
		}
		text = append(text, block...)
		have[id] = e
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
	ids, err := inst.bus.ids(ctx)
	if err != nil {
		return err
	}
	left := 0
	for id, e := range inst.have {
		if !ids[id] {
			s.o.Log.Error("the NFS server left an export out", "export", id, "path", e.Dir)
			delete(inst.have, id)
			left++
		}
	}
	if left > 0 {
		s.o.Log.Error("exports were left out; the server's log has why", "exports", left, "log", log.since(0))
	}
	for id := range ids {
		if _, known := inst.have[id]; !known {
			inst.have[id] = export.Export{}
		}
	}
	if err := s.align(ctx, inst); err != nil {
		s.o.Log.Error("not everything could be exported", "err", err)
	}
	return ctx.Err()
}

func (s *Server) setUp(inst *instance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.up = inst
	close(s.turn)
	s.turn = make(chan struct{})
}

// Serving says whether the server is up.
func (s *Server) Serving() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.up != nil
}

// Answers says whether the server answers a NULL call now, whatever it is about to do.
func (s *Server) Answers(ctx context.Context) error { return null(ctx, s.o.address(), probeTimeout) }

// await returns the running server, and waits for it if it is being started.
func (s *Server) await(ctx context.Context) (*instance, error) {
	limit := time.After(waitForServer)
	for {
		s.mu.Lock()
		up, turn := s.up, s.turn
		s.mu.Unlock()
		if up != nil {
			return up, nil
		}
		select {
		case <-turn:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", export.ErrUnavailable, context.Cause(ctx))
		case <-limit:
			return nil, fmt.Errorf("%w: it is not up after %s of waiting", export.ErrUnavailable, waitForServer)
		}
	}
}

// Sync implements export.Server. The first call lets the server start, with want
// in its configuration, and waits as long as that takes.
func (s *Server) Sync(ctx context.Context, want []export.Export) error {
	s.mu.Lock()
	s.want = make(map[export.ID]export.Export, len(want))
	for _, e := range want {
		s.want[e.ID] = e
	}
	up, turn := s.up, s.turn
	select {
	case <-s.synced:
	default:
		close(s.synced)
	}
	s.mu.Unlock()
	for up == nil {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", export.ErrUnavailable, context.Cause(ctx))
		case <-turn:
		}
		s.mu.Lock()
		up, turn = s.up, s.turn
		s.mu.Unlock()
	}
	return s.align(ctx, up)
}

// align brings a running server to what is wanted.
func (s *Server) align(ctx context.Context, inst *instance) error {
	s.mu.Lock()
	want, have := maps.Clone(s.want), maps.Clone(inst.have)
	s.mu.Unlock()
	var failed []error
	for id, e := range have {
		if w, wanted := want[id]; !wanted || w != e {
			failed = append(failed, s.withdraw(ctx, inst, id))
		}
	}
	for id, e := range want {
		if have[id] != e {
			failed = append(failed, s.publish(ctx, inst, e))
		}
	}
	return errors.Join(failed...)
}

// Publish implements export.Server.
func (s *Server) Publish(ctx context.Context, e export.Export) error {
	inst, err := s.await(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.want[e.ID] = e // a server that starts from here on has it in its configuration
	s.mu.Unlock()
	err = s.publish(ctx, inst, e)
	if errors.Is(err, export.ErrRefused) {
		s.mu.Lock()
		delete(s.want, e.ID)
		s.mu.Unlock()
	}
	return err
}

func (s *Server) publish(ctx context.Context, inst *instance, e export.Export) error {
	s.mu.Lock()
	old, known := inst.have[e.ID]
	s.mu.Unlock()
	switch {
	case known && old == e:
		return nil
	case known && old.Dir == e.Dir && old.Path == e.Path && old.FSID == e.FSID:
		if err := inst.bus.update(ctx, e); err != nil {
			return err
		}
	case known:
		// The rest of an export cannot be changed while it is there, and an
		// earlier call whose outcome is unknown may have added anything.
		if err := s.withdraw(ctx, inst, e.ID); err != nil {
			return err
		}
		fallthrough
	default:
		s.setHave(inst, e.ID, export.Export{})
		if err := inst.bus.add(ctx, e); errors.Is(err, export.ErrRefused) {
			return errors.Join(err, s.withdraw(ctx, inst, e.ID))
		} else if err != nil {
			return err
		}
	}
	s.setHave(inst, e.ID, e)
	return nil
}

// Withdraw implements export.Server.
func (s *Server) Withdraw(ctx context.Context, id export.ID) error {
	s.mu.Lock()
	delete(s.want, id) // a server that starts from here on lacks it
	s.mu.Unlock()
	// Waiting also when no server is up: the one being started may have been
	// given the export before it was taken out of want.
	inst, err := s.await(ctx)
	if err != nil {
		return err
	}
	return s.withdraw(ctx, inst, id)
}

func (s *Server) withdraw(ctx context.Context, inst *instance, id export.ID) error {
	s.mu.Lock()
	_, known := inst.have[id]
	s.mu.Unlock()
	if !known {
		return nil
	}
	if err := inst.bus.remove(ctx, id); err != nil {
		return err
	}
	s.mu.Lock()
	delete(inst.have, id)
	s.mu.Unlock()
	return nil
}

func (s *Server) setHave(inst *instance, id export.ID, e export.Export) {
	s.mu.Lock()
	defer s.mu.Unlock()
	inst.have[id] = e
}
