package dir_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

// clusters opens one root as several clusters.
func clusters(t *testing.T, names ...string) []*pool {
	t.Helper()
	root := t.TempDir()
	var all []*pool
	for _, n := range names {
		all = append(all, openWith(t, root, dir.Options{Cluster: n, ArchiveBeside: true}))
	}
	return all
}

func TestClustersHaveTheirOwn(t *testing.T) {
	both := clusters(t, "east", "west")
	if both[0].Identity() == both[1].Identity() {
		t.Error("two clusters have one identity")
	}
	for i, p := range both {
		v := createAt(t, p, "pvc-1", fmt.Sprint("ns", i, "/a")) // the same name in both
		mark(t, v)
	}
	drop(t, both[0], createAt(t, both[0], "pvc-1", "ns0/a"))
	wantContent(t, filepath.Join(both[1].root, "ns1/a"), "pvc-1")
	there(t, filepath.Join(both[1].root, ".berth/clusters/west/volumes/pvc-1.json"))
	_, err := dir.Open(t.Context(), both[0].root, dir.Options{Cluster: "west"})
	if _, locked := errors.AsType[*dir.LockedError](err); !locked {
		t.Errorf("a second process of one cluster: %v", err)
	}
	for _, bad := range []string{"..", ".hidden", "a/b"} {
		if b, err := dir.Open(t.Context(), both[0].root, dir.Options{Cluster: bad}); err == nil {
			_ = b.Close()
			t.Errorf("opened for a cluster called %q", bad)
		}
	}
}

func TestClustersDoNotOverlap(t *testing.T) {
	for _, c := range []struct{ first, second string }{{"east", "west"}, {"", "west"}, {"east", ""}} {
		t.Run(c.first+" "+c.second, func(t *testing.T) {
			both := clusters(t, c.first, c.second)
			theirs := createAt(t, both[0], "pvc-1", "ns/a")
			mark(t, theirs)
			for _, path := range []string{"ns/a", "ns/a/b", "ns"} {
				for _, policy := range []volume.Existing{volume.ExistingReuse, volume.ExistingShare} {
					s := volumetest.SpecAt(t, "pvc-2", path)
					s.Existing = policy
					if _, err := both[1].Create(t.Context(), s); !errors.Is(err, volume.ErrForeign) {
						t.Errorf("%s, %s: got error %v, want %v", path, policy, err, volume.ErrForeign)
					}
				}
			}
			if got := listed(t, both[1]); got != "" {
				t.Errorf("records of what was refused are left: %s", got)
			}
			createAt(t, both[1], "pvc-2", "ns/b")
			wantContent(t, theirs.Dir, "pvc-1")
		})
	}
}

func TestWhatClustersKeepIsTheirs(t *testing.T) {
	both := clusters(t, "east", "west")
	createAt(t, both[0], "pvc-1", "ns/a")
	theirs := archive(t, both[0], "pvc-1")
	mark(t, theirs)
	s := volumetest.SpecAt(t, "pvc-2", theirs.ArchivePath)
	s.Existing = volume.ExistingReuse
	if _, err := both[1].Create(t.Context(), s); !errors.Is(err, volume.ErrForeign) {
		t.Errorf("got error %v, want %v", err, volume.ErrForeign)
	}
	// An archive does not hold where it was, and two of one path do not collide.
	createAt(t, both[1], "pvc-2", "ns/a")
	if ours := archive(t, both[1], "pvc-2"); ours.ArchivePath != "archived-pvc-2/ns/a" {
		t.Errorf("archived at %s", ours.ArchivePath)
	}
	wantContent(t, theirs.Dir, "pvc-1")
	// Nor does what is discarded, once it is in the trash.
	v := createAt(t, both[0], "pvc-3", "ns/c")
	if err := both[0].Discard(t.Context(), v.Name); err != nil {
		t.Fatal(err)
	}
	createAt(t, both[1], "pvc-3", "ns/c")
}

