//go:build system

package quota

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/export/ganesha"
	"github.com/berth-storage/berth/internal/export/kernel"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/test/vm"
)

// site is a pool that an NFS server exports, below Kubernetes.
type site struct {
	pool    *pool
	manager *volume.Manager
	mount   string // options of mount(8)
	purged  chan error
}

// server is an exporter that runs.
type server interface {
	export.Server
	Run(ctx context.Context) error
}

// exporter is one of Berth's two.
type exporter struct {
	name string
	// new makes a server for the pool at root, and gives options to mount what it exports.
	new          func(t *testing.T, root string, log *slog.Logger) (s server, mount string)
	exportPath   func(root string) string
	mountVolumes bool
}

var byGanesha = exporter{
	name: "ganesha", mountVolumes: true, exportPath: func(string) string { return "/pool" },
	new: func(t *testing.T, root string, log *slog.Logger) (server, string) {
		port := vm.FreePort(t)
		s, err := ganesha.New(ganesha.Options{
			Listen: "127.0.0.1", Port: port, Log: log,
			StateDir: filepath.Join(root, dir.Private, "ganesha"), RunDir: filepath.Join(t.TempDir(), "run"),
		})
		if err != nil {
			t.Fatal(err)
		}
		return s, fmt.Sprintf("port=%d,vers=", port)
	},
}

var byKernel = exporter{
	name: "kernel", exportPath: func(root string) string { return root },
	new: func(t *testing.T, _ string, log *slog.Logger) (server, string) {
		if err := vm.StartNFSD(t.Context(), vm.Here{}); err != nil {
			t.Fatal(err)
		}
		s, err := kernel.New(t.Context(), kernel.Options{Instance: fmt.Sprint("quota", sites.Load()), Address: "127.0.0.1:2049", Log: log})
		if err != nil {
			t.Fatal(err)
		}
		return s, "vers="
	},
}

// sites counts them: the kernel's server has the exports of all tests, so that no two
// may have the same id.
var sites atomic.Int32

