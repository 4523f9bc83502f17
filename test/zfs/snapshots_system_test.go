//go:build system

package zfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/test/vm"
)

func (s *site) snapshot(t *testing.T, name string, of volume.Volume) volume.Volume {
	t.Helper()
	n, err := volume.ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	request := volume.SnapshotSpec{Name: n, Of: of.Name, Namespace: of.Claim.Namespace, Cluster: of.Cluster}
	return untilDone(t, func() (volume.Volume, error) { return s.manager.Snapshot(t.Context(), request) })
}

func (s *site) restore(t *testing.T, name string, snapshot volume.Volume) volume.Volume {
	t.Helper()
	return s.create(t, name, func(r *volume.Spec) { r.From = &volume.Source{Volume: snapshot.SnapshotOf, Snapshot: snapshot.Name} })
}

func (s *site) deleteSnapshot(t *testing.T, v volume.Volume) {
	t.Helper()
	if err := s.manager.DeleteSnapshot(t.Context(), v.Name, v.Cluster); err != nil {
		t.Fatal(err)
	}
}

// untilEmpty waits until nothing is left in the pool.
func (s *site) untilEmpty(t *testing.T) {
	t.Helper()
	const patience = 5 * time.Minute
	for until := time.Now().Add(patience); ; time.Sleep(time.Second) {
		left := vm.Sh(t, `zfs list -rHo name -t all "$1"`, s.parent)
		if left == s.parent+"\n"+s.parent+"/.berth\n" {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("after %v there are still:\n%s", patience, left)
		}
	}
}

// A volume, its snapshot and what a client has mounted that was restored from it go in any order. What is still
// there holds what it held.
func TestSnapshotsAreDeletedInAnyOrder(t *testing.T) {
	s := serve(t, vm.NewParent(t), byZFS)
	for i, order := range [][]string{
		{"source", "snapshot", "restored"}, {"snapshot", "restored", "source"}, {"restored", "source", "snapshot"},
	} {
		source := s.create(t, fmt.Sprint("source-", i))
		vm.Sh(t, `echo data >"$1/file"`, source.Dir)
		snapshot := s.snapshot(t, fmt.Sprint("snapshot-", i), source)
		vm.Sh(t, `echo other >"$1/file"`, source.Dir)
		restored := s.restore(t, fmt.Sprint("restored-", i), snapshot)
		at, unmountNow := s.mountNFS(t, restored, "4.2")
		remove := map[string]func(){
			"source":   func() { s.delete(t, source) },
			"snapshot": func() { s.deleteSnapshot(t, snapshot) },
			"restored": func() { unmountNow(); s.delete(t, restored) },
		}
		for step, what := range order {
			remove[what]()
			if slices.Contains(order[:step+1], "restored") {
				continue
			}
			if got := vm.Sh(t, `cat "$1/file"; date >"$1/written"`, at); got != "data\n" {
				t.Errorf("after %v what was restored holds %q", order[:step+1], got)
			}
		}
	}
	s.untilEmpty(t)
}

// Who is at the host sees what is in a snapshot. Clients, even as root, see no more than its name, and do nothing to it.
// As long as somebody at the host is in it, it is not deleted.
func TestSnapshotsInSight(t *testing.T) {
	s := serve(t, vm.NewParent(t), byZFS)
	v := s.create(t, "source")
	vm.Sh(t, `echo data >"$1/file"`, v.Dir)
	snapshot := s.snapshot(t, "snapshot", v)
	vm.Sh(t, `echo other >"$1/file"`, v.Dir)
	for _, version := range []string{"3", "4.2"} {
		at, unmountNow := s.mountNFS(t, v, version)
		const script = `cd "$1/.zfs/snapshot"; ls; for try in "cat snapshot/file" "rmdir snapshot" "mv snapshot other" "mkdir new" "touch snapshot/new"; do ! $try; done`
		if got := vm.Sh(t, script, at); got != "snapshot\n" {
			t.Errorf("by version %s a client sees %q", version, got)
		}
		unmountNow()
	}
	file, err := os.Open(filepath.Join(snapshot.Dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if got, err := io.ReadAll(file); err != nil || string(got) != "data\n" {
		t.Errorf("at the host it holds %q, %v", got, err)
	}
	if err := s.manager.DeleteSnapshot(t.Context(), snapshot.Name, snapshot.Cluster); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("deleting it while it is read: got error %v, want %v", err, volume.ErrBusy)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	s.deleteSnapshot(t, snapshot)
	s.delete(t, v)
	s.untilEmpty(t)
}
