package zfs

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-storage/berth/internal/run"
	"github.com/berth-storage/berth/internal/volume"
)

// answers is a Runner that answers in turn; the last one again and again.
type answers []error

func (a *answers) Output(context.Context, []string) ([]byte, error) {
	err := (*a)[0]
	if len(*a) > 1 {
		*a = (*a)[1:]
	}
	return nil, err
}

func refusalOf(stderr string) error { return &run.ExitError{Program: "zfs", Status: 1, Stderr: stderr} }

func TestABusyDatasetIsWaitedFor(t *testing.T) {
	busy := refusalOf("cannot rename 'tank/a': dataset is busy")
	denied := refusalOf("permission denied")
	for _, c := range []struct {
		name    string
		answers answers
		limit   time.Duration
		want    error
	}{
		{"for a moment", answers{busy, busy, nil}, time.Hour, nil},
		{"for ever", answers{busy}, time.Hour, volume.ErrBusy},
		{"longer than the caller has time", answers{busy}, time.Second, context.DeadlineExceeded},
		{"and then refused", answers{busy, denied}, time.Hour, denied},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &Backend{o: Options{Runner: &c.answers}, unmounting: make(chan struct{}, 1)}
				ctx, cancel := context.WithTimeout(t.Context(), c.limit)
				defer cancel()
				start := time.Now()
				err := meaning(b.patiently(ctx, "rename", "tank/a", "tank/b"))
				if !errors.Is(err, c.want) {
					t.Errorf("got error %v, want %v", err, c.want)
				}
				if took := time.Since(start); took > 20*time.Second {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

func TestOutcomes(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want error
	}{
		{"full", refusalOf("cannot create 'tank/a': out of space"), volume.ErrNoSpace},
		{"too small", refusalOf("cannot set property for 'tank/a': size is less than current used or reserved space"), volume.ErrInvalid},
		{"wrong value", refusalOf("cannot create 'tank/a': 'atime' must be one of 'on | off'"), volume.ErrInvalid},
		{"busy", refusalOf("umount: /tank/a: target is busy."), volume.ErrBusy},
		{"not started", run.ErrNotStarted, volume.ErrBusy},
		{"anything else", errors.New("connection reset by peer"), volume.ErrUnknown},
	} {
		b := &Backend{o: Options{Runner: &answers{c.err}}}
		_, err := b.zfs(t.Context(), "create", "tank/a")
		if err = meaning(err); !errors.Is(err, c.want) || !errors.Is(err, c.err) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

// A pool that is exported is not one whose volumes are gone.
func TestAMissingParentIsNoMissingVolume(t *testing.T) {
	b := &Backend{index: newSnapshotIndex(), o: Options{Dataset: "tank/v", Runner: &answers{refusalOf("cannot open 'tank/v': dataset does not exist\ncannot open 'tank/v/pvc-1': dataset does not exist")}}}
	n, err := volume.ParseName("pvc-1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get(t.Context(), n); !errors.Is(err, volume.ErrUnknown) || errors.Is(err, volume.ErrNotFound) {
		t.Errorf("Get: %v", err)
	}
	if _, err := b.Capacity(t.Context()); !errors.Is(err, volume.ErrUnknown) {
		t.Errorf("Capacity: %v", err)
	}
	for _, err := range b.List(t.Context()) {
		if !errors.Is(err, volume.ErrUnknown) {
			t.Errorf("List: %v", err)
		}
	}
}
