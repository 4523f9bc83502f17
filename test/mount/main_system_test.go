//go:build system

package mount

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/export/exporttest"
	"github.com/berth-storage/berth/internal/export/ganesha"
	"github.com/berth-storage/berth/internal/export/kernel"
	"github.com/berth-storage/berth/test/vm"
)

func TestMain(m *testing.M) { vm.Main(m) }

// server is an NFS server under test, on port 2049 of all addresses.
type server struct {
	export.Server
	dir     string    // for directories to export
	last    export.ID // that was given out
	restart func(t *testing.T)
}

// What Linux asks of an NFS server, each kind of which is started once.
func TestKernel(t *testing.T)  { suite(t, startKernel(t)) }
func TestGanesha(t *testing.T) { suite(t, startGanesha(t)) }

func suite(t *testing.T, s *server) {
	a, b := newClient(t), newClient(t)
	for _, c := range []struct {
		name string
		test func(t *testing.T, s *server, a, b client)
	}{
		{"Versions", versionsOfNFS},
		{"Names", names},
		{"RootSquash", rootSquash},
		{"OnlyItsClients", onlyItsClients},
		{"Withdraw", withdraw},
		{"Restart", restart},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, s, a, b) })
	}
}

// running is what both kinds have.
type running interface {
	export.Server
	Run(context.Context) error
	Serving() bool
}

// run runs s to the end of the test.
func run(t *testing.T, s running) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	if err := s.Sync(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	exporttest.Eventually(t, "the server is up", s.Serving)
}

func startKernel(t *testing.T) *server {
	t.Helper()
	if err := vm.StartNFSD(t.Context(), vm.Here{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopKernel(t) })
	s, err := kernel.New(t.Context(), kernel.Options{Instance: "mount", Address: "127.0.0.1:2049", Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	run(t, s)
	return &server{Server: s, dir: vm.NewFolder(t), restart: func(t *testing.T) {
		// As the service of Debian does. Ten seconds are the least that the kernel takes.
		vm.Sh(t, `rpc.nfsd 0; exportfs -au; exportfs -f; exportfs -r; rpc.nfsd --grace-time 10 --lease-time 10 4`)
	}}
}

// stopKernel makes room for the next server.
func stopKernel(t *testing.T) {
	script := `rpc.nfsd 0; kill $(pidof rpc.mountd); rm -f /etc/exports.d/*; exportfs -ra`
	if out, err := (vm.Here{}).Run(context.Background(), "sh", "-ec", script); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func startGanesha(t *testing.T) *server {
	t.Helper()
	folder := vm.NewFolder(t)
	o := ganesha.Options{
		Port: 2049, NFSv3: true, GracePeriod: 10 * time.Second, StateDir: filepath.Join(folder, "state"), RunDir: filepath.Join(folder, "run"),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	s, err := ganesha.New(o)
	if err != nil {
		t.Fatal(err)
	}
	run(t, s)
	return &server{Server: s, dir: vm.NewFolder(t), restart: func(t *testing.T) {
		before := pid(t, o.RunDir)
		vm.Sh(t, `kill -9 "$1"`, before)
		exporttest.Eventually(t, "another server runs", func() bool { return s.Serving() && pid(t, o.RunDir) != before })
	}}
}

// pid is Ganesha's process.
func pid(t *testing.T, runDir string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(runDir, "ganesha.pid"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// publish makes a directory of mode 0777 and exports it under its own path.
func (s *server) publish(t *testing.T, edits ...func(*export.Export)) export.Export {
	t.Helper()
	s.last++
	dir := filepath.Join(s.dir, fmt.Sprintf("v%d", s.last))
	e := export.Export{ID: s.last, FSID: export.NewFSID(dir), Dir: dir, Path: dir, Squash: export.SquashNone}
	for _, edit := range edits {
		edit(&e)
	}
	if err := os.MkdirAll(e.Dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(e.Dir, 0o777); err != nil { // past the umask
		t.Fatal(err)
	}
	if err := s.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	return e
}
