package subdir

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/mountinfo"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

// running is a Share that runs, in a bubble of synctest.
type running struct {
	states  []string // as Changed was told
	backend *Backend // while it is served
	terms   int
	stop    context.CancelFunc
	done    chan struct{}
}

// start runs a Share whose root is opened by open.
func start(t *testing.T, open func(context.Context) (*opened, error)) *running {
	t.Helper()
	r := &running{done: make(chan struct{})}
	s := NewShare(Options{Server: "nas", Path: "/vol", Log: logger(t), Changed: func(why error) {
		state := "available"
		if why != nil {
			state = why.Error()
		}
		r.states = append(r.states, state)
	}})
	s.open = open
	ctx, cancel := context.WithCancel(t.Context())
	r.stop = cancel
	go func() {
		defer close(r.done)
		s.Run(ctx, func(ctx context.Context, b *Backend) {
			r.backend = b
			r.terms++
			<-ctx.Done()
			r.backend = nil
		})
	}()
	return r
}

func (r *running) wantStates(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	if len(r.states) != len(want) {
		t.Fatalf("told %q, want %q", r.states, want)
	}
	for i := range want {
		if !strings.Contains(r.states[i], want[i]) {
			t.Errorf("told %q, want %q", r.states, want)
		}
	}
}

func TestAShareThatCannotBeOpenedIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHanging()
		tries := 0
		r := start(t, func(context.Context) (*opened, error) {
			if tries++; tries < 5 {
				return nil, errServer
			}
			return h.opened(), nil
		})
		time.Sleep(time.Minute)
		r.wantStates(t, "is being opened", errServer.Error(), "available")
		if tries != 5 || r.backend == nil {
			t.Errorf("after %d tries it is served: %t", tries, r.backend != nil)
		}
		r.stop()
		<-r.done
		if !h.isClosed() {
			t.Error("it was not closed")
		}
	})
}

func TestAShareThatHangsComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHanging()
		r := start(t, func(context.Context) (*opened, error) { return h.opened(), nil })
		time.Sleep(time.Minute)
		h.hang()
		time.Sleep(time.Minute)
		r.wantStates(t, "is being opened", "available", "nas:/vol: does not answer since")
		_, err := r.backend.Create(t.Context(), volumetest.Spec(t, "pvc-1"))
		wantError(t, "Create", err, volume.ErrBusy)
		h.goOn()
		time.Sleep(time.Minute)
		r.wantStates(t, "is being opened", "available", "does not answer", "available")
		if _, err := r.backend.Create(t.Context(), volumetest.Spec(t, "pvc-1")); err != nil {
			t.Error(err)
		}
		h.fails(errServer) // as of a soft mount
		time.Sleep(time.Minute)
		_, err = r.backend.Get(t.Context(), volumetest.Spec(t, "pvc-1").Name)
		wantError(t, "Get", err, volume.ErrBusy, errServer)
		if r.terms != 1 {
			t.Errorf("it was opened %d times", r.terms)
		}
		r.stop()
		<-r.done
	})
}

func TestALostRootIsOpenedAnewWhenNothingWorksOnIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newHanging(), newHanging()
		next := first
		r := start(t, func(context.Context) (*opened, error) { return next.opened(), nil })
		synctest.Wait()
		next = second
		b := r.backend
		first.hang()
		failed := make(chan error, 1)
		go func() {
			_, err := b.Create(t.Context(), volumetest.Spec(t, "pvc-1"))
			failed <- err
		}()
		synctest.Wait()
		held := first.dead
		first.mu.Lock()
		first.dead, first.check = nil, dir.ErrLost // the probe comes back, the operation does not
		first.mu.Unlock()
		wantError(t, "the operation that was under way", <-failed, volume.ErrUnknown, dir.ErrLost)
		time.Sleep(time.Hour)
		if r.terms != 1 || first.isClosed() {
			t.Errorf("opened %d times while an operation of before is at work, closed: %t", r.terms, first.isClosed())
		}
		wantError(t, "an operation on the lost root", b.Discard(t.Context(), volumetest.Spec(t, "pvc-2").Name), volume.ErrBusy)
		close(held)
		time.Sleep(time.Minute)
		r.wantStates(t, "is being opened", "available", "has to be opened anew: "+dir.ErrLost.Error(), "available")
		if r.terms != 2 || !first.isClosed() || r.backend == b {
			t.Errorf("opened %d times, the first closed: %t", r.terms, first.isClosed())
		}
		r.stop()
		<-r.done
	})
}

