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
	listed   int           // how many listings have ended
}

type listing struct {
	changes []func(map[volume.Name]string) // since it began
	stale   bool                           // nobody knows all of these
	moved   []string                       // datasets that were renamed, by both names: it may have seen them at neither
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

// moving gives what moved wants to know, before a dataset gets another name.
func (i *snapshotIndex) moving() (listed int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.listed
}

// moved says that a dataset has another name, and its snapshots with it. listed is what moving gave.
func (i *snapshotIndex) moved(from, to string, listed int) {
	i.change(func(names map[volume.Name]string) {
		for n, name := range names {
			if rest, of := strings.CutPrefix(name, from+"@"); of {
				names[n] = to + "@" + rest
			}
		}
	})
	i.mu.Lock()
	defer i.mu.Unlock()
	for l := range i.listings {
		l.moved = append(l.moved, from, to)
	}
	if i.listed != listed { // what was listed meanwhile may lack them
		i.names = nil
	}
}

// check has all listed anew if d, a snapshot that is ours, is not known: a command whose outcome was not known may have
// made it afterwards.
func (i *snapshotIndex) check(d *dataset) {
	_, last, _ := strings.Cut(d.name, "@")
	if n, err := volume.ParseName(last); err == nil && d.local(propSnapshot) != "" {
		if name, known := i.find(n); known && name != d.name {
			i.lose()
		}
	}
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

// list begins a listing, which end ends.
func (i *snapshotIndex) list() *listing {
	i.mu.Lock()
	defer i.mu.Unlock()
	l := new(listing)
	i.listings[l] = true
	return l
}

// again gives the datasets that l has to look at once more.
func (i *snapshotIndex) again(l *listing) (hosts []string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	hosts, l.moved = l.moved, nil
	return hosts
}

// end takes what l has found, nil if it failed. Only the first one of an l counts.
func (i *snapshotIndex) end(l *listing, found map[volume.Name]string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.listings[l] {
		return
	}
	delete(i.listings, l)
	if found == nil || l.stale || len(l.moved) > 0 {
		return
	}
	for _, how := range l.changes {
		how(found)
	}
	i.names = found
	i.listed++
}
