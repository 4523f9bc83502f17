//go:build system

package ganesha_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/export/exporttest"
	"github.com/berth-storage/berth/internal/export/ganesha"
	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/nfs4"
)

// server is a running one, with what tests need to disturb it.
type server struct {
	*ganesha.Server
	o    ganesha.Options
	stop func() error
}

func options(t *testing.T) ganesha.Options {
	t.Helper()
	port, err := harness.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	return ganesha.Options{
		Listen: "127.0.0.1", Port: port, GracePeriod: 2 * time.Second,
		StateDir: filepath.Join(folder, "state"), RunDir: filepath.Join(folder, "run"),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

func start(t *testing.T, o ganesha.Options, want ...export.Export) *server {
	t.Helper()
	s, err := ganesha.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stopped := false
	stop := func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-ended
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Sync(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	return &server{s, o, stop}
}

func (s *server) address() string { return fmt.Sprintf("127.0.0.1:%d", s.o.Port) }

// pid is Ganesha's process id.
func (s *server) pid(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.o.RunDir, "ganesha.pid"))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

func (s *server) kill(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(s.pid(t), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func TestContract(t *testing.T) {
	exporttest.Suite{Open: func(t *testing.T) exporttest.Target {
		s := start(t, options(t))
		return exporttest.Target{Server: s, Address: s.address(), Dir: t.TempDir(), Crash: s.kill}
	}}.Run(t)
}

// makeExports makes n directories and their exports.
func makeExports(t *testing.T, n int) []export.Export {
	t.Helper()
	folder := t.TempDir()
	var exports []export.Export
	for i := range n {
		dir := filepath.Join(folder, fmt.Sprintf("v%d", i))
		if err := os.Mkdir(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		exports = append(exports, export.Export{
			ID: export.ID(i + 1), FSID: export.NewFSID(dir), Dir: dir, Path: fmt.Sprintf("/pool/v%d", i), Squash: export.SquashNone,
		})
	}
	return exports
}

func TestKilledServerIsBackWithAThousandExports(t *testing.T) {
	exports := makeExports(t, 1000)
	s := start(t, options(t), exports...)
	before := s.pid(t)
	s.kill(t)
	killed := time.Now()
	// A client that connects as soon as anybody listens finds every export there.
	client, err := nfs4.Dial(t.Context(), s.address(), nfs4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	t.Logf("%d exports were served again after %s", len(exports), time.Since(killed))
	for _, e := range exports {
		if _, err := client.Stat(t.Context(), e.Path); err != nil {
			t.Fatalf("%s: %v", e.Path, err)
		}
	}
	exporttest.Eventually(t, "another server runs", func() bool { return s.Serving() && s.pid(t) != before })
}

func TestMissingDirectoryLeavesTheOthersServed(t *testing.T) {
	exports := makeExports(t, 3)
	if err := os.Remove(exports[1].Dir); err != nil {
		t.Fatal(err)
	}
	o := options(t)
	s, err := ganesha.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	if err := s.Sync(t.Context(), exports); err == nil || !strings.Contains(err.Error(), exports[1].Dir) {
		t.Errorf("Sync: got error %v, want one that names %s", err, exports[1].Dir)
	}
	client, err := nfs4.Dial(t.Context(), fmt.Sprintf("127.0.0.1:%d", o.Port), nfs4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, e := range []export.Export{exports[0], exports[2]} {
		if _, err := client.Stat(t.Context(), e.Path); err != nil {
			t.Errorf("%s: %v", e.Path, err)
		}
	}
}

func TestWithoutTheBusBothAreStartedAgain(t *testing.T) {
	exports := makeExports(t, 1)
	s := start(t, options(t), exports...)
	before := s.pid(t)
	bus := busOf(t, s.o.RunDir)
	if err := syscall.Kill(bus, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	exporttest.Eventually(t, "another server runs", func() bool {
		return s.Serving() && s.pid(t) != before && busOf(t, s.o.RunDir) != bus
	})
	if err := s.Withdraw(t.Context(), exports[0]); err != nil {
		t.Errorf("over the new bus: %v", err)
	}
}

// busOf finds the bus of a run folder among the processes.
func busOf(t *testing.T, runDir string) int {
	t.Helper()
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range commands {
		text, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(text), "dbus-daemon\x00--config-file="+runDir) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(file, "/proc/%d/cmdline", &pid); err != nil {
			t.Fatal(err)
		}
		return pid
	}
	return 0
}

func TestHungServerIsStartedAgain(t *testing.T) {
	s := start(t, options(t), makeExports(t, 1)...)
	before := s.pid(t)
	if err := syscall.Kill(before, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	exporttest.Eventually(t, "another server runs", func() bool { return s.Serving() && s.pid(t) != before })
}

func TestTakenPort(t *testing.T) {
	o := options(t)
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", o.Port))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := ganesha.New(o); err == nil || !strings.Contains(err.Error(), "taken by another process") {
		t.Errorf("got error %v", err)
	}
}

func TestStopLeavesNothingRunning(t *testing.T) {
	s := start(t, options(t))
	pid, bus := s.pid(t), busOf(t, s.o.RunDir)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	for what, pid := range map[string]int{"ganesha.nfsd": pid, "dbus-daemon": bus} {
		if err := syscall.Kill(pid, 0); err == nil {
			t.Errorf("%s (process %d) still runs", what, pid)
		}
	}
}
