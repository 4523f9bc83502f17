package volume

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// paths knows what lies where in a pool: the paths of all records but those of discarded
// volumes. No two are the same, or one inside of the other, except as add allows.
type paths struct {
	mu  sync.Mutex
	top folder
	of  map[Name][]RelPath
}

// folder is an element of paths. One with nothing at it or below is removed.
type folder struct {
	here  []Volume // which have this very path
	below map[string]*folder
}

// add says that v has p from now on. It is refused if p is inside of another volume's
// path, or around one. The very path of another one it may have if both are Shared, or
// if that is the one whose content v gets.
func (x *paths) add(v Volume, p RelPath) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.inTheWay(v, p); err != nil {
		return err
	}
	x.put(v, p)
	return nil
}

// hold says that v lies where its record says, and nowhere else, whatever is in the way;
// its error only tells of that. Meanwhile nobody gets v's place.
func (x *paths) hold(v Volume) (err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.drop(v)
	for _, p := range v.places() {
		if inTheWay := x.inTheWay(v, p); inTheWay != nil {
			err = inTheWay
		}
		x.put(v, p)
	}
	return err
}

func (x *paths) inTheWay(v Volume, p RelPath) error {
	f := &x.top
	for element := range strings.SplitSeq(p.s, "/") {
		for _, o := range f.here {
			if o.Name != v.Name {
				return overlap(v, p, "lies inside that of", o)
			}
		}
		if f = f.below[element]; f == nil {
			return nil
		}
	}
	for _, o := range f.here {
		if !togetherWith(o, v) {
			return overlap(v, p, "is that of", o)
		}
	}
	if o, found := f.inside(v.Name); found {
		return overlap(v, p, "lies around that of", o)
	}
	return nil
}

// togetherWith says whether two volumes may have one path.
func togetherWith(o, v Volume) bool {
	return o.Name == v.Name || o.Shared && v.Shared || o.Name == v.RestoredFrom || v.Name == o.RestoredFrom
}

// inside gives a volume below f that is not called but.
func (f *folder) inside(but Name) (Volume, bool) {
	for _, sub := range f.below {
		for _, o := range sub.here {
			if o.Name != but {
				return o, true
			}
		}
		if o, found := sub.inside(but); found {
			return o, true
		}
	}
	return Volume{}, false
}

func overlap(v Volume, p RelPath, how string, o Volume) error {
	do := "choose another path"
	if o.State == StateRetained || o.State == StateArchived {
		do += fmt.Sprintf(", or remove that volume, which is %s", o.State)
	}
	return fmt.Errorf("%w: volume %s: its path %s %s volume %s of claim %s: %s", ErrExists, v.Name, p, how, o.Name, o.Claim, do)
}

// put needs the lock.
func (x *paths) put(v Volume, p RelPath) {
	f := &x.top
	for element := range strings.SplitSeq(p.s, "/") {
		sub := f.below[element]
		if sub == nil {
			if f.below == nil {
				f.below = make(map[string]*folder)
			}
			sub = &folder{}
			f.below[element] = sub
		}
		f = sub
	}
	f.here = append(slices.DeleteFunc(f.here, v.isSame), v)
	if x.of == nil {
		x.of = make(map[Name][]RelPath)
	}
	if !slices.Contains(x.of[v.Name], p) {
		x.of[v.Name] = append(x.of[v.Name], p)
	}
}

func (v Volume) isSame(o Volume) bool { return v.Name == o.Name }

// remove says that v has no path any more.
func (x *paths) remove(v Volume) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.drop(v)
}

func (x *paths) drop(v Volume) {
	for _, p := range x.of[v.Name] {
		x.top.remove(v, strings.Split(p.s, "/"))
	}
	delete(x.of, v.Name)
}

func (f *folder) remove(v Volume, elements []string) {
	if len(elements) == 0 {
		f.here = slices.DeleteFunc(f.here, v.isSame)
		return
	}
	sub := f.below[elements[0]]
	if sub == nil {
		return
	}
	sub.remove(v, elements[1:])
	if len(sub.here)+len(sub.below) == 0 {
		delete(f.below, elements[0])
	}
}

// closed says that v is on its way out of its paths, so that nobody joins it there.
func (x *paths) closed(v Volume) {
	x.mu.Lock()
	defer x.mu.Unlock()
	v.Shared = false
	for _, p := range x.of[v.Name] {
		x.put(v, p)
	}
}

// at gives the volumes that have this very path.
func (x *paths) at(p RelPath) []Volume {
	x.mu.Lock()
	defer x.mu.Unlock()
	if f := x.top.find(p); f != nil {
		return slices.Clone(f.here)
	}
	return nil
}

// with gives a volume other than v that lies below v's path, or that has it and may not.
func (x *paths) with(v Volume) (Volume, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	f := x.top.find(v.Path)
	if f == nil {
		return Volume{}, false
	}
	for _, o := range f.here {
		if !togetherWith(o, v) {
			return o, true
		}
	}
	return f.inside(v.Name)
}

func (f *folder) find(p RelPath) *folder {
	for element := range strings.SplitSeq(p.s, "/") {
		if f = f.below[element]; f == nil {
			return nil
		}
	}
	return f
}
