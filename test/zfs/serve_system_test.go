//go:build system

package zfs

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/backend/zfs"
	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/export/ganesha"
	"github.com/berth-storage/berth/internal/export/kernel"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/test/vm"
)

// site is a pool of datasets that an NFS server exports, below Kubernetes.
type site struct {
	parent  string
	backend *zfs.Backend
	manager *volume.Manager
	mount   string // options of mount(8), before the version of NFS
	purged  chan error
	stop    func()
}

// exporter is a way in which a pool is exported.
type exporter struct {
	name, share string
	exportPath  func(*zfs.Backend) string
	// new makes the server, gives what is to run as long as it serves, and options to
	// mount what it exports.
	new func(*testing.T, *zfs.Backend) (s export.Server, run func(context.Context) error, mount string)
}

func ownPath(b *zfs.Backend) string { return b.Root() }

var byZFS = exporter{
	name: "zfsshare", share: "rw=@127.0.0.0/8,no_root_squash", exportPath: ownPath,
	new: func(t *testing.T, b *zfs.Backend) (export.Server, func(context.Context) error, string) {
		startNFSD(t)
		return b.Sharer(), func(context.Context) error { return nil }, "vers="
	},
}

var byKernel = exporter{
	name: "kernel", exportPath: ownPath,
	new: func(t *testing.T, _ *zfs.Backend) (export.Server, func(context.Context) error, string) {
		startNFSD(t)
		s, err := kernel.New(t.Context(), kernel.Options{Instance: fmt.Sprint("zfs", sites.Load()), Address: "127.0.0.1:2049", Log: logger(t)})
		if err != nil {
			t.Fatal(err)
		}
		return s, s.Run, "vers="
	},
}

var byGanesha = exporter{
	name: "ganesha", exportPath: func(*zfs.Backend) string { return "/pool" },
	new: func(t *testing.T, _ *zfs.Backend) (export.Server, func(context.Context) error, string) {
		port, folder := vm.FreePort(t), vm.NewFolder(t)
		s, err := ganesha.New(ganesha.Options{
			Listen: "127.0.0.1", Port: port, Log: logger(t),
			StateDir: filepath.Join(folder, "state"), RunDir: filepath.Join(folder, "run"),
		})
		if err != nil {
			t.Fatal(err)
		}
		return s, s.Run, fmt.Sprintf("port=%d,vers=", port)
	},
}

// sites counts them: the kernel's server has the exports of all tests.
var sites atomic.Int32

func startNFSD(t *testing.T) {
	t.Helper()
	if err := vm.StartNFSD(t.Context(), vm.Here{}); err != nil {
		t.Fatal(err)
	}
}

// serve opens the pool at a parent and exports it, until the test ends or stop is called.
func serve(t *testing.T, parent string, e exporter) *site {
	t.Helper()
	sites.Add(1)
	b := open(t, zfs.Options{Dataset: parent, Share: e.share, Release: func(ctx context.Context, dir string, device uint64) error {
		return kernel.Release(ctx, "127.0.0.1:2049", dir, device)
	}})
	s := &site{parent: parent, backend: b, purged: make(chan error, 1000)}
	server, runServer, mount := e.new(t, b)
	s.mount = mount
	var ids *export.IDs
	if e.share == "" {
		var err error
		if ids, err = export.OpenIDs(filepath.Join(t.TempDir(), "ids")); err != nil {
			t.Fatal(err)
		}
	}
	s.manager = volume.NewManager(volume.Pool{
		Name: fmt.Sprint("pool", sites.Load()), Backend: b, Server: server, IDs: ids, ExportPath: e.exportPath(b), Log: logger(t),
		Observe: func(operation string, _ time.Duration, err error) {
			if operation == "purge" {
				s.purged <- err
			}
		},
	})
	want, err := s.manager.Recover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := runServer(ctx); err != nil {
			t.Error(err)
		}
	})
	running.Go(func() { s.manager.Run(ctx) })
	s.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		b.Close()
	})
	t.Cleanup(s.stop)
	if err := server.Sync(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) create(t *testing.T, name string, edit ...func(*volume.Spec)) volume.Volume {
	t.Helper()
	request := spec(t, name, 16<<20)
	request.Export.Squash = export.SquashNone
	for _, e := range edit {
		e(&request)
	}
	return untilDone(t, func() (volume.Volume, error) { return s.manager.Create(t.Context(), request) })
}

// untilDone asks as often as the answer is that it goes on in the background.
func untilDone(t *testing.T, ask func() (volume.Volume, error)) volume.Volume {
	t.Helper()
	v, err := ask()
	for errors.Is(err, volume.ErrPending) {
		v, err = ask()
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// delete deletes a volume.
func (s *site) delete(t *testing.T, v volume.Volume) {
	t.Helper()
	if err := s.manager.Delete(t.Context(), v.Name, v.Cluster); err != nil {
		t.Fatal(err)
	}
}

// waitPurged waits until a volume's bytes are gone, which a server that has a file open
// somewhat longer puts off.
func (s *site) waitPurged(t *testing.T) {
	t.Helper()
	err := <-s.purged
	for errors.Is(err, volume.ErrBusy) {
		err = <-s.purged
	}
	if err != nil {
		t.Fatal(err)
	}
}

// mountNFS mounts a volume with the kernel's client.
func (s *site) mountNFS(t *testing.T, v volume.Volume, version string) (at string, unmountNow func()) {
	t.Helper()
	at = vm.NewFolder(t)
	vm.Sh(t, `mount -t nfs -o "$1" "127.0.0.1:$2" "$3"`, s.mount+version, v.Export.Path, at)
	unmountNow = sync.OnceFunc(func() {
		if _, err := (vm.Here{}).Run(context.Background(), "umount", at); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(unmountNow)
	return at, unmountNow
}
