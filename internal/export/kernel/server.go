package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/export/probe"
	"github.com/berth-storage/berth/internal/run"
)

// ExportsFile is the host's own file of exports (exports(5)). Berth does not write to it.
const ExportsFile = "/etc/exports"

const (
	// exportsFolder is where exportfs looks for more files.
	exportsFolder = "/etc/exports.d"
	// stateFolder is where nfs-utils keeps its state if nfs.conf says nothing else.
	stateFolder = "/var/lib/nfs"

	checkEvery   = time.Second // two stats, if nothing has changed
	probeEvery   = 5 * time.Second
	probeTimeout = 5 * time.Second
)

// Options of a Server.
type Options struct {
	Instance string // names the file below /etc/exports.d; of letters and digits
	Address  string // where the host's NFS server answers, host:port
	Log      *slog.Logger
}

// Server exports by the host's own NFS server. It implements export.Server. Several
// can be there for one host, each with an instance of its own.
type Server struct {
	o       Options
	file    string // below exportsFolder, with the lines that this instance wants
	table   table
	caches  caches
	serving atomic.Bool
	synced  chan struct{} // closed by the first Sync: before that nobody knows what is wanted

	turn   chan struct{} // holds one token: who has it may use what follows
	want   map[export.ID]wanted
	text   document // of our file, as it has to be
	ours   fileState
	memory document // for the table; kept, because it may be large
	news   news     // what the kernel has to be told yet
	seen   versions // of the files when they were last found to be right
	warned bool     // of somebody's root of NFSv4
}

// wanted is an export and its lines.
type wanted struct {
	export.Export
	lines []line
}

// versions are those of the two files.
type versions struct{ table, file version }

var _ export.Server = (*Server)(nil)

// New finds the programs and folders. Whether the host's server runs is a matter
// for Run and Serving.
func New(ctx context.Context, o Options) (*Server, error) {
	exportfs, err := run.Find("exportfs", "nfs-kernel-server")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(exportsFolder, 0o755); err != nil {
		return nil, fmt.Errorf("exports of the kernel's NFS server: %w", err)
	}
	return &Server{
		o:      o,
		file:   filepath.Join(exportsFolder, "berth-"+o.Instance+".exports"),
		table:  table{folder: findState(ctx), exportfs: exportfsLock},
		caches: caches{folder: cachesFolder, exportfs: exportfs, address: o.Address},
		synced: make(chan struct{}),
		turn:   make(chan struct{}, 1),
		want:   map[export.ID]wanted{},
		text:   document(head),
	}, nil
}

// findState asks nfs.conf(5), as exportfs does, where the state is kept.
func findState(ctx context.Context) string {
	nfsconf, err := run.Find("nfsconf", "nfs-common")
	if err != nil {
		return stateFolder // nfs-utils before 2.5: there is no such file
	}
	for _, section := range []string{"mountd", "exportd"} {
		text, err := run.Output(ctx, run.Command{Path: nfsconf, Args: []string{"--get", section, "state-directory-path"}}, commandLimit)
		if folder := strings.TrimSpace(string(text)); err == nil && folder != "" {
			return folder
		}
	}
	return stateFolder
}

// take takes the turn; done gives it back.
func (s *Server) take(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		if ctx.Err() == nil {
			return nil
		}
		s.done()
	case <-ctx.Done():
	}
	return fmt.Errorf("%w: %w", export.ErrUnavailable, context.Cause(ctx))
}

func (s *Server) done() { <-s.turn }

// Publish implements export.Server. Path has to be Dir: the kernel's server has no
// other names for a directory.
func (s *Server) Publish(ctx context.Context, e export.Export) error {
	w, err := s.check(e)
	if err != nil {
		return err
	}
	if err := s.answers(ctx); err != nil {
		return fmt.Errorf("%w: %w", export.ErrUnavailable, err)
	}
	if err := s.take(ctx); err != nil {
		return err
	}
	defer s.done()
	old, had := s.want[e.ID]
	s.add(w)
	dirs := map[string]bool{e.Dir: true}
	if had {
		dirs[old.Dir] = true
	}
	err = s.write(ctx, dirs)
	if errors.Is(err, export.ErrRefused) {
		// Nothing was written. What was there before stays.
		s.remove(e.ID)
		if had {
			s.add(old)
		}
	}
	if err == nil {
		err = s.tell(ctx)
	}
	if err != nil {
		return fmt.Errorf("exporting %s: %w", e.Dir, err)
	}
	return nil
}

// check refuses what the kernel's server cannot export.
func (s *Server) check(e export.Export) (wanted, error) {
	err := checkPath(e.Dir)
	if err == nil && e.Path != e.Dir {
		err = fmt.Errorf("clients of the kernel's NFS server mount the directory's own path, not %s", e.Path)
	}
	if err == nil {
		err = CheckDir(e.Dir)
	}
	if err != nil {
		return wanted{}, fmt.Errorf("%w: %s (export %d): %w", export.ErrRefused, e.Dir, e.ID, err)
	}
	return wanted{Export: e, lines: linesOf(e)}, nil
}

// news is what the table says since the kernel was last told of it.
type news struct {
	dirs       map[string]bool // exported in another way now, or not any more
	newClients bool            // a client is named that was not before
}

// tell has the kernel ask mountd about what has changed. What fails is told again
// by the next call.
func (s *Server) tell(ctx context.Context) error {
	flush, err := s.needsFlush()
	if err != nil {
		return err
	}
	if flush {
		if err := s.caches.flush(ctx); err != nil {
			return err
		}
	}
	if err := s.caches.forget(ctx, s.news.dirs); err != nil {
		return err
	}
	s.news = news{}
	return nil
}

