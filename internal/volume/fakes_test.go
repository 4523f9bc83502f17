package volume_test

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/mem"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

// journal is what was called, in order: "Withdraw 1", "Discard pvc-1".
type journal struct {
	mu    sync.Mutex
	lines []string
	// before, if not nil, is called before each call is passed on. Its error is
	// the call's; it may also wait.
	before func(ctx context.Context, call string) error
}

func (j *journal) call(ctx context.Context, what string, on any) error {
	line := fmt.Sprint(what, " ", on)
	j.mu.Lock()
	j.lines = append(j.lines, line)
	before := j.before
	j.mu.Unlock()
	if before == nil {
		return nil
	}
	return before(ctx, line)
}

// fail makes each of calls end with err, as if it had not been passed on.
func (j *journal) fail(err error, calls ...string) {
	j.hook(func(_ context.Context, call string) error {
		if slices.Contains(calls, call) {
			return err
		}
		return nil
	})
}

func (j *journal) hook(before func(context.Context, string) error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.before = before
}

// take gives the calls since the last take, without those that only read.
func (j *journal) take() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	lines := slices.DeleteFunc(j.lines, func(line string) bool { return line[:4] == "Get " || line[:5] == "List " })
	j.lines = nil
	return lines
}

// backend is the one in memory, with a journal.
type backend struct {
	*mem.Backend
	j *journal
	// unreadable are errors that List gives beside the records.
	unreadable []error
	// cutOff has Create stop after the record, as a crash or an error does.
	cutOff error
	fixed  *volume.Capacity // in place of the real one
	check  error            // of CheckDiscard
}

func (b *backend) Capacity(ctx context.Context) (volume.Capacity, error) {
	if b.fixed != nil {
		return *b.fixed, nil
	}
	return b.Backend.Capacity(ctx)
}

func (b *backend) Create(ctx context.Context, s volume.Spec) (volume.Volume, error) {
	if err := b.j.call(ctx, "Create", s.Name); err != nil {
		return volume.Volume{}, err
	}
	v, err := b.Backend.Create(ctx, s)
	return b.finish(ctx, v, err, volume.StateReady)
}

// finish is the end of making v, which is in state then.
func (b *backend) finish(ctx context.Context, v volume.Volume, err error, state volume.State) (volume.Volume, error) {
	switch {
	case err != nil:
		return v, err
	case b.cutOff != nil:
		v.State = volume.StateCreating
		if _, err := b.Backend.Update(ctx, v); err != nil {
			return volume.Volume{}, err
		}
		return volume.Volume{}, b.cutOff
	case v.State == volume.StateCreating:
		v.State = state
		return b.Backend.Update(ctx, v)
	}
	return v, nil
}

func (b *backend) Clone(ctx context.Context, s volume.Spec, p *volume.Progress) (volume.Volume, error) {
	over, err := p.Turn(ctx)
	if err != nil {
		return volume.Volume{}, err
	}
	defer over()
	p.Add(1, 4096)
	if err := b.j.call(ctx, "Clone", s.Name); err != nil {
		return volume.Volume{}, err
	}
	v, err := b.Backend.Clone(ctx, s, p)
	return b.finish(ctx, v, err, volume.StateReady)
}

func (b *backend) Fill(ctx context.Context, s volume.Spec, c volume.Content, p *volume.Progress) (volume.Volume, error) {
	p.Add(1, 4096)
	if err := b.j.call(ctx, "Fill", s.Name); err != nil {
		return volume.Volume{}, err
	}
	v, err := b.Backend.Fill(ctx, s, c, p)
	return b.finish(ctx, v, err, volume.StateReady)
}

func (b *backend) Snapshot(ctx context.Context, s volume.SnapshotSpec, p *volume.Progress) (volume.Volume, error) {
	over, err := p.Turn(ctx)
	if err != nil {
		return volume.Volume{}, err
	}
	defer over()
	p.Add(1, 4096)
	if err := b.j.call(ctx, "Snapshot", s.Name); err != nil {
		return volume.Volume{}, err
	}
	v, err := b.Backend.Snapshot(ctx, s, p)
	return b.finish(ctx, v, err, volume.StateSnapshot)
}

func (b *backend) Get(ctx context.Context, n volume.Name) (volume.Volume, error) {
	if err := b.j.call(ctx, "Get", n); err != nil {
		return volume.Volume{}, err
	}
	return b.Backend.Get(ctx, n)
}

func (b *backend) List(ctx context.Context) iter.Seq2[volume.Volume, error] {
	return func(yield func(volume.Volume, error) bool) {
		for _, err := range b.unreadable {
			if !yield(volume.Volume{}, err) {
				return
			}
		}
		for v, err := range b.Backend.List(ctx) {
			if b.j.call(ctx, "List", v.Name) != nil || !yield(v, err) {
				return
			}
		}
	}
}

func (b *backend) Update(ctx context.Context, v volume.Volume) (volume.Volume, error) {
	if err := b.j.call(ctx, "Update", v.Name); err != nil {
		return volume.Volume{}, err
	}
	return b.Backend.Update(ctx, v)
}

func (b *backend) Discard(ctx context.Context, n volume.Name) error {
	if err := b.j.call(ctx, "Discard", n); err != nil {
		return err
	}
	return b.Backend.Discard(ctx, n)
}

func (b *backend) Purge(ctx context.Context, n volume.Name) error {
	if err := b.j.call(ctx, "Purge", n); err != nil {
		return err
	}
	return b.Backend.Purge(ctx, n)
}

