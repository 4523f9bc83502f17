package app

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/berth-storage/berth/internal/run"
)

// hungHost answers nothing before the one who asks gives up.
type hungHost struct{ asked []string }

func (h *hungHost) Output(ctx context.Context, argv []string) ([]byte, error) {
	h.asked = append(h.asked, strings.Join(argv, " "))
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

func (h *hungHost) Probe(ctx context.Context, argv []string) ([]byte, error) {
	return h.Output(ctx, append([]string{"probe of"}, argv...))
}

func TestGateEndsWaitingForAHostThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hungHost{}
		g := newGate(h)
		away := errors.New("nas does not answer")
		done := make(chan error)
		go func() {
			_, err := g.Output(t.Context(), []string{"create"})
			done <- err
		}()
		synctest.Wait()
		if !g.shut(away) || g.shut(errors.New(away.Error())) {
			t.Error("it is news once that a host is away")
		}
		if err := <-done; !errors.Is(err, away) || errors.Is(err, run.ErrNotStarted) {
			t.Errorf("a command that was under way: got error %v", err)
		}
		if _, err := g.Output(t.Context(), []string{"destroy"}); !errors.Is(err, run.ErrNotStarted) || !errors.Is(err, away) {
			t.Errorf("a command after that: got error %v", err)
		}

		asking, cancel := context.WithCancel(passGate(t.Context()))
		go func() {
			_, err := g.Output(asking, []string{"get"})
			done <- err
		}()
		synctest.Wait()
		if !g.open() || g.open() {
			t.Error("it is news once that a host is back")
		}
		go func() {
			_, err := g.Output(asking, []string{"list"})
			done <- err
		}()
		synctest.Wait()
		cancel()
		for range 2 {
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("got error %v", err)
			}
		}
		if !slices.Equal(h.asked, []string{"create", "probe of get", "probe of list"}) {
			t.Errorf("the host was asked for %q", h.asked)
		}
	})
}
