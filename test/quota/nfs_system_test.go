//go:build system

package quota

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/export/ganesha"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/test/vm"
)

// site is a pool that an NFS server exports, below Kubernetes.
type site struct {
	pool    *pool
	manager *volume.Manager
	port    int
	purged  chan error
}

// serve opens a pool on a new file system and exports it by NFS-Ganesha.
func serve(t *testing.T, fs vm.FileSystem) *site {
	t.Helper()
	return serveRoot(t, mount(t, fs))
}

func serveRoot(t *testing.T, root string) *site {
	t.Helper()
	s := &site{pool: open(t, root, dir.Options{Quota: dir.QuotaRequired, MountVolumes: true}), port: freePort(t), purged: make(chan error, 100)}
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	server, err := ganesha.New(ganesha.Options{
		Listen: "127.0.0.1", Port: s.port, Log: log,
		StateDir: filepath.Join(root, dir.Private, "ganesha"), RunDir: filepath.Join(t.TempDir(), "run"),
	})
	if err != nil {
		t.Fatal(err)
	}
	ids, err := export.OpenIDs(filepath.Join(t.TempDir(), "ids"))
	if err != nil {
		t.Fatal(err)
	}
	s.manager = volume.NewManager(volume.Pool{
		Name: "pool", Backend: s.pool, Server: server, IDs: ids, ExportPath: "/pool", Log: log,
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

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (s *site) create(t *testing.T, name string, bytes int64) volume.Volume {
	t.Helper()
	request := spec(t, name, bytes)
	request.Owner.Mode = 0o777
	v, err := s.manager.Create(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// delete deletes a volume and waits until its bytes are gone.
func (s *site) delete(t *testing.T, v volume.Volume) {
	t.Helper()
	if err := s.manager.Delete(t.Context(), v.Name, v.Cluster); err != nil {
		t.Fatal(err)
	}
	if err := <-s.purged; err != nil {
		t.Fatal(err)
	}
}

// mountNFS mounts what a server on this machine exports, with the kernel's client.
func mountNFS(t *testing.T, what, options string) (at string, unmountNow func()) {
	t.Helper()
	at = folder(t)
	run(t, "mount", "-t", "nfs", "-o", options, "127.0.0.1:"+what, at)
	unmountNow = sync.OnceFunc(func() { undo(t, "umount", "--force", at) })
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

// Root too, on every file system: NFS-Ganesha is without the capability that lets it
// write beyond the limits of ext4.
func TestGaneshaStopsWritersAtTheSize(t *testing.T) {
	for _, fs := range allFileSystems {
		t.Run(fs.Kind, func(t *testing.T) {
			s := serve(t, fs)
			v := s.create(t, "pvc-1", 16<<20)
			at, unmountNow := mountNFS(t, v.Export.Path, fmt.Sprintf("vers=4.1,port=%d", s.port))
			wantStopped(t, at, func() { s.pool.grow(t, v.Name) }, 0, 1000)
			unmountNow()
			s.delete(t, v)
			if got := strings.Count(run(t, "cat", "/proc/self/mounts"), v.Dir); got != 0 {
				t.Errorf("%d mounts of the deleted volume are left", got)
			}
		})
	}
}

// A subvolume is served by NFS-Ganesha because it is mounted by itself: also those of
// before a restart, of which one was killed and the mounts left.
func TestSubvolumesAreServedAfterARestart(t *testing.T) {
	root := mount(t, vm.Btrfs)
	var v volume.Volume
	t.Run("before", func(t *testing.T) { v = serveRoot(t, root).create(t, "pvc-1", 16<<20) })
	for _, before := range []string{"stopped", "killed"} {
		t.Run("after it was "+before, func(t *testing.T) {
			if before == "killed" {
				run(t, "mount", "--bind", v.Dir, v.Dir)
			}
			s := serveRoot(t, root)
			at, unmountNow := mountNFS(t, v.Export.Path, fmt.Sprintf("vers=4.1,port=%d", s.port))
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

// startNFSD starts the kernel's server, which runs until the guest ends.
var startNFSD = sync.OnceValue(func() error { return vm.StartNFSD(context.Background(), vm.Here{}) })

// exportByKernel exports a volume by the kernel's server.
func exportByKernel(t *testing.T, v volume.Volume, options string) {
	t.Helper()
	if err := startNFSD(); err != nil {
		t.Fatal(err)
	}
	run(t, "exportfs", "-o", fmt.Sprintf("rw,insecure,no_subtree_check,fsid=%s,%s", v.Export.FSID, options), "127.0.0.1:"+v.Dir)
	t.Cleanup(func() { undo(t, "exportfs", "-u", "127.0.0.1:"+v.Dir) })
}

func TestKernelServerStopsWritersAtTheSize(t *testing.T) {
	versions := []string{"3", "4.0", "4.1", "4.2"}
	for i, fs := range allFileSystems {
		if i == 1 {
			versions = versions[3:] // what the server makes of a limit is the same on all
		}
		for _, version := range versions {
			t.Run(fs.Kind+" NFS "+version, func(t *testing.T) {
				p := open(t, mount(t, fs), required)
				request := spec(t, "pvc-1", 16<<20)
				request.Owner.Mode = 0o777
				v := create(t, p, request)
				exportByKernel(t, v, "no_root_squash")
				at, unmountNow := mountNFS(t, v.Dir, "vers="+version)
				users := []uint32{1000, 0}
				if fs.Kind == "ext4" {
					users = users[:1]
					if !writeAs(t, 0, filepath.Join(at, "root"), 24) {
						t.Error("root is stopped: docs/quotas.md says otherwise")
					}
					if err := os.Remove(filepath.Join(at, "root")); err != nil {
						t.Fatal(err)
					}
				}
				wantStopped(t, at, func() { p.grow(t, v.Name) }, users...)
				unmountNow()
			})
		}
	}
}

// Squashed root is an ordinary user.
func TestKernelServerStopsSquashedRootOnExt4(t *testing.T) {
	p := open(t, mount(t, vm.Ext4), required)
	request := spec(t, "pvc-1", 16<<20)
	request.Owner.Mode = 0o777
	v := create(t, p, request)
	exportByKernel(t, v, "root_squash")
	at, _ := mountNFS(t, v.Dir, "vers=4.2")
	wantStopped(t, at, func() { p.grow(t, v.Name) }, 0)
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
	for _, fs := range allFileSystems {
		t.Run(fs.Kind, func(t *testing.T) {
			s := serve(t, fs)
			v := s.create(t, "pvc-1", 16<<20)
			whole := size(t, s.pool.root)
			byGanesha, _ := mountNFS(t, v.Export.Path, fmt.Sprintf("vers=4.1,port=%d", s.port))
			if got := size(t, byGanesha); got < whole/2 {
				t.Errorf("Ganesha says %d bytes: docs/quotas.md says the whole file system, %d", got, whole)
			}
			exportByKernel(t, v, "no_root_squash")
			byKernel, _ := mountNFS(t, v.Dir, "vers=4.2")
			want := v.Size
			if fs.Kind == "btrfs" {
				want = whole
			}
			if got := size(t, byKernel); got != want {
				t.Errorf("the kernel's server says %d bytes, want %d", got, want)
			}
			if fs.Kind == "btrfs" {
				return
			}
			s.pool.grow(t, v.Name)
			if got := size(t, byKernel); got != 2*v.Size {
				t.Errorf("of a volume that has grown to %d bytes the kernel's server says %d", 2*v.Size, got)
			}
		})
	}
}