// However it hangs, the end is quick.
func TestTheEndDoesNotWaitForAShareThatHangs(t *testing.T) {
	for name, hangs := range map[string]func(t *testing.T, h *hanging) *running{
		"while it is opened": func(t *testing.T, h *hanging) *running {
			h.hang()
			return start(t, func(context.Context) (*opened, error) { h.wait(); return h.opened(), nil })
		},
		"while it is asked": func(t *testing.T, h *hanging) *running {
			r := start(t, func(context.Context) (*opened, error) { return h.opened(), nil })
			synctest.Wait()
			h.hang()
			time.Sleep(defaultProbeEvery + defaultStall/2)
			return r
		},
		"after an operation was left": func(t *testing.T, h *hanging) *running {
			r := start(t, func(context.Context) (*opened, error) { return h.opened(), nil })
			synctest.Wait()
			h.hang()
			_, err := r.backend.Create(t.Context(), volumetest.Spec(t, "pvc-1"))
			wantError(t, "Create", err, volume.ErrUnknown)
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHanging()
				r := hangs(t, h)
				synctest.Wait()
				start := time.Now()
				r.stop()
				<-r.done
				if took := time.Since(start); took > patience+closeLimit {
					t.Errorf("the end took %s", took)
				}
				if want := !h.isClosed() && r.terms > 0; h.isAbandoned() != want {
					t.Errorf("abandoned: %t, want %t", h.isAbandoned(), want)
				}
				h.goOn()
				synctest.Wait()
				if !h.isClosed() {
					t.Error("what hung was not closed when it came back")
				}
			})
		})
	}
}

func TestMountOptions(t *testing.T) {
	for _, c := range []struct{ given, want string }{
		{"", "softerr,timeo=300,retrans=2,lookupcache=positive,retry=0"},
		{"vers=4.2", "softerr,timeo=300,retrans=2,lookupcache=positive,retry=0,vers=4.2"},
		{"hard vers=3", "timeo=300,retrans=2,lookupcache=positive,retry=0,hard,vers=3"},
		{"soft timeo=10", "retrans=2,lookupcache=positive,retry=0,soft,timeo=10"},
		{"lookupcache=none retry=1", "softerr,timeo=300,retrans=2,lookupcache=none,retry=1"},
	} {
		if got := mountOptions(strings.Fields(c.given)); got != c.want {
			t.Errorf("%q gives %q, want %q", c.given, got, c.want)
		}
	}
}

func TestSource(t *testing.T) {
	for _, c := range [][3]string{{"nas", "/vol", "nas:/vol"}, {"10.0.0.1", "/", "10.0.0.1:/"}, {"fd00::1", "/vol", "[fd00::1]:/vol"}, {"[fd00::1]", "/vol", "[fd00::1]:/vol"}} {
		if got := source(c[0], c[1]); got != c[2] {
			t.Errorf("source(%q, %q) is %q, want %q", c[0], c[1], got, c[2])
		}
	}
}

func TestKindsOfMounts(t *testing.T) {
	for options, wantLocal := range map[string]bool{"rw,vers=4.2,local_lock=none": false, "rw,vers=3,nolock,local_lock=all": true, "rw,local_lock=flock": true} {
		if m := (mountinfo.Mount{Options: strings.Split(options, ",")}); localLocks(m) != wantLocal {
			t.Errorf("with the options %s locks are local: %t", options, !wantLocal)
		}
	}
	for kind, want := range map[string]bool{"nfs": true, "nfs4": true, "ext4": false} {
		if m := (mountinfo.Mount{Type: kind}); isNFS(m) != want {
			t.Errorf("%s is NFS: %t", kind, !want)
		}
	}
}

// The contract of backends, on a directory that counts as a share that is mounted.
func TestContract(t *testing.T) {
	type share struct {
		root string
		stop func()
	}
	shares := map[volume.Backend]share{}
	open := func(t *testing.T, root string) volume.Backend {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan *Backend, 1)
		done := make(chan struct{})
		go func() {
			defer close(done)
			s := NewShare(Options{Server: "nas", Path: "/vol", Root: root, Log: logger(t), Changed: func(why error) {
				if why != nil && strings.Contains(why.Error(), "in use") {
					t.Error(why)
				}
			}})
			s.Run(ctx, func(ctx context.Context, b *Backend) {
				served <- b
				<-ctx.Done()
			})
		}()
		stop := func() { cancel(); <-done }
		t.Cleanup(stop)
		b := <-served
		shares[b] = share{root, stop}
		return b
	}
	volumetest.Suite{
		Open: func(t *testing.T) volume.Backend { return open(t, t.TempDir()) },
		Reopen: func(t *testing.T, b volume.Backend) volume.Backend {
			old := shares[b]
			old.stop()
			wantError(t, "an operation on a closed share", b.Discard(t.Context(), volumetest.Spec(t, "pvc-1").Name), volume.ErrBusy)
			again := open(t, old.root)
			if was, is := b.(*Backend).Identity(), again.(*Backend).Identity(); was != is || again.(*Backend).New() {
				t.Errorf("the identity was %s, is %s", was, is)
			}
			return again
		},
	}.Run(t)
}

func TestAShareInUse(t *testing.T) {
	root := t.TempDir()
	b, err := dir.Open(t.Context(), root, dir.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Check(); err != nil {
		t.Errorf("Check of a root that is open: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	s := NewShare(Options{Server: "nas", Path: "/vol", Root: root, Log: logger(t), Changed: func(why error) {
		if last = why; strings.Contains(why.Error(), "in use by") {
			cancel()
		}
	}})
	s.Run(ctx, func(context.Context, *Backend) { t.Error("it is served twice") })
	if _, locked := errors.AsType[*dir.LockedError](last); !locked {
		t.Errorf("told %v", last)
	}
}
