package subdir

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

func TestCallersDoNotWaitForAShareThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHanging()
		b := &Backend{guard: newGuard(), inner: h}
		s := volumetest.Spec(t, "pvc-1")
		h.hang()
		failed := make(chan error, 1)
		go func() {
			_, err := b.Create(t.Context(), s)
			failed <- err
		}()
		synctest.Wait()
		b.guard.stall(errServer)
		wantError(t, "the operation that was under way", <-failed, volume.ErrUnknown, errServer)

		// Nothing else is begun.
		began := h.operations()
		_, err := b.Get(t.Context(), volumetest.Spec(t, "pvc-2").Name)
		wantError(t, "Get", err, volume.ErrBusy, errServer)
		for _, err := range b.List(t.Context()) {
			wantError(t, "List", err, volume.ErrUnknown, errServer)
		}
		_, err = b.Capacity(t.Context())
		wantError(t, "Capacity", err, volume.ErrBusy)
		if now := h.operations(); now != began {
			t.Errorf("%d operations were begun on a share that does not answer", now-began)
		}

		// When the share answers again the name is not free before the operation has ended.
		b.guard.answers()
		wantError(t, "Discard of the volume that is still worked on", b.Discard(t.Context(), s.Name), volume.ErrBusy)
		h.goOn()
		synctest.Wait()
		if _, err := b.Create(t.Context(), s); err != nil {
			t.Errorf("after it has ended: %v", err)
		}
		if err := b.Discard(t.Context(), s.Name); err != nil {
			t.Error(err)
		}
	})
}

func TestAnEndedContextEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHanging()
		b := &Backend{guard: newGuard(), inner: h}
		h.hang()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		start := time.Now()
		_, err := b.Create(ctx, volumetest.Spec(t, "pvc-1"))
		wantError(t, "Create", err, volume.ErrUnknown, context.DeadlineExceeded)
		if late := time.Since(start) - time.Hour; late != patience {
			t.Errorf("it came back %s after the end of its context, want %s", late, patience)
		}
		h.goOn()
	})
}

// A context that ends while the share answers leaves what the backend makes of it.
func TestAnEndedContextIsTheBackendsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard()
		ctx, cancel := context.WithCancel(t.Context())
		err := do(ctx, g, volumetest.Spec(t, "pvc-1").Name, func(ctx context.Context) error {
			cancel()
			<-ctx.Done()
			time.Sleep(patience / 2)
			return errServer
		})
		wantError(t, "the operation", err, errServer)
		if err := do(t.Context(), g, volumetest.Spec(t, "pvc-1").Name, func(context.Context) error { return nil }); err != nil {
			t.Error(err)
		}
	})
}

func TestWhatWasLeftIsToldToEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard()
		ended := make(chan error, 1)
		go func() {
			_ = do(t.Context(), g, volume.Name{}, func(ctx context.Context) error {
				<-ctx.Done()
				ended <- ctx.Err()
				return nil
			})
		}()
		synctest.Wait()
		g.stall(errServer)
		wantError(t, "its context", <-ended, context.Canceled)
		<-g.close()
		wantError(t, "an operation on a closed share", do(t.Context(), g, volume.Name{}, nil), volume.ErrBusy, errClosed)
	})
}

func TestVerdictsMayComeTwice(t *testing.T) {
	g := newGuard()
	g.answers()
	g.stall(errServer)
	g.stall(volume.ErrNoSpace)
	wantError(t, "the reason", do(t.Context(), g, volume.Name{}, nil), volume.ErrNoSpace)
	g.answers()
	g.answers()
	if err := do(t.Context(), g, volume.Name{}, func(context.Context) error { return nil }); err != nil {
		t.Error(err)
	}
}