// needsFlush says whether the kernel has to forget everything, which makes mountd
// answer for each volume in use again, each time looking through all exports. For
// one volume it has not, if what is remembered is true of all but that.
func (s *Server) needsFlush() (bool, error) {
	switch {
	case len(s.news.dirs) == 0:
		return false, nil
	case len(s.news.dirs) > 1, s.news.newClients:
		return true, nil
	}
	for _, w := range s.want {
		if s.news.dirs[w.Dir] {
			return s.caches.hide(w.Export)
		}
	}
	return false, nil
}

// Withdraw implements export.Server. It takes away all that exports the directory,
// also what others have added.
func (s *Server) Withdraw(ctx context.Context, e export.Export) error {
	if err := s.take(ctx); err != nil {
		return err
	}
	defer s.done()
	old, had := s.want[e.ID]
	if !had {
		return nil
	}
	s.remove(e.ID)
	err := s.write(ctx, map[string]bool{old.Dir: true})
	if err == nil {
		err = s.tell(ctx)
	}
	if err != nil {
		s.add(old) // so that the next call goes on with it
		return fmt.Errorf("withdrawing %s: %w", old.Dir, err)
	}
	return nil
}

// Sync implements export.Server. What cannot be exported is told of and left out.
func (s *Server) Sync(ctx context.Context, want []export.Export) error {
	if err := s.take(ctx); err != nil {
		return err
	}
	defer s.done()
	dirs, err := s.known()
	if err != nil {
		return err
	}
	var good []wanted
	var failed []error
	for _, e := range want {
		w, err := s.check(e)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		good = append(good, w)
		dirs[e.Dir] = true
	}
	s.setWant(good)
	failed = append(failed, s.bring(ctx, dirs))
	select {
	case <-s.synced:
	default:
		close(s.synced)
	}
	return errors.Join(failed...)
}

// known are the directories that this instance exports, by its file and by what is wanted.
func (s *Server) known() (map[string]bool, error) {
	dirs := map[string]bool{}
	file, err := load(s.file, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", export.ErrUnavailable, err)
	}
	for _, e := range file.entries() {
		if e.path != nil {
			dirs[string(e.path)] = true
		}
	}
	for _, w := range s.want {
		dirs[w.Dir] = true
	}
	return dirs, nil
}

// bring has all of dirs exported as is wanted, or not at all.
func (s *Server) bring(ctx context.Context, dirs map[string]bool) error {
	var failed []error
	for {
		err := s.write(ctx, dirs)
		// One that cannot be had does not keep the others from being exported.
		if conflict, ok := errors.AsType[*conflictError](err); ok {
			failed = append(failed, err)
			s.remove(conflict.id)
			continue
		}
		if err == nil {
			err = s.tell(ctx)
		}
		return errors.Join(append(failed, err)...)
	}
}

// Run looks whether the host's server answers, and whether what it exports is what
// is wanted, until ctx ends. Then all stays exported: the server is the host's.
func (s *Server) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.synced:
	}
	var probed time.Time
	for first := true; ctx.Err() == nil; first = false {
		if !s.serving.Load() || time.Since(probed) >= probeEvery {
			s.probe(ctx, first)
			probed = time.Now()
		}
		if err := s.repair(ctx); err != nil && ctx.Err() == nil {
			s.o.Log.Error("the exports cannot be checked", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(checkEvery):
		}
	}
	s.serving.Store(false)
	return nil
}

// probe notes whether the server answers, and says so if that is news.
func (s *Server) probe(ctx context.Context, first bool) {
	err := s.answers(ctx)
	if ctx.Err() != nil {
		return
	}
	was := s.serving.Swap(err == nil)
	switch {
	case err != nil && (was || first):
		s.o.Log.Error("volumes cannot be mounted", "err", err)
	case err == nil && !was:
		s.o.Log.Info("the host's NFS server is serving", "address", s.o.Address)
	}
}

// answers says whether the host's NFS server is there; its error says what to do.
func (s *Server) answers(ctx context.Context) error {
	if err := probe.Null(ctx, s.o.Address, probeTimeout); err != nil {
		return fmt.Errorf("the host's NFS server does not answer NFSv4 at %s; start it (systemctl start nfs-server): %w", s.o.Address, err)
	}
	return nil
}

// repair brings back what somebody else has taken away or changed.
func (s *Server) repair(ctx context.Context) error {
	if err := s.take(ctx); err != nil {
		return err
	}
	defer s.done()
	now, err := s.versions()
	if err != nil {
		return err
	}
	if now != s.seen {
		dirs := map[string]bool{}
		for _, w := range s.want {
			dirs[w.Dir] = true
		}
		err := s.write(ctx, dirs)
		if errors.Is(err, export.ErrRefused) {
			s.seen = now // to say it once, and try again when something changes
		}
		if err != nil {
			return err
		}
		if count := len(s.news.dirs); count > 0 {
			s.o.Log.Warn("somebody has changed how volumes are exported; they are exported again as they were", "volumes", count)
		}
	}
	return s.tell(ctx)
}

func (s *Server) versions() (versions, error) {
	t, err := versionOf(s.table.path())
	if err != nil {
		return versions{}, err
	}
	f, err := versionOf(s.file)
	return versions{t, f}, err
}

// Serving says whether the host's server answers and has been told what to export.
func (s *Server) Serving() bool { return s.serving.Load() }