func (b *backend) Archive(ctx context.Context, n volume.Name, take func(volume.RelPath) error) (volume.Volume, error) {
	if err := b.j.call(ctx, "Archive", n); err != nil {
		return volume.Volume{}, err
	}
	return b.Backend.Archive(ctx, n, take)
}

func (b *backend) Release(ctx context.Context, n volume.Name) error {
	if err := b.j.call(ctx, "Release", n); err != nil {
		return err
	}
	return b.Backend.Release(ctx, n)
}

func (b *backend) Measure(ctx context.Context, v volume.Volume) (int64, error) {
	if err := b.j.call(ctx, "Measure", v.Name); err != nil {
		return 0, err
	}
	return b.Backend.Measure(ctx, v)
}

func (b *backend) CheckDiscard(ctx context.Context, v volume.Volume) error {
	return b.check
}

// server is an NFS server that exports nothing.
type server struct {
	j    *journal
	mu   sync.Mutex
	have map[export.ID]export.Export
}

func (s *server) Sync(ctx context.Context, want []export.Export) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.have = make(map[export.ID]export.Export)
	for _, e := range want {
		s.have[e.ID] = e
	}
	return s.j.call(ctx, "Sync", len(want))
}

func (s *server) Publish(ctx context.Context, e export.Export) error {
	if err := s.j.call(ctx, "Publish", e.ID); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.have[e.ID] = e
	return nil
}

func (s *server) Withdraw(ctx context.Context, e export.Export) error {
	if err := s.j.call(ctx, "Withdraw", e.ID); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.have, e.ID)
	return nil
}

// exports gives the path of what is exported, by id.
func (s *server) exports() map[export.ID]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	paths := make(map[export.ID]string)
	for id, e := range s.have {
		paths[id] = e.Path
	}
	return paths
}

// fixture is a Manager with all that it works on.
type fixture struct {
	*volume.Manager
	journal *journal
	backend *backend
	server  *server
	ids     *export.IDs
	logged  *logBuffer
	idFile  string
	// noIDs: the server has no exports of its own, as one of a share.
	noIDs    bool
	archives volume.ArchivePolicy
}

type logBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *logBuffer) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(line)
}

func (b *logBuffer) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.String()
}

const (
	poolName = "local"
	cluster  = "cluster-1" // of volumetest.Spec
)

// newFixture makes a Manager of an empty pool. If ids (below 65535) are given,
// these are the only export ids that are free.
func newFixture(t *testing.T, ids ...export.ID) *fixture {
	t.Helper()
	j := &journal{}
	f := &fixture{
		journal: j, backend: &backend{Backend: &mem.Backend{}, j: j}, server: &server{j: j, have: make(map[export.ID]export.Export)},
		logged: &logBuffer{}, idFile: filepath.Join(t.TempDir(), "export-ids"),
	}
	f.open(t)
	for id := 1; id < 1<<16 && len(ids) > 0; id++ {
		if !slices.Contains(ids, export.ID(id)) {
			if err := f.ids.Reserve(export.ID(id)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := f.ids.Compact(); err != nil {
		t.Fatal(err)
	}
	return f
}

// open makes a Manager as a new process does, over what is there.
func (f *fixture) open(t *testing.T) {
	t.Helper()
	var err error
	if f.ids, err = export.OpenIDs(f.idFile); err != nil {
		t.Fatal(err)
	}
	if f.noIDs {
		f.ids = nil
	}
	f.Manager = volume.NewManager(f.pool())
}

func (f *fixture) pool() volume.Pool {
	return volume.Pool{
		Name: poolName, Backend: f.backend, Server: f.server, IDs: f.ids, ExportPath: "/exports",
		Log: slog.New(slog.NewTextHandler(f.logged, nil)), Archives: f.archives,
	}
}

// run purges in the background until the test ends, or stop is called and has
// waited for what is being worked on.
func (f *fixture) run(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { f.Run(ctx) })
	stop = func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	return stop
}

// spec is what a claim asks for; the Manager fills in the export.
func spec(t testing.TB, name string) volume.Spec {
	t.Helper()
	s := volumetest.Spec(t, name)
	s.Export = volume.ExportRef{Squash: export.SquashRoot}
	return s
}

func (f *fixture) create(t *testing.T, name string) volume.Volume {
	t.Helper()
	v, err := f.Create(t.Context(), spec(t, name))
	if err != nil {
		t.Fatalf("Create(%s): %v", name, err)
	}
	return v
}

func (f *fixture) delete(t *testing.T, name string) {
	t.Helper()
	if err := f.Delete(t.Context(), parseName(t, name), cluster); err != nil {
		t.Fatalf("Delete(%s): %v", name, err)
	}
}

// states gives the state of each record, by name, without a line in the journal.
func (f *fixture) states(t *testing.T) map[string]volume.State {
	t.Helper()
	states := make(map[string]volume.State)
	for v, err := range f.backend.Backend.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		states[v.Name.String()] = v.State
	}
	return states
}

// change changes a record behind the Manager's back.
func (f *fixture) change(t *testing.T, name string, how func(*volume.Volume)) {
	t.Helper()
	v, err := f.backend.Backend.Get(t.Context(), parseName(t, name))
	if err != nil {
		t.Fatal(err)
	}
	how(&v)
	if _, err := f.backend.Backend.Update(t.Context(), v); err != nil {
		t.Fatal(err)
	}
}

func parseName(t testing.TB, s string) volume.Name {
	t.Helper()
	n, err := volume.ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
