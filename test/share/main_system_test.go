//go:build system

package share

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/export/exporttest"
	"github.com/berth-storage/berth/internal/export/ganesha"
	"github.com/berth-storage/berth/test/vm"
)

func TestMain(m *testing.M) {
	if task := os.Getenv(taskVariable); task != "" {
		os.Exit(process(task))
	}
	vm.Main(m)
}

// undo runs a shell script at the end of a test.
func undo(t *testing.T, script string, args ...string) {
	t.Helper()
	t.Cleanup(func() {
		if out, err := (vm.Here{}).Run(context.Background(), append([]string{"sh", "-ec", script, "sh"}, args...)...); err != nil {
			t.Errorf("%s: %v: %s", script, err, out)
		}
	})
}

func logger(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

// server is an NFS server on port 2049 that exports a folder.
type server struct {
	address string
	folder  string // on its disk
	path    string // what clients mount of that
	shares  int
}

// newShare makes a new share on it, below the folder that it exports.
func (s *server) newShare(t *testing.T) (path string) {
	t.Helper()
	s.shares++
	name := fmt.Sprint("share-", s.shares)
	folder := filepath.Join(s.folder, name)
	// As root squash needs it, everybody may write.
	if err := errors.Join(os.Mkdir(folder, 0o777), os.Chmod(folder, 0o777)); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(s.path, name)
}

// startGanesha exports a folder by the NFS-Ganesha that Berth runs for pools of its own,
// as if it were that of another Berth.
func startGanesha(t *testing.T) *server {
	t.Helper()
	// The kernel's has the port else. Its mountd is started again with it: by then this
	// server has told rpcbind that there is none.
	vm.Sh(t, `modprobe nfs
! mountpoint -q /proc/fs/nfsd || rpc.nfsd 0
if p=$(pidof rpc.mountd); then kill $p; while [ -d /proc/$p ]; do sleep 0.1; done; fi`)
	folder := vm.NewFolder(t)
	g, err := ganesha.New(ganesha.Options{
		Port: 2049, NFSv3: true, StateDir: filepath.Join(folder, "state"), RunDir: filepath.Join(folder, "run"), Log: logger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	s := &server{address: "127.0.0.1", folder: filepath.Join(folder, "nas"), path: "/nas"}
	vm.Sh(t, `chmod 755 "$1"; mkdir -m 777 "$2"`, folder, s.folder)
	e := export.Export{ID: 1, FSID: export.NewFSID("nas"), Dir: s.folder, Path: s.path, Squash: export.SquashNone}
	if err := g.Sync(t.Context(), []export.Export{e}); err != nil {
		t.Fatal(err)
	}
	exporttest.Eventually(t, "the server is up", g.Serving)
	return s
}

// startKernel exports a folder by the kernel's server, with options.
func startKernel(t *testing.T, options string) *server {
	t.Helper()
	return startKernelAt(t, vm.NewFolder(t), options)
}

// startKernelAt exports that folder.
func startKernelAt(t *testing.T, folder, options string) *server {
	t.Helper()
	if err := vm.StartNFSD(t.Context(), vm.Here{}); err != nil {
		t.Fatal(err)
	}
	vm.Sh(t, `modprobe nfs; chmod 777 "$1"; exportfs -o "rw,insecure,no_subtree_check,$2" "*:$1"`, folder, options)
	undo(t, `exportfs -u "*:$1"; exportfs -f`, folder)
	return &server{address: "127.0.0.1", folder: folder, path: folder}
}
