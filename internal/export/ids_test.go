package export_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/berth-storage/berth/internal/export"
)

const lastID = export.ID(65535)

func idFile(t testing.TB) string { return filepath.Join(t.TempDir(), "export-ids") }

// startIDs opens the file as a process does at its start, with records that hold
// the ids in use.
func startIDs(t testing.TB, path string, inUse ...export.ID) *export.IDs {
	t.Helper()
	s, err := export.OpenIDs(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range inUse {
		if err := s.Reserve(id); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Compact(); err != nil {
		t.Fatal(err)
	}
	return s
}

// allBut gives every id but those named.
func allBut(free ...export.ID) []export.ID {
	var ids []export.ID
	for id := 1; id <= int(lastID); id++ {
		if !slices.Contains(free, export.ID(id)) {
			ids = append(ids, export.ID(id))
		}
	}
	return ids
}

func take(t testing.TB, s *export.IDs) export.ID {
	t.Helper()
	id, err := s.Take()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func free(t testing.TB, s *export.IDs, ids ...export.ID) {
	t.Helper()
	for _, id := range ids {
		if err := s.Free(id); err != nil {
			t.Fatal(err)
		}
	}
}

// wantTakes takes ids until there are none and compares them, in order.
func wantTakes(t testing.TB, s *export.IDs, want ...export.ID) {
	t.Helper()
	var got []export.ID
	for len(got) <= len(want) {
		id, err := s.Take()
		if errors.Is(err, export.ErrNoIDs) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, id)
	}
	if !slices.Equal(got, want) {
		t.Errorf("took %v until none was left, want %v", got, want)
	}
}

func TestNeverUsedIDsComeFirst(t *testing.T) {
	s := startIDs(t, idFile(t))
	for want := export.ID(1); want <= 3; want++ {
		if got := take(t, s); got != want {
			t.Errorf("took %d, want %d", got, want)
		}
	}
	free(t, s, 2)
	if got := take(t, s); got != 4 {
		t.Errorf("took %d after 2 was freed, want 4, which was never used", got)
	}
}

func TestThenTheIDFreedLongestAgo(t *testing.T) {
	s := startIDs(t, idFile(t), allBut(lastID)...)
	wantTakes(t, s, lastID)
	free(t, s, 30, 10, lastID, 20)
	wantTakes(t, s, 30, 10, lastID, 20)
}

func TestOrderOfFreedIDsOutlivesTheProcess(t *testing.T) {
	path := idFile(t)
	s := startIDs(t, path, allBut()...)
	free(t, s, 10, 20)
	if got := take(t, s); got != 10 {
		t.Fatalf("took %d, want 10", got)
	}
	free(t, s, 30, 10) // 10 is in the file twice now: its second time counts
	startIDs(t, path, allBut(10, 20, 30)...)
	// From the file that the second process wrote.
	wantTakes(t, startIDs(t, path, allBut(10, 20, 30)...), 20, 30, 10)
}

// Its old place would put it before those that were freed earlier.
func TestIDWhoseSecondFreeingACrashLostGoesToTheEnd(t *testing.T) {
	path := idFile(t)
	s := startIDs(t, path, allBut()...)
	free(t, s, 10, 20)
	if got := take(t, s); got != 10 {
		t.Fatalf("took %d, want 10", got)
	}
	wantTakes(t, startIDs(t, path, allBut(10, 20)...), 20, 10)
}

// Clients of another program may hold handles with the ids that it gave out.
func TestIDsOfAnotherProgramComeAfterNewOnes(t *testing.T) {
	path := idFile(t)
	s, err := export.OpenIDs(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Reserve(5); err != nil {
		t.Fatal(err)
	}
	s.Pass(77)
	s.Pass(3) // which 77 includes
	if err := s.Compact(); err != nil {
		t.Fatal(err)
	}
	if got := take(t, s); got != 78 {
		t.Errorf("took %d, want 78", got)
	}
	// By their own file, too.
	if got := take(t, startIDs(t, path, 5, 78)); got < 79 {
		t.Errorf("the next process took %d, want one above 78", got)
	}
	s = startIDs(t, path, allBut(4, 6, lastID)...)
	s.Pass(lastID - 1)
	if got := take(t, s); got != lastID {
		t.Errorf("took %d, want %d, which was never used", got, lastID)
	}
}

func TestFreedIDThatARecordHoldsIsNotGivenOut(t *testing.T) {
	path := idFile(t)
	s := startIDs(t, path, allBut()...)
	free(t, s, 10, 20)
	wantTakes(t, startIDs(t, path, allBut(20)...), 20)
}

func TestTornLastLineIsPassedOver(t *testing.T) {
	for _, torn := range []string{"", "f", "freed", "freed ", "freed x", "next", "next ", "\x00\x00\x00", "freed 70000\n", "freed 0\n", "next 70000\n"} {
		t.Run(fmt.Sprintf("%q", torn), func(t *testing.T) {
			path := idFile(t)
			if err := os.WriteFile(path, []byte("next 65536\nfreed 7\nfreed 5\n"+torn), 0o600); err != nil {
				t.Fatal(err)
			}
			wantTakes(t, startIDs(t, path, allBut(5, 7)...), 7, 5)
		})
	}
}

func TestIDsThatACrashLostGoToTheEndOfTheQueue(t *testing.T) {
	path := idFile(t)
	if err := os.WriteFile(path, []byte("next 65536\nfreed 4\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantTakes(t, startIDs(t, path, allBut(3, 4, 5)...), 4, 3, 5)
}

// A client may have got a handle between Take and the crash.
func TestIDTakenBeforeACrashIsNotTakenForNew(t *testing.T) {
	path := idFile(t)
	s := startIDs(t, path)
	lost := []export.ID{take(t, s), take(t, s), take(t, s)}
	again := startIDs(t, path, lost[0]) // only the first came to be a record
	for range 200 {
		if got := take(t, again); slices.Contains(lost, got) {
			t.Fatalf("took %d again, though ids that were never used are left", got)
		}
	}
}

func TestReserve(t *testing.T) {
	s, err := export.OpenIDs(idFile(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		id export.ID
		ok bool
	}{{0, false}, {3, true}, {3, false}, {1, true}, {lastID, true}, {lastID, false}} {
		if err := s.Reserve(c.id); (err == nil) != c.ok {
			t.Errorf("Reserve(%d): got error %v, want success: %t", c.id, err, c.ok)
		}
	}
}

// Ids that somebody else uses at the server are passed over, new ones and freed ones,
// and the others are not lost by that.
func TestAvoidedIDsAreNotGivenOut(t *testing.T) {
	path := idFile(t)
	s := startIDs(t, path)
	s.Avoid(2)
	s.Avoid(lastID)
	for _, want := range []export.ID{1, 3, 4} {
		if got := take(t, s); got != want {
			t.Errorf("took %d, want %d", got, want)
		}
	}
	s = startIDs(t, path, allBut(7, 8, 9)...)
	s.Avoid(8)
	wantTakes(t, s, 7, 9)
	wantTakes(t, startIDs(t, path, allBut(7, 8, 9)...), 8, 7, 9) // in the order in which they were last in use
}

func TestIDsBehindAReservedOneAreNew(t *testing.T) {
	s := startIDs(t, idFile(t), 1, 500)
	if got := take(t, s); got != 501 {
		t.Errorf("took %d, want 501: ids below 500 may have been used", got)
	}
}

func TestReturnedIDIsTheNextOfTheFreed(t *testing.T) {
	s := startIDs(t, idFile(t), allBut(20)...)
	got := take(t, s)
	free(t, s, 10)
	s.Return(got)
	wantTakes(t, s, 20, 10)
}

func TestFreeingTwiceGivesOneID(t *testing.T) {
	s := startIDs(t, idFile(t), allBut()...)
	free(t, s, 10, 10)
	wantTakes(t, s, 10)
}

func TestEveryIDIsGivenOutOnce(t *testing.T) {
	// Of those below the last one in use nobody knows whether they were used.
	var inUse []export.ID
	for id := export.ID(10); id <= 65000; id++ {
		inUse = append(inUse, id)
	}
	s := startIDs(t, idFile(t), inUse...)
	seen := make(map[export.ID]bool)
	for {
		id, err := s.Take()
		if errors.Is(err, export.ErrNoIDs) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if id == 0 || seen[id] || slices.Contains(inUse, id) {
			t.Fatalf("took %d, which is in use", id)
		}
		seen[id] = true
	}
	if got, want := len(seen), int(lastID)-len(inUse); got != want {
		t.Errorf("took %d ids, want all %d", got, want)
	}
}

func TestTakesAtTheSameTimeDiffer(t *testing.T) {
	s := startIDs(t, idFile(t))
	const takers, each = 8, 50
	ids := make(chan export.ID, takers*each)
	var wait sync.WaitGroup
	for range takers {
		wait.Go(func() {
			for range each {
				id, err := s.Take()
				if err != nil {
					t.Error(err)
				}
				ids <- id
			}
		})
	}
	wait.Wait()
	close(ids)
	seen := make(map[export.ID]bool)
	for id := range ids {
		seen[id] = true
	}
	if got := len(seen); got != takers*each {
		t.Errorf("%d takes gave %d different ids", takers*each, got)
	}
}

func TestNoIDWithoutItsLineInTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "absent", "export-ids")
	s, err := export.OpenIDs(path)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := s.Take(); err == nil {
		t.Errorf("took %d, but a crash would make it look new", id)
	}
	if err := s.Compact(); err != nil { // makes the folder
		t.Fatal(err)
	}
	if got := take(t, s); got != 1 {
		t.Errorf("took %d, want 1", got)
	}
}

func TestIDsGoOnAfterTheFileCouldNotBeWrittenAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "export-ids")
	startIDs(t, path, 500)
	s, err := export.OpenIDs(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []export.ID{500, 900} { // 900 is beyond what the file says
		if err := s.Reserve(id); err != nil {
			t.Fatal(err)
		}
	}
	folder := filepath.Dir(path)
	if err := errors.Join(os.Rename(folder, folder+".away"), os.WriteFile(folder, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := s.Compact(); err == nil {
		t.Error("Compact wrote a file where there is no folder")
	}
	if err := errors.Join(os.Remove(folder), os.Rename(folder+".away", folder)); err != nil {
		t.Fatal(err)
	}
	lost := take(t, s)
	if lost != 901 {
		t.Errorf("took %d, want 901", lost)
	}
	if got := take(t, startIDs(t, path, 500)); got <= lost {
		t.Errorf("took %d after a crash, want one above %d, which was taken", got, lost)
	}
}

func TestUnreadableIDFileIsAnError(t *testing.T) {
	if _, err := export.OpenIDs(t.TempDir()); err == nil {
		t.Error("opened a folder as the file of ids")
	}
}

// TestNoIDComesBackWhileNewOnesAreLeft takes and frees ids at random, over
// restarts of a process that forgets what it has not recorded.
func TestNoIDComesBackWhileNewOnesAreLeft(t *testing.T) {
	path := idFile(t)
	random := rand.New(rand.NewPCG(1, 2))
	s := startIDs(t, path)
	ever := make(map[export.ID]bool)
	var inUse []export.ID
	for range 600 {
		switch n := random.IntN(20); {
		case n == 0:
			s = startIDs(t, path, inUse...)
		case n < 8 && len(inUse) > 0:
			i := random.IntN(len(inUse))
			free(t, s, inUse[i])
			inUse = slices.Delete(inUse, i, i+1)
		default:
			id := take(t, s)
			if ever[id] {
				t.Fatalf("took %d a second time", id)
			}
			ever[id] = true
			if random.IntN(10) > 0 { // else a crash comes before the record
				inUse = append(inUse, id)
			}
		}
	}
}

// FuzzIDFile: whatever the file holds, no id is given out twice or while a
// record holds it.
func FuzzIDFile(f *testing.F) {
	f.Add("next 65536\nfreed 7\nfreed 5\n")
	f.Add("freed 65534\nfreed 65534\n")
	f.Add("next -1\nfreed -1\nnext 99999999999999999999\n")
	f.Add("next 65535freed 65535\n\x00\x00\x00")
	f.Fuzz(func(t *testing.T, text string) {
		path := idFile(t)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var records []export.ID // of a server with few ids left, which is quick
		for id := export.ID(50); id <= 65500; id++ {
			records = append(records, id)
		}
		s, err := export.OpenIDs(path)
		if err != nil {
			return // refusing to start is safe
		}
		taken := make(map[export.ID]bool)
		for _, id := range records {
			taken[id] = true
			if err := s.Reserve(id); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Compact(); err != nil {
			t.Fatal(err)
		}
		for {
			id, err := s.Take()
			if errors.Is(err, export.ErrNoIDs) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if id == 0 || taken[id] {
				t.Fatalf("took %d, which is in use", id)
			}
			taken[id] = true
		}
		if got, want := len(taken), int(lastID); got != want {
			t.Errorf("%d ids could be used, want all %d", got, want)
		}
	})
}

// A server without export ids.
func TestNilIDs(t *testing.T) {
	var ids *export.IDs
	ids.Pass(7)
	ids.Avoid(7)
	for range 3 {
		if err := ids.Reserve(0); err != nil {
			t.Error(err)
		}
		if id, err := ids.Take(); id != 0 || err != nil {
			t.Errorf("Take gives %d, %v", id, err)
		}
	}
	ids.Return(0)
	if err := errors.Join(ids.Compact(), ids.Free(0)); err != nil {
		t.Error(err)
	}
}
