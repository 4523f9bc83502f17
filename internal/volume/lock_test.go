package volume_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-storage/berth/internal/volume"
)

// gate is a hook that holds up one call until it is opened.
func gate(f *fixture, held string) (open func()) {
	opened := make(chan struct{})
	f.journal.hook(func(_ context.Context, call string) error {
		if call == held {
			<-opened
		}
		return nil
	})
	return func() { close(opened) }
}

// startCreating begins to make pvc-1, and returns when that goes no further.
func startCreating(t *testing.T, f *fixture) {
	go func() {
		if _, err := f.Create(t.Context(), spec(t, "pvc-1")); err != nil {
			t.Error(err)
		}
	}()
	synctest.Wait()
}

func TestOneOperationAtATimeWorksOnAVolume(t *testing.T) {
	n := parseName(t, "pvc-1")
	for name, second := range map[string]func(context.Context, *fixture) error{
		"Create": func(ctx context.Context, f *fixture) error {
			_, err := f.Create(ctx, spec(t, "pvc-1"))
			return err
		},
		"Delete":        func(ctx context.Context, f *fixture) error { return f.Delete(ctx, n, cluster) },
		"MarkPublished": func(ctx context.Context, f *fixture) error { return f.MarkPublished(ctx, n) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				open := gate(f, "Create pvc-1")
				startCreating(t, f)
				ended := false
				go func() {
					if err := second(t.Context(), f); err != nil {
						t.Error(err)
					}
					ended = true
				}()
				synctest.Wait()
				if ended {
					t.Error("it ended while the volume was being created")
				}
				wantCalls(t, f, "Create pvc-1")
				open()
				synctest.Wait()
				if !ended {
					t.Error("it did not end after the volume was created")
				}
			})
		})
	}
}

func TestDifferentVolumesDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		open := gate(f, "Create pvc-1")
		startCreating(t, f)
		f.create(t, "pvc-2")
		f.delete(t, "pvc-2")
		open()
		synctest.Wait()
	})
}

func TestWaitingForAVolumeEndsWithTheContext(t *testing.T) {
	errStop := errors.New("told to stop")
	n := parseName(t, "pvc-1")
	for name, call := range map[string]func(context.Context, *fixture) error{
		"Create": func(ctx context.Context, f *fixture) error {
			_, err := f.Create(ctx, spec(t, "pvc-1"))
			return err
		},
		"Delete":        func(ctx context.Context, f *fixture) error { return f.Delete(ctx, n, cluster) },
		"MarkPublished": func(ctx context.Context, f *fixture) error { return f.MarkPublished(ctx, n) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				open := gate(f, "Create pvc-1")
				startCreating(t, f)
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(time.Minute, func() { cancel(errStop) })
				if err := call(ctx, f); !errors.Is(err, errStop) {
					t.Errorf("got error %v, want %v", err, errStop)
				}
				open()
				synctest.Wait()
				// Who gave up waiting holds nothing.
				f.delete(t, "pvc-1")
			})
		})
	}
}

// TestBackendIsNeverCalledTwiceAtOnceForAVolume has many callers work on few volumes.
func TestBackendIsNeverCalledTwiceAtOnceForAVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		var mu sync.Mutex
		busy := make(map[string]string) // by volume, the call that is being worked on
		f.journal.hook(func(_ context.Context, call string) error {
			_, on, _ := strings.Cut(call, " ")
			if strings.HasPrefix(call, "List ") {
				return nil
			}
			mu.Lock()
			if other := busy[on]; other != "" {
				t.Errorf("%s was called during %s", call, other)
			}
			busy[on] = call
			mu.Unlock()
			time.Sleep(time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			delete(busy, on)
			return nil
		})
		f.run(t)
		names := []string{"pvc-1", "pvc-2", "pvc-3"}
		never := func(context.Context, volume.Volume) (bool, error) { return false, nil }
		var callers sync.WaitGroup
		for i := range 8 {
			random := rand.New(rand.NewPCG(uint64(i), 0))
			callers.Go(func() {
				for range 40 {
					name := names[random.IntN(len(names))]
					var err error
					switch random.IntN(4) {
					case 0, 1:
						_, err = f.Create(t.Context(), spec(t, name))
					case 2:
						err = f.Delete(t.Context(), parseName(t, name), cluster)
					default:
						_, err = f.Scavenge(t.Context(), cluster, 0, never)
					}
					if err != nil && !errors.Is(err, volume.ErrBusy) {
						t.Error(err)
					}
				}
			})
		}
		callers.Wait()
	})
}
