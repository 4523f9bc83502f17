//go:build system

package zfs_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/backend/zfs"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

func taken(t *testing.T, b *zfs.Backend, name, of string) volume.Volume {
	t.Helper()
	v, err := b.Snapshot(t.Context(), volumetest.SnapshotSpec(t, name, of), nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// slow is a Runner that calls meanwhile after it has listed snapshots, before it gives what it found.
type slow struct {
	zfs.Runner
	meanwhile func()
	once      sync.Once
	listed    int
}

func (s *slow) Output(ctx context.Context, argv []string) ([]byte, error) {
	out, err := s.Runner.Output(ctx, argv)
	if slices.Contains(argv, "-slocal") {
		s.listed++
		if s.meanwhile != nil {
			s.once.Do(s.meanwhile)
		}
	}
	return out, err
}

// With tens of thousands of snapshots a list takes its time, and nobody waits for it.
func TestWhatHappensToSnapshotsWhileTheyAreListed(t *testing.T) {
	r := &slow{Runner: here}
	b := open(t, zfs.Options{Dataset: parent(t), Local: true, Runner: r})
	made(t, b, "pvc-1")
	for _, n := range []string{"snap-deleted", "snap-moved"} {
		taken(t, b, n, "pvc-1")
	}
	r.meanwhile = func() {
		taken(t, b, "snap-new", "pvc-1")
		if err := b.Discard(t.Context(), name(t, "snap-deleted")); err != nil {
			t.Error(err)
		}
		if err := b.Discard(t.Context(), name(t, "pvc-1")); err != nil {
			t.Error(err)
		}
	}
	for _, err := range b.List(t.Context()) {
		if err != nil {
			t.Error(err)
		}
	}
	for _, n := range []string{"snap-new", "snap-moved"} {
		if v, err := b.Get(t.Context(), name(t, n)); err != nil || v.State != volume.StateSnapshot {
			t.Errorf("%s: %+v, %v", n, v, err)
		}
	}
	if v, err := b.Get(t.Context(), name(t, "snap-deleted")); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("what was deleted is %+v, %v", v, err)
	}
}

func TestASnapshotThatSomebodyGaveToACloneIsFound(t *testing.T) {
	dataset := parent(t)
	b := open(t, zfs.Options{Dataset: dataset, Local: true})
	made(t, b, "pvc-1")
	taken(t, b, "snap-1", "pvc-1")
	s := volumetest.Spec(t, "pvc-2")
	s.From = &volume.Source{Volume: name(t, "pvc-1"), Snapshot: name(t, "snap-1")}
	if _, err := b.Clone(t.Context(), s, nil); err != nil {
		t.Fatal(err)
	}
	zfsRun(t, "promote", dataset+"/pvc-2")
	if v, err := b.Get(t.Context(), name(t, "snap-1")); err != nil || v.SnapshotOf.String() != "pvc-1" {
		t.Errorf("who is told that it is gone deletes its VolumeSnapshot: %+v, %v", v, err)
	}
}

// An unreadable record is not a missing one.
func TestASnapshotThatCannotBeReadIsNotGone(t *testing.T) {
	dataset := parent(t)
	b := open(t, zfs.Options{Dataset: dataset, Local: true})
	made(t, b, "pvc-1")
	for _, n := range []string{"snap-1", "snap-2"} {
		taken(t, b, n, "pvc-1")
	}
	zfsRun(t, "set", "berth:snapshot={", dataset+"/pvc-1@snap-1")
	zfsRun(t, "rename", dataset+"/pvc-1@snap-2", dataset+"/pvc-1@other")
	bad := 0
	for _, err := range b.List(t.Context()) {
		if err != nil {
			bad++
		}
	}
	if bad != 2 {
		t.Errorf("%d are told of, want 2", bad)
	}
	for _, n := range []string{"snap-1", "snap-2"} {
		if v, err := b.Get(t.Context(), name(t, n)); err == nil || errors.Is(err, volume.ErrNotFound) {
			t.Errorf("Get of %s: %+v, %v", n, v, err)
		}
		if err := b.Discard(t.Context(), name(t, n)); err == nil || errors.Is(err, volume.ErrNotFound) {
			t.Errorf("Discard of %s: %v", n, err)
		}
	}
}

// What they find may be as large as the whole pool's records.
func TestOneListsSnapshotsForAllWhoAsk(t *testing.T) {
	r := &slow{Runner: here}
	o := zfs.Options{Dataset: parent(t), Local: true, Runner: r}
	b := open(t, o)
	made(t, b, "pvc-1")
	b.Close()
	b, r.listed = open(t, o), 0
	var asking sync.WaitGroup
	for range 20 {
		asking.Go(func() {
			if v, err := b.Get(t.Context(), name(t, "snap-1")); !errors.Is(err, volume.ErrNotFound) {
				t.Errorf("%+v, %v", v, err)
			}
		})
	}
	asking.Wait()
	if r.listed != 1 {
		t.Errorf("listed %d times", r.listed)
	}
}

// All snapshots are found, of however many volumes, among those of others.
func TestSnapshotsAreFoundAmongOthers(t *testing.T) {
	dataset := parent(t)
	b := open(t, zfs.Options{Dataset: dataset, Local: true, Sizing: volume.SizingIgnore})
	var want []string
	for i := range 55 { // more than one command is asked about
		v, s := fmt.Sprint("pvc-", i), fmt.Sprint("snap-", i)
		made(t, b, v)
		taken(t, b, s, v)
		want = append(want, v, s)
	}
	slices.Sort(want)
	zfsRun(t, "snapshot", "-r", dataset+"@theirs")
	var got []string
	for v, err := range b.List(t.Context()) {
		if err != nil {
			t.Error(err)
			continue
		}
		got = append(got, v.Name.String())
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
}

// late is a Runner whose snapshots are taken when nobody waits for them any more: the first before the second.
type late struct {
	zfs.Runner
	first []string
}

func (l *late) Output(ctx context.Context, argv []string) ([]byte, error) {
	if argv[1] != "snapshot" {
		return l.Runner.Output(ctx, argv)
	}
	if l.first == nil {
		l.first = argv
		return nil, errors.New("the connection was lost")
	}
	if _, err := l.Runner.Output(ctx, l.first); err != nil {
		return nil, err
	}
	return l.Runner.Output(ctx, argv)
}

func TestASnapshotThatIsTakenLateIsFound(t *testing.T) {
	b := open(t, zfs.Options{Dataset: parent(t), Local: true, Runner: &late{Runner: here}})
	made(t, b, "pvc-1")
	s := volumetest.SnapshotSpec(t, "snap-1", "pvc-1")
	if _, err := b.Snapshot(t.Context(), s, nil); !errors.Is(err, volume.ErrUnknown) {
		t.Errorf("while nobody knows: got error %v, want %v", err, volume.ErrUnknown)
	}
	taken(t, b, "snap-1", "pvc-1")
	if v, err := b.Get(t.Context(), s.Name); err != nil || !v.IsSnapshot(s) {
		t.Errorf("it is %+v, %v", v, err)
	}
}

// One that is taken so late that nobody asks for it again is known when its volume is to be freed.
func TestASnapshotThatNobodyAskedForAgainIsFound(t *testing.T) {
	dataset := parent(t)
	l := &late{Runner: here}
	b := open(t, zfs.Options{Dataset: dataset, Local: true, Runner: l})
	v := made(t, b, "pvc-1")
	s := volumetest.SnapshotSpec(t, "snap-1", "pvc-1")
	if _, err := b.Snapshot(t.Context(), s, nil); !errors.Is(err, volume.ErrUnknown) {
		t.Errorf("got error %v, want %v", err, volume.ErrUnknown)
	}
	if _, err := b.Get(t.Context(), s.Name); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("before it is there: got error %v, want %v", err, volume.ErrNotFound)
	}
	zfsRun(t, l.first[1:]...)
	if err := b.Discard(t.Context(), v.Name); err != nil {
		t.Fatal(err)
	}
	if err := b.Purge(t.Context(), v.Name); !errors.Is(err, volume.ErrCloned) {
		t.Errorf("Purge: got error %v, want %v", err, volume.ErrCloned)
	}
	if err := errors.Join(b.Discard(t.Context(), s.Name), b.Purge(t.Context(), v.Name)); err != nil { // as the scavenger does
		t.Error(err)
	}
	if left := zfsRun(t, "list", "-H", "-r", "-t", "all", "-o", "name", dataset); left != dataset+"\n"+dataset+"/.berth" {
		t.Errorf("left are\n%s", left)
	}
}
