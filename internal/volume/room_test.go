package volume_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
)

func wantRoom(t *testing.T, m *volume.Manager, free, unpromised int64) {
	t.Helper()
	if got, err := m.Room(t.Context()); err != nil || got != (volume.Room{Free: free, Unpromised: unpromised}) {
		t.Errorf("room is %+v, %v; want %d free, %d unpromised", got, err, free, unpromised)
	}
}

// The volumes of volumetest.Spec have 1 MiB each; the backend in memory counts
// nothing else as used.
func TestRoomIsWhatIsNotPromised(t *testing.T) {
	f := newFixture(t)
	f.backend.Total = 10 << 20
	wantRoom(t, f.Manager, 10<<20, 10<<20)
	f.create(t, "pvc-1")
	f.create(t, "pvc-1")
	f.create(t, "pvc-2")
	wantRoom(t, f.Manager, 8<<20, 8<<20)

	f.open(t)
	if _, err := f.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantRoom(t, f.Manager, 8<<20, 8<<20)
	f.backend.fixed = &volume.Capacity{Total: 10 << 20, Available: 3 << 20} // something else lies there
	wantRoom(t, f.Manager, 3<<20, 3<<20)
	f.backend.fixed = &volume.Capacity{Total: 1 << 20, Available: 1 << 20} // more was promised than there is
	wantRoom(t, f.Manager, 1<<20, -1<<20)
	f.backend.fixed = &volume.Capacity{Total: 1<<64 - 1, Available: 1<<64 - 1}
	wantRoom(t, f.Manager, 1<<63-1, 1<<63-1-2<<20)

	f.backend.fixed = nil
	f.delete(t, "pvc-1")
	wantRoom(t, f.Manager, 8<<20, 8<<20) // not purged yet: its bytes are still taken
	f.journal.fail(errDisk, "Create pvc-3")
	if _, err := f.Create(t.Context(), spec(t, "pvc-3")); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	wantRoom(t, f.Manager, 8<<20, 8<<20)
}

func TestNoMoreVolumesThanAllowed(t *testing.T) {
	f := newFixture(t)
	p := f.pool()
	p.MaxVolumes = 3
	f.Manager = volume.NewManager(p)
	var made atomic.Int32
	var wait sync.WaitGroup
	for _, name := range []string{"pvc-1", "pvc-2", "pvc-3", "pvc-4", "pvc-5", "pvc-6"} {
		wait.Go(func() {
			_, err := f.Create(t.Context(), spec(t, name))
			switch {
			case err == nil:
				made.Add(1)
			case !errors.Is(err, volume.ErrNoSpace):
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if made.Load() != 3 || len(f.server.exports()) != 3 {
		t.Fatalf("%d volumes were made, want 3", made.Load())
	}
	wantRoom(t, f.Manager, 0, 1<<62-3<<20)
	for name := range f.states(t) {
		f.create(t, name) // what is there is not one more
		f.delete(t, name)
		break
	}
	f.create(t, "pvc-7")
	if _, err := f.Create(t.Context(), spec(t, "pvc-8")); !errors.Is(err, volume.ErrNoSpace) || errors.Is(err, export.ErrNoIDs) {
		t.Errorf("got error %v, want %v", err, volume.ErrNoSpace)
	}
}