func TestDamagedRecordsOfOtherClusters(t *testing.T) {
	both := clusters(t, "east", "west")
	theirs := createAt(t, both[0], "pvc-1", "ns/a")
	mark(t, theirs)
	if err := os.WriteFile(filepath.Join(both[0].root, ".berth/clusters/east/volumes/pvc-1.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := volumetest.SpecAt(t, "pvc-2", "ns/a")
	s.Existing = volume.ExistingReuse
	_, err := both[1].Create(t.Context(), s)
	if !errors.Is(err, volume.ErrForeign) || !strings.Contains(err.Error(), "pvc-1.json") {
		t.Errorf("taking over what may be theirs: %v", err)
	}
	createAt(t, both[1], "pvc-2", "ns/b") // what is new is nobody's
	wantContent(t, theirs.Dir, "pvc-1")
}

// A share that does not answer for a moment: nothing is made where another cluster's volume
// may be, and the next try finds that out.
func TestRecordsThatCannotBeReadNow(t *testing.T) {
	both := clusters(t, "east", "west")
	theirs := createAt(t, both[0], "pvc-1", "ns/a")
	record := filepath.Join(both[0].root, ".berth/clusters/east/volumes/pvc-1.json")
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(record), os.Mkdir(record, 0o700)); err != nil { // which read(2) refuses
		t.Fatal(err)
	}
	for _, path := range []string{"ns/a/in/it", "ns/b"} {
		if _, err := both[1].Create(t.Context(), volumetest.SpecAt(t, "pvc-2", path)); !errors.Is(err, volume.ErrUnknown) {
			t.Errorf("another cluster's record: %s: got error %v, want %v", path, err, volume.ErrUnknown)
		}
	}
	if _, err := both[0].Get(t.Context(), theirs.Name); err == nil || errors.Is(err, volume.ErrUnknown) || errors.Is(err, volume.ErrNotFound) {
		t.Errorf("on a disk: got error %v, want that of the file", err)
	}
	dir.TakeForShare(both[0].Backend)
	if _, err := both[0].Get(t.Context(), theirs.Name); !errors.Is(err, volume.ErrUnknown) {
		t.Errorf("on a share: got error %v, want %v", err, volume.ErrUnknown)
	}
	if err := errors.Join(os.Remove(record), os.WriteFile(record, text, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := both[1].Create(t.Context(), volumetest.SpecAt(t, "pvc-2", "ns/a/in/it")); !errors.Is(err, volume.ErrForeign) {
		t.Errorf("in another cluster's volume: got error %v, want %v", err, volume.ErrForeign)
	}
	createAt(t, both[1], "pvc-2", "ns/b")
}

// Of clusters that begin at once, at the most one gets a path.
func TestClustersThatBeginAtOnce(t *testing.T) {
	three := clusters(t, "east", "west", "")
	for round := range 20 {
		var mu sync.Mutex
		var got []int
		var done sync.WaitGroup
		for i, p := range three {
			done.Go(func() {
				s := volumetest.SpecAt(t, fmt.Sprint("pvc-", round), fmt.Sprint("ns/", round, strings.Repeat("/in", i)))
				_, err := p.Create(t.Context(), s)
				if err != nil && !errors.Is(err, volume.ErrForeign) {
					t.Error(err)
				}
				if err == nil {
					mu.Lock()
					defer mu.Unlock()
					got = append(got, i)
				}
			})
		}
		done.Wait()
		if len(got) > 1 {
			t.Errorf("round %d: clusters %v have volumes in one another", round, got)
		}
	}
}

// A run that was cut off between its record and its directory meets another cluster.
func TestABegunVolumeGivesUp(t *testing.T) {
	both := clusters(t, "east", "west")
	v := createAt(t, both[1], "pvc-1", "ns/a")
	v.State = volume.StateCreating
	if _, err := both[1].Update(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(v.Dir); err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(both[0].root, ".berth/clusters/east/volumes/pvc-2.json")
	text := `{"version": 1, "name": "pvc-2", "path": "ns", "state": "ready", "cluster": "c"}`
	if err := os.WriteFile(record, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := both[1].Create(t.Context(), volumetest.SpecAt(t, "pvc-1", "ns/a")); !errors.Is(err, volume.ErrForeign) {
		t.Errorf("got error %v, want %v", err, volume.ErrForeign)
	}
	if got := listed(t, both[1]); got != "" {
		t.Errorf("left is %s", got)
	}
}

// A share that begins further down in the tree of the same server is a pool of its own, of
// whose volumes no record is here.
func TestNothingIsDoneInTheRootOfAnotherPool(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "vol/inner"), 0o755); err != nil {
		t.Fatal(err)
	}
	inner := openWith(t, filepath.Join(root, "vol/inner"), dir.Options{Cluster: "west"})
	theirs := createAt(t, inner, "pvc-1", "ns/a")
	mark(t, theirs)
	outer := openWith(t, root, dir.Options{Cluster: "east"})
	for _, path := range []string{"vol/inner", "vol/inner/ns/a", "vol/inner/ns/b", "vol/inner/new"} {
		for _, policy := range []volume.Existing{volume.ExistingRefuse, volume.ExistingReuse, volume.ExistingShare} {
			s := volumetest.SpecAt(t, "pvc-2", path)
			s.Existing = policy
			_, err := outer.Create(t.Context(), s)
			if !errors.Is(err, volume.ErrForeign) {
				t.Errorf("%s with %s: got error %v, want %v", path, policy, err, volume.ErrForeign)
			}
			if _, err := outer.Get(t.Context(), s.Name); !errors.Is(err, volume.ErrNotFound) {
				t.Errorf("%s with %s: of its record: got error %v", path, policy, err)
			}
		}
	}
	wantContent(t, theirs.Dir, "pvc-1")
	gone(t, filepath.Join(root, "vol/inner/ns/b"), filepath.Join(root, "vol/inner/new"))
	createAt(t, outer, "pvc-3", "vol/beside")
}