// serve opens the pool at root and exports it.
func serve(t *testing.T, root string, e exporter) *site {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	sites.Add(1)
	s := &site{pool: open(t, root, dir.Options{Quota: dir.QuotaRequired, MountVolumes: e.mountVolumes}), purged: make(chan error, 100)}
	var server server
	server, s.mount = e.new(t, root, log)
	ids, err := export.OpenIDs(filepath.Join(t.TempDir(), "ids"))
	if err != nil {
		t.Fatal(err)
	}
	s.manager = volume.NewManager(volume.Pool{
		Name: fmt.Sprint("pool", sites.Load()), Backend: s.pool, Server: server, IDs: ids, ExportPath: e.exportPath(root), Log: log,
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
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := server.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	running.Go(func() { s.manager.Run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
		if err := s.pool.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := server.Sync(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) create(t *testing.T, name string, squash export.Squash) volume.Volume {
	t.Helper()
	request := spec(t, name, 16<<20)
	request.Owner.Mode, request.Export.Squash = 0o777, squash
	v, err := s.manager.Create(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// delete deletes a volume and waits until its bytes are gone, which a server that has
// a file open somewhat longer puts off.
func (s *site) delete(t *testing.T, v volume.Volume) {
	t.Helper()
	if err := s.manager.Delete(t.Context(), v.Name, v.Cluster); err != nil {
		t.Fatal(err)
	}
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
	at = folder(t)
	run(t, "mount", "-t", "nfs", "-o", s.mount+version, "127.0.0.1:"+v.Export.Path, at)
	unmountNow = sync.OnceFunc(func() { undo(t, "umount", at) })
	t.Cleanup(unmountNow)
	return at, unmountNow
}

// A process of its own writes, so that it can be another user's: this test binary.
const (
	writeVariable = "BERTH_TEST_WRITE" // its task: a path and a number of MiB
	tooMuch       = 7                  // its exit status when it is told that there is no more room
)

// writer is that process; it gives its exit status.
func writer(task string) int {
	var path string
	var mib int
	_, err := fmt.Sscan(task, &path, &mib)
	if err == nil {
		err = write(path, mib)
	}
	switch {
	case errors.Is(err, unix.EDQUOT), errors.Is(err, unix.ENOSPC):
		return tooMuch
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// writeAs writes so many MiB as a user, and says whether there was room for all.
func writeAs(t *testing.T, uid uint32, path string, mib int) bool {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", writeVariable, path, mib))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == tooMuch {
		return false
	}
	if err != nil {
		t.Fatalf("writing to %s as user %d: %v\n%s", path, uid, err, out)
	}
	return true
}

// wantStopped says whether users of the volume at a mount are stopped at its size,
// which is 16 MiB, and go on when it is 32.
func wantStopped(t *testing.T, at string, grow func(), users ...uint32) {
	t.Helper()
	for _, uid := range users {
		file := filepath.Join(at, fmt.Sprint("user-", uid))
		if !writeAs(t, uid, file, 12) {
			t.Errorf("user %d cannot write 12 of 16 MiB", uid)
		}
		if writeAs(t, uid, file+"-more", 12) {
			t.Errorf("user %d has written 24 MiB to a volume of 16", uid)
		}
		for _, name := range []string{file, file + "-more"} {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
		run(t, "sync")
	}
	grow()
	if !writeAs(t, users[0], filepath.Join(at, "grown"), 24) {
		t.Error("no room for 24 MiB in a volume that has grown to 32")
	}
}

// grow doubles a volume of 16 MiB.
func (p *pool) grow(t *testing.T, n volume.Name) {
	t.Helper()
	v, err := p.Get(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	v.Size = 32 << 20
	if _, err := p.Update(t.Context(), v); err != nil {
		t.Fatal(err)
	}
}

// Root too is stopped, but by the kernel's server on ext4: NFS-Ganesha is without the
// capability that lets it write beyond the limits there.
func TestWritersAreStoppedAtTheSize(t *testing.T) {
	for _, c := range []struct {
		by       exporter
		fs       vm.FileSystem
		versions []string // what a server makes of a limit is the same on all file systems
		users    []uint32
	}{
		{byGanesha, vm.XFS, []string{"4.0", "4.1", "4.2"}, []uint32{0, 1000}},
		{byGanesha, vm.Ext4, []string{"4.1"}, []uint32{0, 1000}},
		{byGanesha, vm.Btrfs, []string{"4.1"}, []uint32{0, 1000}},
		{byKernel, vm.XFS, []string{"3", "4.0", "4.1", "4.2"}, []uint32{0, 1000}},
		{byKernel, vm.Ext4, []string{"4.2"}, []uint32{1000}},
		{byKernel, vm.Btrfs, []string{"4.2"}, []uint32{0, 1000}},
	} {
		t.Run(c.by.name+" "+c.fs.Kind, func(t *testing.T) {
			s := serve(t, mount(t, c.fs), c.by)
			for i, version := range c.versions {
				v := s.create(t, fmt.Sprint("pvc-", i), export.SquashNone)
				at, unmountNow := s.mountNFS(t, v, version)
				wantStopped(t, at, func() { s.pool.grow(t, v.Name) }, c.users...)
				unmountNow()
				s.delete(t, v)
				if got := strings.Count(run(t, "cat", "/proc/self/mounts"), v.Dir); got != 0 {
					t.Errorf("%d mounts of the deleted volume are left", got)
				}
			}
		})
	}
}

func TestOnlyTheKernelsServerLetsRootWriteBeyondOnExt4(t *testing.T) {
	s := serve(t, mount(t, vm.Ext4), byKernel)
	v := s.create(t, "pvc-1", export.SquashNone)
	at, _ := s.mountNFS(t, v, "4.2")
	if !writeAs(t, 0, filepath.Join(at, "root"), 24) {
		t.Error("root is stopped: docs/quotas.md says otherwise")
	}
	squashed := s.create(t, "pvc-2", export.SquashRoot)
	at, _ = s.mountNFS(t, squashed, "4.2")
	wantStopped(t, at, func() { s.pool.grow(t, squashed.Name) }, 0)
}

// A subvolume is served by NFS-Ganesha because it is mounted by itself: also those of
// before a restart, of which one was killed and the mounts left.
func TestSubvolumesAreServedAfterARestart(t *testing.T) {
	root := mount(t, vm.Btrfs)
	var v volume.Volume
	t.Run("before", func(t *testing.T) { v = serve(t, root, byGanesha).create(t, "pvc-1", export.SquashNone) })
	for _, before := range []string{"stopped", "killed"} {
		t.Run("after it was "+before, func(t *testing.T) {
			if before == "killed" {
				run(t, "mount", "--bind", v.Dir, v.Dir)
			}
			s := serve(t, root, byGanesha)
			at, unmountNow := s.mountNFS(t, v, "4.1")
			if !writeAs(t, 1000, filepath.Join(at, before), 2) {
				t.Error("there is no room")
			}
			unmountNow()
			if before == "killed" {
				s.delete(t, v)
			}
		})
	}
	if mounts := run(t, "cat", "/proc/self/mounts"); strings.Count(mounts, root) != 1 {
		t.Errorf("mounts are left:\n%s", mounts)
	}
}

// What df and kubelet's metrics show on a client.
func TestSizeThatClientsSee(t *testing.T) {
	size := func(t *testing.T, at string) int64 {
		t.Helper()
		var seen unix.Statfs_t
		if err := unix.Statfs(at, &seen); err != nil {
			t.Fatal(err)
		}
		return int64(seen.Blocks) * seen.Bsize
	}
	for _, by := range []exporter{byGanesha, byKernel} {
		for _, fs := range allFileSystems {
			t.Run(by.name+" "+fs.Kind, func(t *testing.T) {
				s := serve(t, mount(t, fs), by)
				v := s.create(t, "pvc-1", export.SquashNone)
				at, _ := s.mountNFS(t, v, "4.1")
				if by.name == byGanesha.name || fs.Kind == "btrfs" {
					// That of ext4 varies a little with what it keeps for itself.
					if got, whole := size(t, at), size(t, s.pool.root); got < whole/2 {
						t.Errorf("a client sees %d bytes: docs/quotas.md says the whole file system, %d", got, whole)
					}
					return
				}
				if got := size(t, at); got != v.Size {
					t.Errorf("a client sees %d bytes, want %d", got, v.Size)
				}
				s.pool.grow(t, v.Name)
				if got := size(t, at); got != 2*v.Size {
					t.Errorf("of a volume that has grown to %d bytes a client sees %d", 2*v.Size, got)
				}
			})
		}
	}
}
