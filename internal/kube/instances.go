package kube

import (
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

// instances knows who serves the provisioner name, from their Leases.
type instances struct {
	provisioner string
	id, node    string          // our own
	self        func() instance // with the room that there is now
	// blind says that Leases may not be read or kept: then nobody's end is ever noticed.
	blind bool
	now   func() time.Time

	mu     sync.Mutex
	leases map[string]*seenLease // by name
	// heard are the last two times that our own Lease was seen to be renewed. The
	// others' Leases run out by it and not by the clock: a watch that stalls, or a
	// process that was stopped, hears of nobody, and must not take all of them for
	// ended. The last but one it is because Leases come one after the other when a
	// watch is begun again.
	heard [2]time.Time
	// joined is when an instance was last seen that was not there before, company
	// when we were last known not to be alone.
	joined, company time.Time
}

// seenLease is what a Lease said when it was last seen to be renewed.
type seenLease struct {
	instance
	serves  bool // it is held by an instance of our provisioner's name
	renewed *metav1.MicroTime
	lasts   time.Duration
	at      time.Time // by our own clock
}

func newInstances(provisioner string, self func() instance) *instances {
	us := self()
	return &instances{provisioner: provisioner, id: us.id, node: us.node, self: self, now: time.Now, leases: make(map[string]*seenLease)}
}

// handler keeps i up to date from an informer of Leases.
func (i *instances) handler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    i.see,
		UpdateFunc: func(_, lease any) { i.see(lease) },
		DeleteFunc: i.forget,
	}
}

func (i *instances) see(object any) {
	lease, ok := object.(*coordinationv1.Lease)
	if !ok {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	seen := &seenLease{renewed: lease.Spec.RenewTime, at: i.now()}
	seen.instance, seen.serves = parseInstance(lease, i.provisioner)
	holder, lasts := lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds
	if holder == nil || *holder == "" || lasts == nil {
		seen.serves = false
	} else {
		seen.lasts = time.Duration(*lasts) * time.Second
	}
	old, known := i.leases[lease.Name]
	if known && old.renewed.Equal(lease.Spec.RenewTime) {
		old.serves = seen.serves // it may be given back
		return
	}
	i.leases[lease.Name] = seen
	switch {
	case !seen.serves:
	case seen.id == i.id:
		i.heard = [2]time.Time{i.heard[1], seen.at}
	case !known || !i.acting(old):
		i.joined = seen.at
	}
}

func (i *instances) forget(object any) {
	if deleted, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = deleted.Obj
	}
	if lease, ok := object.(*coordinationv1.Lease); ok {
		i.mu.Lock()
		defer i.mu.Unlock()
		delete(i.leases, lease.Name)
	}
}

// acting needs the lock.
func (i *instances) acting(l *seenLease) bool { return l.serves && i.heard[0].Sub(l.at) < l.lasts }

// others are the instances beside ours that hold their Leases, in no order.
func (i *instances) others() []instance {
	i.mu.Lock()
	defer i.mu.Unlock()
	var live []instance
	for _, seen := range i.leases {
		if seen.id != i.id && i.acting(seen) {
			live = append(live, seen.clone())
		}
	}
	if len(live) > 0 {
		i.company = i.now()
	}
	return live
}

// all are ours, first, and the others. What ours has left is what it tells the
// others, so that each of them comes to the same order.
func (i *instances) all() []instance {
	others := i.others()
	us, told := i.told()
	if !told {
		us = i.self()
	}
	return slices.Insert(others, 0, us)
}

// told is what our own Lease says; ok is false if it was not seen yet.
func (i *instances) told() (us instance, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, seen := range i.leases {
		if seen.id == i.id && seen.serves {
			return seen.clone(), true
		}
	}
	return instance{}, false
}

// alone says whether nobody else serves the provisioner name, as far as is known.
func (i *instances) alone() bool {
	if i.blind {
		// A DaemonSet's pods are told their node; whoever is may have neighbours.
		return i.node == ""
	}
	return len(i.others()) == 0
}

// acts says whether the instance with that id can be counted on.
func (i *instances) acts(id string) bool {
	return i.blind || id == i.id || slices.ContainsFunc(i.others(), func(o instance) bool { return o.id == id })
}

// changes say when an instance last joined, and when there was last another one.
func (i *instances) changes() (joined, company time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.joined, i.company
}

// made says that a volume was made of which the instance with that id has not told
// yet how much room it left.
func (i *instances) made(id string, d demand) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, seen := range i.leases {
		if seen.id == id {
			seen.promise(d)
		}
	}
}

// demand is what a claim needs of an instance.
type demand struct {
	size int64  // bytes
	pool string // the class's parameter: names in order, or "" for the only one
	node string // that its pod was given; "" if that is open
}

func (i instance) clone() instance {
	i.room = maps.Clone(i.room)
	return i
}

// poolFor is the pool of i that d would be in; ok is false if it has no such pool.
func (i instance) poolFor(d demand) (pool string, ok bool) {
	for _, name := range poolNames(d.pool) {
		r, has := i.room[name]
		if has && (!ok || i.room[pool].Free < d.size && r.Free >= d.size) {
			pool, ok = name, true
		}
	}
	if d.pool != "" {
		return pool, ok
	}
	for pool = range i.room {
		return pool, len(i.room) == 1 // of several pools the class has to name one
	}
	return "", false
}

// serves says whether i has a pool for d, with room or without.
func (i instance) serves(d demand) bool {
	names := poolNames(d.pool) // without any, it may be that its pools name the class
	return len(names) == 0 || slices.ContainsFunc(names, func(name string) bool { _, has := i.room[name]; return has })
}

// fits says whether d can be made by i.
func (i instance) fits(d demand) bool {
	pool, ok := i.poolFor(d)
	return ok && i.room[pool].Free >= d.size
}

// promise takes d's size from what i has not promised yet. A claim that i cannot
// serve takes nothing: it may stay for ever.
func (i instance) promise(d demand) {
	if !i.fits(d) {
		return
	}
	pool, _ := i.poolFor(d)
	left := i.room[pool]
	left.Unpromised = max(left.Unpromised, math.MinInt64+d.size) - d.size
	i.room[pool] = left
}

// compare orders instances by who should serve d: first come those with the pool,
// among them those where it fits without more being promised than there is, then
// those where it fits; then those on the pod's node; then those with more left.
func (d demand) compare(a, b instance) int {
	rank := func(i instance) (grade int, left int64) {
		pool, ok := i.poolFor(d)
		switch r := i.room[pool]; {
		case !ok:
			return 3, 0
		case r.Free < d.size:
			return 2, r.Unpromised
		case r.Unpromised < d.size:
			return 1, r.Unpromised
		default:
			return 0, r.Unpromised
		}
	}
	gradeA, leftA := rank(a)
	gradeB, leftB := rank(b)
	switch near := a.node == d.node; {
	case gradeA != gradeB:
		return before(gradeA < gradeB)
	case d.node != "" && near != (b.node == d.node):
		return before(near)
	case leftA != leftB:
		return before(leftA > leftB)
	default:
		return strings.Compare(a.id, b.id)
	}
}

func before(yes bool) int {
	if yes {
		return -1
	}
	return 1
}
