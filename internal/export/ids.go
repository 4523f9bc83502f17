package export

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// ErrNoIDs says that all 65,535 export ids of a server are in use.
var ErrNoIDs = errors.New("no export id is free")

// aheadIDs is how many new ids are reserved by one write of the file. After a
// crash the unused rest of them counts as freed, which costs nothing.
const aheadIDs = 64

// IDs gives out the export ids of one server. A client may hold a file handle
// of a deleted volume, and the handle holds the export id: if a new volume took
// the id, the handle could be valid again. So ids that were never used come
// first, and after them the one that was freed longest ago.
//
// The file at path holds that order: lines "next N" (ids from N on were never
// given out), "freed N" and "taken N". Which ids are in use is not in it: the volumes'
// records say that, by Reserve, before Compact is called.
//
// A nil *IDs is that of a server that has no export ids: it gives out 0, always.
type IDs struct {
	mu    sync.Mutex
	path  string
	next  int    // never given out by this process or an earlier one
	ahead int    // "next" as the file has it; always >= next
	freed []ID   // longest ago first
	used  []bool // by id
}

// OpenIDs reads the file at path; it need not exist.
func OpenIDs(path string) (*IDs, error) {
	s := &IDs{path: path, next: 1, ahead: 1, used: make([]bool, 1<<16)}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the order of export ids: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var n int
		// A torn last line (power failure) matches neither form and is passed over.
		if _, err := fmt.Sscanf(lines.Text(), "next %d", &n); err == nil && n <= 1<<16 {
			s.next = max(s.next, n)
		} else if _, err := fmt.Sscanf(lines.Text(), "freed %d", &n); err == nil && n > 0 && n < 1<<16 {
			s.freed = append(s.freed, ID(n))
			s.next = max(s.next, n+1) // also if the file lost its "next" line
		} else if _, err := fmt.Sscanf(lines.Text(), "taken %d", &n); err == nil {
			s.freed = slices.DeleteFunc(s.freed, func(id ID) bool { return int(id) == n })
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading the order of export ids: %w", err)
	}
	s.ahead = s.next
	return s, nil
}

// Reserve says that a record holds id. It is an error if another one does too.
func (s *IDs) Reserve(id ID) error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if id == 0 {
		return errors.New("export id 0 is the server's own")
	}
	if s.used[id] {
		return fmt.Errorf("export id %d is already another volume's", id)
	}
	s.used[id] = true
	s.next = max(s.next, int(id)+1)
	return nil
}

// Pass says that another program has given out the ids up to last. Its clients may hold
// handles with them, so they count as used once and freed just now.
func (s *IDs) Pass(last ID) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = max(s.next, int(last)+1)
}

// Avoid keeps id from being given out, in this run: somebody else uses it at the
// server.
func (s *IDs) Avoid(id ID) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[id] = true
}

// Compact writes the file anew, once all records have reserved theirs. An id
// below "next" that is neither in use nor listed was lost to a crash: nobody
// knows when it was freed, so it goes to the end of the queue.
func (s *IDs) Compact() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	listed := make([]bool, 1<<16)
	var queue []ID
	for _, id := range slices.Backward(s.freed) { // of an id listed twice the last line counts
		if !s.used[id] && !listed[id] {
			listed[id] = true
			queue = append(queue, id)
		}
	}
	slices.Reverse(queue)
	for id := 1; id < s.next; id++ {
		if !s.used[id] && !listed[id] {
			queue = append(queue, ID(id))
		}
	}
	s.freed = queue
	ahead := max(s.ahead, s.next)
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return fmt.Errorf("writing the order of export ids: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(s.path), filepath.Base(s.path)+".*")
	if err != nil {
		return fmt.Errorf("writing the order of export ids: %w", err)
	}
	defer os.Remove(f.Name())
	w := bufio.NewWriter(f)
	fmt.Fprintf(w, "next %d\n", ahead)
	for _, id := range s.freed {
		fmt.Fprintf(w, "freed %d\n", id)
	}
	err = errors.Join(w.Flush(), f.Sync(), f.Close())
	if err == nil { // else the old file is better than this one
		err = os.Rename(f.Name(), s.path)
	}
	if err != nil {
		return fmt.Errorf("writing the order of export ids: %w", err)
	}
	s.ahead = ahead
	return nil
}

// Take gives out an id. It is the caller's until Free or Return.
func (s *IDs) Take() (ID, error) {
	if s == nil {
		return 0, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.next < 1<<16 && s.used[s.next] { // one to avoid
		s.next++
	}
	for len(s.freed) > 0 && s.used[s.freed[0]] {
		s.freed = s.freed[1:]
	}
	if s.next < 1<<16 {
		if s.next >= s.ahead {
			// Ahead of use, so that no crash makes a used id look like a new one.
			ahead := min(s.next+aheadIDs, 1<<16)
			if err := s.append(fmt.Sprintf("next %d\n", ahead), true); err != nil {
				return 0, err
			}
			s.ahead = ahead
		}
		id := ID(s.next)
		s.next++
		s.used[id] = true
		return id, nil
	}
	if len(s.freed) == 0 {
		return 0, ErrNoIDs
	}
	id := s.freed[0]
	// If it is freed by a run that a crash cuts off, its old place must not count.
	if err := s.append(fmt.Sprintf("taken %d\n", id), false); err != nil {
		return 0, err
	}
	s.freed = s.freed[1:]
	s.used[id] = true
	return id, nil
}

// Return gives back an id that was never exported: it may be the next one taken.
func (s *IDs) Return(id ID) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[id] = false
	s.freed = append([]ID{id}, s.freed...)
}

// Free gives back the id of a volume whose data is purged.
func (s *IDs) Free(id ID) error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.used[id] {
		return nil
	}
	s.used[id] = false
	s.freed = append(s.freed, id)
	return s.append(fmt.Sprintf("freed %d\n", id), false)
}

// append adds a line to the file. Only "next" has to reach the disk at once: an id
// whose other lines are lost in a power failure goes to the end of the queue, or
// keeps an older place in it.
func (s *IDs) append(line string, sync bool) error {
	f, err := os.OpenFile(s.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("writing the order of export ids: %w", err)
	}
	_, err = f.WriteString(line)
	if err == nil && sync {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing the order of export ids: %w", err)
	}
	return nil
}
