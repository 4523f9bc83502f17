package volume_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
)

const grace = 15 * time.Minute

func notWanted(context.Context, volume.Volume) (bool, error) { return false, nil }

// scavengeable makes pvc-1 as a crash leaves it, so old that it may be scavenged.
func scavengeable(t *testing.T) *fixture {
	t.Helper()
	f := newFixture(t)
	f.create(t, "pvc-1")
	time.Sleep(grace)
	f.journal.take()
	return f
}

func TestScavengeDiscardsWhatNobodyWants(t *testing.T) {
	for _, state := range []volume.State{volume.StateCreating, volume.StateReady} {
		t.Run(string(state), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := scavengeable(t)
				f.change(t, "pvc-1", func(v *volume.Volume) { v.State = state })
				var asked []string
				got, err := f.Scavenge(t.Context(), cluster, grace, func(_ context.Context, v volume.Volume) (bool, error) {
					asked = append(asked, v.Name.String())
					return false, nil
				})
				if got != 1 || err != nil {
					t.Errorf("discarded %d, %v; want 1", got, err)
				}
				if len(asked) != 1 || asked[0] != "pvc-1" {
					t.Errorf("asked whether %v are wanted, want pvc-1", asked)
				}
				wantCalls(t, f, "Withdraw 1", "Discard pvc-1")
				f.run(t)
				synctest.Wait()
				wantStates(t, f, nil)
			})
		})
	}
}

// Each condition alone keeps a volume.
func TestScavengeKeeps(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, f *fixture)
		wanted  volume.Wanted
		err     error
		left    volume.State // ready if empty
	}{
		{
			name: "a volume younger than the grace time",
			prepare: func(t *testing.T, f *fixture) {
				f.change(t, "pvc-1", func(v *volume.Volume) { v.Created = v.Created.Add(time.Second) })
			},
		},
		{
			name:    "a volume that was published once",
			prepare: func(t *testing.T, f *fixture) { f.change(t, "pvc-1", func(v *volume.Volume) { v.Published = true }) },
		},
		{
			name: "a volume to be retained",
			prepare: func(t *testing.T, f *fixture) {
				f.change(t, "pvc-1", func(v *volume.Volume) { v.Reclaim = volume.ReclaimRetain })
			},
		},
		{
			name: "a volume of another cluster",
			prepare: func(t *testing.T, f *fixture) {
				f.change(t, "pvc-1", func(v *volume.Volume) { v.Cluster = "cluster-2" })
			},
		},
		{
			name: "a volume that is discarded already",
			prepare: func(t *testing.T, f *fixture) {
				f.change(t, "pvc-1", func(v *volume.Volume) { v.State = volume.StateDiscarded })
			},
			left: volume.StateDiscarded,
		},
		{
			name:   "a volume that is wanted",
			wanted: func(context.Context, volume.Volume) (bool, error) { return true, nil },
		},
		{
			name:   "a volume of which that cannot be told",
			wanted: func(context.Context, volume.Volume) (bool, error) { return false, errDisk },
			err:    errDisk,
		},
		{
			name: "a volume that is published after the list was read",
			prepare: func(t *testing.T, f *fixture) {
				f.journal.hook(func(_ context.Context, call string) error {
					if call == "Get pvc-1" {
						f.change(t, "pvc-1", func(v *volume.Volume) { v.Published = true })
					}
					return nil
				})
			},
		},
		{
			name:    "a volume whose record cannot be read under the lock",
			prepare: func(_ *testing.T, f *fixture) { f.journal.fail(errDisk, "Get pvc-1") },
			err:     errDisk,
		},
		{
			name:    "a volume that the server does not let go of",
			prepare: func(_ *testing.T, f *fixture) { f.journal.fail(export.ErrUnavailable, "Withdraw 1") },
			err:     volume.ErrBusy,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := scavengeable(t)
				if c.prepare != nil {
					c.prepare(t, f)
				}
				wanted := notWanted
				if c.wanted != nil {
					wanted = c.wanted
				}
				got, err := f.Scavenge(t.Context(), cluster, grace, wanted)
				if got != 0 || !errors.Is(err, c.err) {
					t.Errorf("discarded %d, error %v; want none, %v", got, err, c.err)
				}
				if c.left == "" {
					c.left = volume.StateReady
				}
				wantStates(t, f, map[string]volume.State{"pvc-1": c.left})
				wantExports(t, f, map[export.ID]string{1: "/exports/pvc-1"})
			})
		})
	}
}

func TestScavengePassesOverWhatWentMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := scavengeable(t)
		f.journal.fail(volume.ErrNotFound, "Get pvc-1")
		if got, err := f.Scavenge(t.Context(), cluster, grace, notWanted); got != 0 || err != nil {
			t.Errorf("discarded %d, %v; want none and no error", got, err)
		}
	})
}

func TestScavengeGoesOnAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		for _, name := range []string{"pvc-1", "pvc-2", "pvc-3"} {
			f.create(t, name)
		}
		time.Sleep(grace)
		f.backend.unreadable = []error{errors.New("record of volume pvc-torn is damaged")}
		got, err := f.Scavenge(t.Context(), cluster, grace, func(_ context.Context, v volume.Volume) (bool, error) {
			if v.Name.String() == "pvc-1" {
				return false, errDisk
			}
			return v.Name.String() == "pvc-2", nil
		})
		if got != 1 || !errors.Is(err, errDisk) {
			t.Errorf("discarded %d, error %v; want 1 and %v", got, err, errDisk)
		}
		wantStates(t, f, map[string]volume.State{"pvc-1": volume.StateReady, "pvc-2": volume.StateReady, "pvc-3": volume.StateDiscarded})
	})
}

// The claim's retry must not be handed a volume that is being taken away.
func TestScavengeAndCreateTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := scavengeable(t)
		created := make(chan error, 1)
		got, err := f.Scavenge(t.Context(), cluster, grace, func(context.Context, volume.Volume) (bool, error) {
			go func() {
				_, err := f.Create(t.Context(), spec(t, "pvc-1"))
				created <- err
			}()
			synctest.Wait()
			return false, nil
		})
		if got != 1 || err != nil {
			t.Errorf("discarded %d, %v; want 1", got, err)
		}
		if err := <-created; !errors.Is(err, volume.ErrBusy) {
			t.Errorf("Create: got error %v, want %v", err, volume.ErrBusy)
		}
	})
}

func TestScavengeEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := scavengeable(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if got, err := f.Scavenge(ctx, cluster, grace, notWanted); got != 0 || !errors.Is(err, context.Canceled) {
			t.Errorf("discarded %d, error %v; want none, %v", got, err, context.Canceled)
		}
	})
}
