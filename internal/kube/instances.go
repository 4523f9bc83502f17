package kube

import (
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/client-go/tools/cache"
)

// instances knows who else serves the provisioner name, from their Leases.
type instances struct {
	provisioner string
	id, node    string          // our own
	self        func() instance // with the room that there is now
	// blind says that Leases may not be read: then nobody's end is ever noticed.
	blind bool
	now   func() time.Time

	mu     sync.Mutex
	leases map[string]seenLease // by name
}

// seenLease is a Lease and when it was last seen to be renewed, by our own clock.
type seenLease struct {
	lease *coordinationv1.Lease
	at    time.Time
}

func newInstances(provisioner string, self func() instance) *instances {
	us := self()
	return &instances{provisioner: provisioner, id: us.id, node: us.node, self: self, now: time.Now, leases: make(map[string]seenLease)}
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
	old, known := i.leases[lease.Name]
	if known && old.lease.Spec.RenewTime.Equal(lease.Spec.RenewTime) {
		i.leases[lease.Name] = seenLease{lease, old.at}
		return
	}
	i.leases[lease.Name] = seenLease{lease, i.now()}
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

// others are the instances beside ours that hold their Lease, in no order.
func (i *instances) others() []instance {
	i.mu.Lock()
	defer i.mu.Unlock()
	var live []instance
	for _, seen := range i.leases {
		other, ok := parseInstance(seen.lease, i.provisioner)
		holder, lasts := seen.lease.Spec.HolderIdentity, seen.lease.Spec.LeaseDurationSeconds
		if !ok || other.id == i.id || holder == nil || *holder == "" || lasts == nil {
			continue
		}
		if i.now().Sub(seen.at) < time.Duration(*lasts)*time.Second {
			live = append(live, other)
		}
	}
	return live
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

// demand is what a claim needs of an instance.
type demand struct {
	size int64  // bytes
	pool string // "" for the only one
	node string // that its pod was given; "" if that is open
}

// roomFor is how much room i has where d would be; ok is false if it has no such pool.
func (i instance) roomFor(d demand) (room int64, ok bool) {
	if d.pool != "" {
		room, ok = i.room[d.pool]
		return room, ok
	}
	for _, room = range i.room {
		return room, len(i.room) == 1 // of several pools the class has to name one
	}
	return 0, false
}

// rank says how many of all come before the one with that id to serve d: first
// come those with enough room, among them those on the pod's node, then those with
// more room left after what is promised to claims that they took (bytes, by id).
// ok is false if it cannot serve d at all.
func rank(d demand, all []instance, promised map[string]int64, id string) (place int, ok bool) {
	type candidate struct {
		instance
		left int64
	}
	var able []candidate
	for _, i := range all {
		if room, has := i.roomFor(d); has {
			able = append(able, candidate{i, room - promised[i.id]})
		}
	}
	slices.SortFunc(able, func(a, b candidate) int {
		if fits := a.left >= d.size; fits != (b.left >= d.size) {
			return before(fits)
		}
		if near := a.node == d.node; d.node != "" && near != (b.node == d.node) {
			return before(near)
		}
		if a.left != b.left {
			return before(a.left > b.left)
		}
		return strings.Compare(a.id, b.id)
	})
	place = slices.IndexFunc(able, func(c candidate) bool { return c.id == id })
	return place, place >= 0
}

func before(yes bool) int {
	if yes {
		return -1
	}
	return 1
}
