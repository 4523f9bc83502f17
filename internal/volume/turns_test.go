package volume_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-storage/berth/internal/volume"
)

// crowd is a pool in which several namespaces have a volume each, "pvc-<number>". A copy takes an hour.
type crowd struct {
	*fixture
	now, most atomic.Int32
	of        []atomic.Int32 // now, by namespace
}

func newCrowd(t *testing.T, namespaces int) *crowd {
	c := &crowd{fixture: newFixture(t), of: make([]atomic.Int32, namespaces)}
	for n := range namespaces {
		s := spec(t, fmt.Sprint("pvc-", n))
		s.Claim.Namespace = fmt.Sprint("team-", n)
		if _, err := c.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	c.journal.hook(func(ctx context.Context, call string) error {
		var n, i int
		if parsed, _ := fmt.Sscanf(call, "Snapshot snap-%d-%d", &n, &i); parsed != 2 {
			return nil
		}
		if of := c.of[n].Add(1); of > 2 {
			t.Errorf("%d copies of one namespace", of)
		}
		if now := c.now.Add(1); now > c.most.Load() {
			c.most.Store(now)
		}
		defer c.now.Add(-1)
		defer c.of[n].Add(-1)
		select {
		case <-time.After(time.Hour):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	return c
}

// ask asks for snapshot i of namespace n.
func (c *crowd) ask(t *testing.T, n, i int) error {
	s := snapshotSpec(t, fmt.Sprintf("snap-%d-%d", n, i), fmt.Sprint("pvc-", n))
	s.Namespace = fmt.Sprint("team-", n)
	_, err := c.Snapshot(t.Context(), s)
	return err
}

// Whoever may make VolumeSnapshots may make thousands.
func TestCopiesTakeTurns(t *testing.T) {
	const namespaces, snapshots = 6, 5
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, namespaces)
		var asking sync.WaitGroup
		for n := range namespaces {
			for i := range snapshots {
				asking.Go(func() {
					err := c.ask(t, n, i)
					for errors.Is(err, volume.ErrPending) {
						time.Sleep(time.Minute)
						err = c.ask(t, n, i)
					}
					if err != nil {
						t.Error(err)
					}
				})
			}
		}
		asking.Wait()
		if c.most.Load() != 8 {
			t.Errorf("%d copies at a time, want 8", c.most.Load())
		}
		if n := len(c.states(t)); n != namespaces*(snapshots+1) {
			t.Errorf("%d records", n)
		}
	})
}

// Who asks for snapshots and clones has few workers, for all namespaces.
func TestNobodyWaitsLongForCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 1)
		began := time.Now()
		for range 3 {
			for i := range 100 {
				if err := c.ask(t, 0, i); !errors.Is(err, volume.ErrPending) || errors.Is(err, volume.ErrQueued) != (i >= 2) {
					t.Errorf("snapshot %d: %v", i, err)
				}
			}
		}
		if waited := time.Since(began); waited > 20*time.Second {
			t.Errorf("who asked had to wait for %v, want 10s for each of those that have begun", waited)
		}
		for i := range 100 {
			c.deleteSnapshot(t, fmt.Sprint("snap-0-", i))
		}
	})
}

func TestFewDeletionsWaitForCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const namespaces = 5
		c := newCrowd(t, namespaces)
		for n := range namespaces {
			if err := c.ask(t, n, 0); !errors.Is(err, volume.ErrPending) {
				t.Fatal(err)
			}
		}
		var waited atomic.Int32
		var deleting sync.WaitGroup
		for n := range namespaces {
			deleting.Go(func() {
				began := time.Now()
				if err := c.Delete(t.Context(), parseName(t, fmt.Sprint("pvc-", n)), cluster); !errors.Is(err, volume.ErrBusy) {
					t.Error(err)
				}
				if time.Since(began) > 0 {
					waited.Add(1)
				}
			})
		}
		deleting.Wait()
		if waited.Load() != 2 {
			t.Errorf("%d had to wait, want 2", waited.Load())
		}
		for n := range namespaces {
			c.deleteSnapshot(t, fmt.Sprintf("snap-%d-0", n))
		}
		c.delete(t, "pvc-0")
	})
}

func TestACopyThatWaitsForItsTurnCanBeGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 2)
		for i := range 3 {
			if err := c.ask(t, 0, i); !errors.Is(err, volume.ErrPending) || strings.Contains(err.Error(), "when others are done") != (i == 2) {
				t.Errorf("snapshot %d: %v", i, err)
			}
		}
		c.deleteSnapshot(t, "snap-0-2") // which never had its turn
		if err := c.ask(t, 1, 0); !errors.Is(err, volume.ErrPending) || c.of[1].Load() != 1 {
			t.Errorf("another namespace waits too: %v", err)
		}
		c.deleteSnapshot(t, "snap-0-0")
		if err := c.ask(t, 0, 3); !errors.Is(err, volume.ErrPending) || c.of[0].Load() != 2 {
			t.Errorf("the next one waits for ever: %v", err)
		}
		c.deleteSnapshot(t, "snap-0-1")
		c.deleteSnapshot(t, "snap-0-3")
		c.deleteSnapshot(t, "snap-1-0")
	})
}
