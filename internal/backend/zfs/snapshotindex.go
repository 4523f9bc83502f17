package zfs

import (
	"strings"
	"sync"

	"github.com/berth-storage/berth/internal/volume"
)

// snapshotIndex knows the full names of our snapshots, so that nobody has to list them all to find one.
type snapshotIndex struct {
	mu    sync.Mutex
	names map[volume.Name]string // nil if they have to be looked for
	// listings are under way. What they find may be older than what has changed since they began.
	listings map[*listing]bool
	looking  chan struct{} // holds one token while somebody lists to find a snapshot
}

type listing struct {
	changes []func(map[volume.Name]string) // since it began
	stale   bool                           // nobody knows all of these
}

func newSnapshotIndex() *snapshotIndex {
	return &snapshotIndex{listings: map[*listing]bool{}, looking: make(chan struct{}, 1)}
}

// find gives the full name of n, "" if there is none; known is false if they have to be listed.
func (i *snapshotIndex) find(n volume.Name) (name string, known bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.names[n], i.names != nil
}

func (i *snapshotIndex) change(how func(map[volume.Name]string)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.names != nil {
		how(i.names)
	}
	for l := range i.listings {
		l.changes = append(l.changes, how)
	}
}

func (i *snapshotIndex) add(n volume.Name, name string) {
	i.change(func(names map[volume.Name]string) { names[n] = name })
}

func (i *snapshotIndex) remove(n volume.Name) {
	i.change(func(names map[volume.Name]string) { delete(names, n) })
}

// moved says that a dataset has another name, and its snapshots with it.
func (i *snapshotIndex) moved(from, to string) {
	i.change(func(names map[volume.Name]string) {
		for n, name := range names {
			if rest, of := strings.CutPrefix(name, from+"@"); of {
				names[n] = to + "@" + rest
			}
		}
	})
}

// lose is for when snapshots may be elsewhere. They are listed before the next answer.
func (i *snapshotIndex) lose() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.names = nil
	for l := range i.listings {
		l.stale = true
	}
}

// list begins a listing; done takes what it found, nil if it failed.
func (i *snapshotIndex) list() (done func(found map[volume.Name]string)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	l := new(listing)
	i.listings[l] = true
	return func(found map[volume.Name]string) {
		i.mu.Lock()
		defer i.mu.Unlock()
		delete(i.listings, l)
		if found == nil || l.stale {
			return
		}
		for _, how := range l.changes {
			how(found)
		}
		i.names = found
	}
}
