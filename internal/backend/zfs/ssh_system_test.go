//go:build system

package zfs_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/backend/zfs"
	"github.com/berth-storage/berth/internal/run"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
	"github.com/berth-storage/berth/test/sshd"
	"github.com/berth-storage/berth/test/zfsfuse"
)

// host is one that is reached over ssh, with a pool below a parent of its own.
type host struct {
	*sshd.Server
	dataset string
	bound   bool // its key, to the script
}

func newHost(t *testing.T, bound bool) *host {
	t.Helper()
	h := &host{dataset: parent(t), bound: bound}
	o := sshd.Options{Dir: t.TempDir()}
	if bound {
		script, err := filepath.Abs("../../../deploy/zfs-server/berth-zfs")
		if err != nil {
			t.Fatal(err)
		}
		o.Command = script + " " + h.dataset
	}
	var err error
	if h.Server, err = sshd.Start(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.Close()
		if t.Failed() {
			t.Log(h.Log())
		}
	})
	return h
}

// connect is a client, which holds the pool's lock if the host has the script for that.
func (h *host) connect(t *testing.T) *run.SSH {
	t.Helper()
	o := h.SSH()
	if h.bound {
		o.Lock = []string{"berth-zfs", "lock", h.dataset}
	}
	return sshd.Connect(t, o)
}

// kinds are those of hosts: with and without the script.
var kinds = map[string]bool{"any command": false, "bound to the script": true}

func TestContractOverSSH(t *testing.T) {
	for name, bound := range kinds {
		t.Run(name, func(t *testing.T) {
			hosts, clients := map[volume.Backend]*host{}, map[volume.Backend]*run.SSH{}
			start := func(t *testing.T, h *host) volume.Backend {
				client := h.connect(t)
				b := open(t, zfs.Options{Dataset: h.dataset, Runner: fuse{client}, Sizing: volume.SizingQuota})
				hosts[b], clients[b] = h, client
				return b
			}
			volumetest.Suite{
				Open: func(t *testing.T) volume.Backend { return start(t, newHost(t, bound)) },
				Reopen: func(t *testing.T, b volume.Backend) volume.Backend {
					b.(*zfs.Backend).Close()
					clients[b].Close()
					return start(t, hosts[b])
				},
			}.Run(t)
		})
	}
}

// Volumes, clones and snapshots come and go at random also where each command is one of the script's.
func TestRandomClonesOverSSH(t *testing.T) {
	h := newHost(t, true)
	b := open(t, zfs.Options{Dataset: h.dataset, Runner: fuse{h.connect(t)}, Sizing: volume.SizingQuota})
	volumetest.Model(t, b, 3, 60)
	if left := zfsRun(t, "list", "-H", "-r", "-t", "all", "-o", "name", h.dataset); left != h.dataset+"\n"+h.dataset+"/.berth" {
		t.Errorf("left are\n%s", left)
	}
}

// One process works on a pool: the second is refused, and gets it when the first ends.
func TestLockOverSSH(t *testing.T) {
	h := newHost(t, true)
	first := h.connect(t)
	open(t, zfs.Options{Dataset: h.dataset, Runner: first})
	if _, err := zfs.Open(t.Context(), zfs.Options{Dataset: h.dataset, Runner: h.connect(t)}); err == nil || !strings.Contains(err.Error(), "another Berth") {
		t.Errorf("a second one over ssh got %v", err)
	}
	if _, err := zfs.Open(t.Context(), zfs.Options{Dataset: h.dataset, Runner: here, Local: true}); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("one on the host itself got %v", err)
	}
	first.Close()
	open(t, zfs.Options{Dataset: h.dataset, Runner: h.connect(t)})
}

// cutting runs commands over ssh, and has the connection be cut at a moment of one of them.
type cutting struct {
	t       *testing.T
	host    *host
	client  *run.SSH
	backend *zfs.Backend
	left    int // commands until that one; negative: none is cut
	moment  sshd.Moment
	cut     <-chan error // nil: it was not yet
}

func (c *cutting) Output(ctx context.Context, argv []string) ([]byte, error) {
	if c.left--; c.left == 0 {
		c.cut = c.host.CutAt(c.moment)
	}
	return c.client.Output(ctx, argv)
}

// step is an operation, and how a front end asks whether it was done: it does so again
// until the answer is no error.
type step struct {
	name string
	do   func(ctx context.Context, b *zfs.Backend) error
}

