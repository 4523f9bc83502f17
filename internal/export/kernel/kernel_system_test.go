//go:build system

package kernel_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/export/exporttest"
	"github.com/berth-storage/berth/internal/export/kernel"
	"github.com/berth-storage/berth/test/vm"
)

// These tests run in a guest, whose kernel has an NFS server.
func TestMain(m *testing.M) { vm.Main(m) }

const (
	address  = "127.0.0.1:2049"
	table    = "/var/lib/nfs/etab"
	folder   = "/etc/exports.d"
	instance = "test"
	ourFile  = folder + "/berth-" + instance + ".exports"
)

// host starts the host's NFS server, which exports a folder of somebody else's.
func host(t *testing.T) {
	t.Helper()
	vm.Sh(t, `mkdir -p /srv/foreign; echo '/srv/foreign *(rw,insecure,no_subtree_check,no_root_squash,fsid=65535)' >/etc/exports; exportfs -ra`)
	if err := vm.StartNFSD(t.Context(), vm.Here{}); err != nil {
		t.Fatal(err)
	}
}

// restartHost does what the service nfs-server of Debian does when it is restarted.
func restartHost(t *testing.T) {
	t.Helper()
	vm.Sh(t, `rpc.nfsd 0; exportfs -au; exportfs -f; exportfs -r`)
	if err := vm.StartNFSD(t.Context(), vm.Here{}); err != nil {
		t.Fatal(err)
	}
}

// server is a running one.
type server struct{ *kernel.Server }

// start starts a server that exports want, and ends it with the test.
func start(t *testing.T, want ...export.Export) *server {
	t.Helper()
	s, stop := run(t, want...)
	t.Cleanup(stop)
	return s
}

// run is start for who stops it himself.
func run(t *testing.T, want ...export.Export) (*server, func()) {
	t.Helper()
	return startAs(t, instance, want...)
}

// startAs starts the server of an instance.
func startAs(t *testing.T, instance string, want ...export.Export) (*server, func()) {
	t.Helper()
	s, err := kernel.New(t.Context(), kernel.Options{Instance: instance, Address: address, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	if err := s.Sync(t.Context(), want); err != nil {
		t.Error(err)
	}
	return &server{s}, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// leaveNothing takes what the test has exported away at its end.
func leaveNothing(t *testing.T) {
	t.Cleanup(func() {
		if err := os.Remove(ourFile); err != nil {
			t.Error(err)
		}
		if out, err := (vm.Here{}).Run(context.Background(), "exportfs", "-ra"); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
}

func TestContract(t *testing.T) {
	host(t)
	exporttest.Suite{Open: func(t *testing.T) exporttest.Target {
		leaveNothing(t)
		dir, err := filepath.EvalSymlinks(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return exporttest.Target{Server: start(t), Address: address, Dir: dir, SamePath: true, Crash: restartHost}
	}}.Run(t)
}
