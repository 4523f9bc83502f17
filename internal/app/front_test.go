package app

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/kube"
	"github.com/berth-storage/berth/internal/volume"
)

// claims is a front end that serves until its context ends.
type claims struct {
	pools  []*kube.Pool
	served *[]string // names of the pools, those that are away in brackets
	fail   error
}

func (c claims) Run(ctx context.Context) error {
	text := ""
	for _, p := range c.pools {
		if _, gone := p.Volumes.(away); gone {
			text += "(" + p.Volumes.Pool() + ")"
		} else {
			text += p.Volumes.Pool()
		}
	}
	*c.served = append(*c.served, text)
	if c.fail != nil {
		return c.fail
	}
	<-ctx.Done()
	return nil
}

// there is a pool that is there.
type there struct{ kube.Volumes }

func (there) Pool() string { return "b" }

func TestAFrontEndBeginsAgainWithEachPoolThatComesOrGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &app{}
		var served []string
		f := newFront(func(pools []*kube.Pool) frontEnd { return claims{pools: pools, served: &served} })
		f.add(gonePool(a, "a", ""))
		f.add(gonePool(a, "b", ""))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.run(ctx) }()
		synctest.Wait()
		want := func(what string, want ...string) {
			t.Helper()
			synctest.Wait()
			if diff := cmp.Diff(want, served); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		want("without any pool")
		f.set(gonePool(a, "a", ""))
		want("still without any pool")
		f.set(&kube.Pool{Volumes: there{}, Instance: "1"})
		want("with one", "(a)b")
		f.set(gonePool(a, "b", "1"))
		want("which is away, and still this instance's", "(a)b", "(a)(b)")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestAFrontEndThatFailsIsTold(t *testing.T) {
	failed := errors.New("no Lease")
	f := newFront(func([]*kube.Pool) frontEnd { return claims{served: new([]string), fail: failed} })
	f.add(&kube.Pool{Volumes: there{}, Instance: "1"})
	if err := f.run(t.Context()); !errors.Is(err, failed) {
		t.Errorf("got error %v", err)
	}
}

func TestAPoolThatIsAwayRefuses(t *testing.T) {
	a := &app{}
	why := errors.New("no route to host")
	a.health.remote("nas", why)
	v := a.away("nas")
	_, err := v.Create(t.Context(), volume.Spec{})
	for what, err := range map[string]error{
		"Create": err, "Delete": v.Delete(t.Context(), volume.Name{}, ""), "MarkPublished": v.MarkPublished(t.Context(), volume.Name{}),
	} {
		if !errors.Is(err, volume.ErrBusy) || !errors.Is(err, why) {
			t.Errorf("%s: got error %v, want %v because of %v", what, err, volume.ErrBusy, why)
		}
	}
	if room, err := v.Room(t.Context()); err != nil || room.Free != 0 {
		t.Errorf("it has room: %+v, %v", room, err)
	}
}

func gonePool(a *app, name, identity string) *kube.Pool {
	return &kube.Pool{Volumes: a.away(name), Instance: identity}
}