// steps are a life of three volumes, one the clone of the other, and one restored from a snapshot of that.
func steps(t *testing.T) []step {
	spec := volumetest.Spec(t, "cut")
	clone := volumetest.Spec(t, "clone")
	clone.From = &volume.Source{Volume: spec.Name}
	clone.Owner = spec.Owner
	snapshot := volumetest.SnapshotSpec(t, "snapshot", "cut")
	restored := volumetest.RestoreSpec(t, "restored", "snapshot", "cut")
	gone := func(n volume.Name) func(context.Context, *zfs.Backend) error {
		return func(ctx context.Context, b *zfs.Backend) error {
			if err := b.Discard(ctx, n); err != nil && !errors.Is(err, volume.ErrNotFound) {
				return err
			}
			if err := b.Purge(ctx, n); err != nil && !errors.Is(err, volume.ErrNotFound) && !errors.Is(err, volume.ErrCloned) {
				return err
			}
			return nil
		}
	}
	return []step{
		{"create", func(ctx context.Context, b *zfs.Backend) error {
			_, err := b.Create(ctx, spec)
			return err
		}},
		{"grow", func(ctx context.Context, b *zfs.Backend) error {
			v, err := b.Get(ctx, spec.Name)
			if err != nil {
				return err
			}
			v.Size = 2 * spec.Size
			_, err = b.Update(ctx, v)
			return err
		}},
		{"clone", func(ctx context.Context, b *zfs.Backend) error {
			_, err := b.Clone(ctx, clone, nil)
			return err
		}},
		{"delete the clone", gone(clone.Name)},
		{"snapshot", func(ctx context.Context, b *zfs.Backend) error {
			_, err := b.Snapshot(ctx, snapshot, nil)
			return err
		}},
		{"restore", func(ctx context.Context, b *zfs.Backend) error {
			_, err := b.Clone(ctx, restored, nil)
			return err
		}},
		{"delete the snapshot", gone(snapshot.Name)},
		{"delete what was restored", gone(restored.Name)},
		{"delete", gone(spec.Name)},
	}
}

// mostCommands is how many a step has, when nothing is busy.
const mostCommands = 9

// Whatever the moment at which the connection is cut, of whichever command: nothing is taken for gone that
// is there, what is asked again comes to its end, and no dataset is left.
func TestCutConnections(t *testing.T) {
	all := []sshd.Moment{sshd.Before, sshd.During, sshd.After}
	for _, c := range []struct {
		name    string
		bound   bool
		moments []sshd.Moment // of one command after the other
	}{
		{"before", false, all[:1]},
		{"during", false, all[1:2]},
		{"after", false, all[2:]},
		{"with the lock", true, all}, // after each cut everything is opened anew
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t, c.bound)
			l := &cutting{t: t, host: h, client: h.connect(t)}
			l.open()
			n, cuts := 1, 1
			for ; cuts > 0 && n <= mostCommands; n++ { // the n-th command of each step
				cuts = 0
				for i, s := range steps(t) {
					l.moment = c.moments[(n+i)%len(c.moments)]
					if l.run(n, s) {
						cuts++
					}
					isThere(t, s.name, h.dataset)
				}
			}
			if n < 4 {
				t.Errorf("only %d commands of a step were cut", n-1)
			}
		})
	}
}

// open opens the pool, when nobody has it any more.
func (c *cutting) open() {
	c.t.Helper()
	o := zfs.Options{Dataset: c.host.dataset, Runner: c, Sizing: volume.SizingQuota}
	var err error
	for until := time.Now().Add(zfsfuse.Patience); ; {
		if c.backend, err = zfs.Open(c.t.Context(), o); !errors.Is(err, volume.ErrBusy) || time.Now().After(until) {
			break
		}
		c.client.Close() // the host has to notice that the one before is gone
		c.client = c.host.connect(c.t)
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// run does s until it is done, with a cut at its n-th command. It is false if there was
// no such command.
func (c *cutting) run(n int, s step) (wasCut bool) {
	c.t.Helper()
	c.left, c.cut = n, nil
	err := s.do(c.t.Context(), c.backend)
	if c.cut != nil {
		if err := <-c.cut; err != nil {
			c.t.Fatal(err)
		}
	}
	c.left = -1
	for try := 0; err != nil; try++ {
		// ErrConflict: a command that was cut during its work came to its end between two of ours.
		if !errors.Is(err, volume.ErrUnknown) && !errors.Is(err, volume.ErrBusy) && !errors.Is(err, volume.ErrConflict) || try == 100 {
			c.t.Fatalf("%s, cut %s command %d: %v", s.name, c.moment, n, err)
		}
		select {
		case <-c.client.Lost():
			c.backend.Close()
			c.client = c.host.connect(c.t)
			c.open()
		default:
		}
		err = s.do(c.t.Context(), c.backend)
	}
	return c.cut != nil
}

// isThere checks what is to be there after a step.
func isThere(t *testing.T, step, dataset string) {
	t.Helper()
	want := map[string]string{
		"create": "cut", "grow": "cut", "clone": "clone cut cut@berth-clone", "delete the clone": "cut", "delete": "",
		"snapshot": "cut cut@snapshot", "restore": "cut cut@snapshot restored", "delete the snapshot": "cut cut@snapshot restored", "delete what was restored": "cut",
	}[step]
	var got []string
	for line := range strings.SplitSeq(zfsRun(t, "list", "-H", "-r", "-o", "name", "-t", "filesystem,snapshot", dataset), "\n") {
		if name := strings.TrimPrefix(line, dataset+"/"); name != line && name != ".berth" {
			got = append(got, name)
		}
	}
	if strings.Join(got, " ") != want {
		t.Fatalf("after %q there are %q, want %q", step, got, want)
	}
}
