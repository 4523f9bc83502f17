//go:build system

package share

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/backend/subdir"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
	"github.com/berth-storage/berth/test/vm"
)

// The contract of backends, on shares that are mounted.
func TestContract(t *testing.T) {
	for _, c := range []struct {
		name, exported string
		mount          []string
	}{
		{"3", "no_root_squash", []string{"vers=3"}},
		{"3 with local locks", "no_root_squash", []string{"vers=3", "nolock"}},
		{"4.0", "no_root_squash", []string{"vers=4.0"}},
		{"4.2", "no_root_squash", []string{"vers=4.2"}},
		{"4.2 with root squash", "root_squash", []string{"vers=4.2"}},
	} {
		t.Run(c.name, func(t *testing.T) { contract(t, startKernel(t, c.exported), c.mount) })
	}
}

// Likewise, with the server of another Berth. The locks of NFSv3 could not be had of it here:
// a host has one lock manager, and the client's is the kernel's.
func TestContractWithGanesha(t *testing.T) {
	s := startGanesha(t)
	for _, mount := range []string{"vers=3,nolock", "vers=4.2"} {
		t.Run(mount, func(t *testing.T) { contract(t, s, strings.Split(mount, ",")) })
	}
}

// open is a share that is open.
type open struct {
	options subdir.Options
	stop    func()
}

func contract(t *testing.T, s *server, mount []string) {
	// Mounted once, as Kubernetes does it for a pod: a mount of its own for each part of the
	// contract takes longer than that.
	at := vm.NewFolder(t)
	vm.Sh(t, `mount -t nfs -o "$1" "$2:$3" "$4"`, strings.Join(mount, ","), s.address, s.path, at)
	undo(t, `umount "$1"`, at)
	shares := map[volume.Backend]open{}
	start := func(t *testing.T, o subdir.Options) volume.Backend {
		t.Helper()
		o.Log = logger(t)
		o.Changed = func(why error) { o.Log.Info("changed", "why", why) }
		ctx, cancel := context.WithCancel(context.Background())
		served, done := make(chan *subdir.Backend, 1), make(chan struct{})
		go func() {
			defer close(done)
			subdir.NewShare(o).Run(ctx, func(ctx context.Context, b *subdir.Backend) {
				served <- b
				<-ctx.Done()
			})
		}()
		stop := func() { cancel(); <-done }
		t.Cleanup(stop)
		select {
		case b := <-served:
			shares[b] = open{o, stop}
			return b
		case <-time.After(patience):
			t.Fatal("the share is never opened")
			return nil
		}
	}
	volumetest.Suite{
		Open: func(t *testing.T) volume.Backend {
			path := s.newShare(t)
			return start(t, subdir.Options{Server: s.address, Path: path, Root: filepath.Join(at, filepath.Base(path))})
		},
		Reopen: func(t *testing.T, b volume.Backend) volume.Backend {
			shares[b].stop()
			return start(t, shares[b].options)
		},
	}.Run(t)
}
