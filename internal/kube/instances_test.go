package kube

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

// with gives an instance that has promised nothing.
func with(id, node string, free int64) instance {
	return instance{id: id, node: node, room: map[string]room{"export": {free, free}}}
}

func TestOrderOfInstances(t *testing.T) {
	promising := func(id, node string, free, unpromised int64) instance {
		return instance{id: id, node: node, room: map[string]room{"export": {free, unpromised}}}
	}
	three := []instance{with("a", "n1", 100), with("b", "n2", 300), with("c", "n3", 200)}
	for _, c := range []struct {
		name   string
		demand demand
		all    []instance
		want   string // ids in order
	}{
		{"most room first", demand{size: 10}, three, "bca"},
		{"less what is promised", demand{size: 10}, []instance{promising("a", "", 100, 90), promising("b", "", 300, 50), promising("c", "", 200, 80)}, "acb"},
		{"more is promised than there is", demand{size: 10}, []instance{promising("a", "", 100, -90), promising("b", "", 300, -50), promising("c", "", 200, -70)}, "bca"},
		{"and one is full", demand{size: 10}, []instance{promising("a", "", 100, -90), promising("b", "", 9, 0)}, "ab"},
		{"the pod's node first", demand{size: 10, node: "n1"}, three, "abc"},
		{"unless it does not fit there", demand{size: 150, node: "n1"}, three, "bca"},
		{"or is promised", demand{size: 50, node: "n1"}, []instance{promising("a", "n1", 100, 40), with("b", "n2", 60)}, "ba"},
		{"a node without an instance", demand{size: 10, node: "n9"}, three, "bca"},
		{"fits nowhere", demand{size: 999}, three, "bca"},
		{"the same room", demand{size: 10}, []instance{with("b", "", 5), with("a", "", 5)}, "ab"},
		{"by pool", demand{size: 10, pool: "fast"}, []instance{
			with("a", "", 100),
			{id: "b", room: map[string]room{"fast": {20, 20}, "big": {900, 900}}},
			{id: "c", room: map[string]room{"fast": {30, 30}}},
		}, "cba"},
		{"several pools and none named", demand{size: 10}, []instance{{id: "a", room: map[string]room{"fast": {20, 20}, "big": {90, 90}}}, with("b", "", 1)}, "ba"},
		{"several pools are named", demand{size: 50, pool: "big,fast"}, []instance{
			{id: "a", room: map[string]room{"fast": {60, 60}, "big": {20, 20}}}, {id: "b", room: map[string]room{"big": {90, 90}}}, {id: "c", room: map[string]room{"other": {99, 99}}},
		}, "bac"},
		{"a pool that nobody has", demand{size: 10, pool: "none"}, three, "abc"},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := slices.Clone(c.all)
			slices.SortFunc(all, c.demand.compare)
			var got strings.Builder
			for _, i := range all {
				got.WriteString(i.id)
			}
			if got.String() != c.want {
				t.Errorf("order is %q, want %q", got.String(), c.want)
			}
		})
	}
}

func TestPromise(t *testing.T) {
	two := instance{room: map[string]room{"fast": {20, 5}, "big": {900, 900}}}
	for _, d := range []demand{
		{size: 10, pool: "fast"}, {size: 15, pool: "fast"},
		{size: 21, pool: "fast"}, // cannot be made, so it takes nothing
		{size: 1}, {size: 1, pool: "none"},
	} {
		two.promise(d)
	}
	if diff := cmp.Diff(map[string]room{"fast": {20, -20}, "big": {900, 900}}, two.room); diff != "" {
		t.Errorf("room (-want +got):\n%s", diff)
	}
	boundless := with("a", "", math.MaxInt64)
	for range 5 {
		boundless.promise(demand{size: math.MaxInt64})
	}
	if left := boundless.room["export"].Unpromised; left != math.MinInt64 {
		t.Errorf("%d bytes are left", left)
	}
}

// leaseOf makes the Lease of an instance.
func leaseOf(t *testing.T, i instance, provisioner, holder string, renewed time.Time) *coordinationv1.Lease {
	t.Helper()
	said, err := i.annotations(provisioner)
	if err != nil {
		t.Fatal(err)
	}
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: "storage", Name: "lease-" + i.id, Annotations: said, Labels: map[string]string{labelManagedBy: managedBy}},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &holder, LeaseDurationSeconds: new(int32(15)), RenewTime: &metav1.MicroTime{Time: renewed},
		},
	}
}

func TestInstancesAreThoseThatRenewTheirLeases(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	us := instance{id: "us", node: "n0"}
	i := newInstances(provisioned, func() instance { return us })
	i.now = func() time.Time { return now }
	h := i.handler()
	// The clocks of others may be wrong: what counts is that the Lease changes.
	theirs := now.Add(-24 * time.Hour)
	other := with("other", "n1", 7)
	// renew lets time pass until our own Lease is renewed.
	renew := func(after time.Duration) {
		now = now.Add(after)
		h.OnUpdate(nil, leaseOf(t, us, provisioned, "host", now))
	}

	want := func(what string, ids ...string) {
		t.Helper()
		var got []string
		for _, o := range i.others() {
			got = append(got, o.id)
		}
		slices.Sort(got)
		if !slices.Equal(got, ids) {
			t.Errorf("%s: others are %v, want %v", what, got, ids)
		}
		if i.alone() != (len(ids) == 0) {
			t.Errorf("%s: alone is %t", what, i.alone())
		}
	}
	want("at first")
	h.OnAdd(leaseOf(t, us, provisioned, "host", theirs), true)
	want("with our own Lease")
	h.OnAdd(leaseOf(t, instance{id: "another"}, "example.com/another", "host", theirs), true)
	h.OnAdd(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "somebody's"}}, true)
	h.OnAdd("not a Lease", true)
	want("with Leases of something else")
	h.OnAdd(leaseOf(t, other, provisioned, "host", theirs), true)
	want("with another instance", "other")
	if diff := cmp.Diff(other, i.others()[0], cmp.AllowUnexported(instance{})); diff != "" {
		t.Errorf("what it says of itself (-want +got):\n%s", diff)
	}

	now = now.Add(time.Hour)
	want("though we heard of nobody, not even of ourselves", "other")
	renew(0)
	want("when our own Lease is the first of a watch that went on", "other")
	h.OnUpdate(nil, leaseOf(t, other, provisioned, "host", theirs.Add(time.Second)))
	for range 7 {
		renew(2 * time.Second)
	}
	h.OnUpdate(nil, leaseOf(t, other, provisioned, "host", theirs.Add(time.Second))) // a resync
	renew(2 * time.Second)
	want("within the Lease", "other")
	renew(2 * time.Second)
	want("after it ran out")
	if i.acts("other") || !i.acts("us") {
		t.Error("the other one acts, or we do not")
	}
	h.OnUpdate(nil, leaseOf(t, other, provisioned, "host", theirs.Add(20*time.Second)))
	want("renewed", "other")
	h.OnUpdate(nil, leaseOf(t, other, provisioned, "", theirs.Add(20*time.Second)))
	want("given back")
	h.OnUpdate(nil, leaseOf(t, other, provisioned, "host", theirs.Add(22*time.Second)))
	h.OnDelete(cache.DeletedFinalStateUnknown{Obj: leaseOf(t, other, provisioned, "host", theirs)})
	want("deleted")
}

func TestInstanceThatCannotSayItsRoomHasNone(t *testing.T) {
	lease := leaseOf(t, instance{id: "a"}, provisioned, "host", time.Now())
	lease.Annotations[annRoom] = "{torn"
	i, ok := parseInstance(lease, provisioned)
	if pool, has := i.poolFor(demand{}); !ok || has {
		t.Errorf("got %+v, %t with pool %q", i, ok, pool)
	}
}

// Who reads Leases but keeps none would believe that it is alone, as would another one.
func TestWhoKeepsNoLeaseIsBlindToo(t *testing.T) {
	for _, c := range []struct {
		rights rights
		blind  bool
	}{
		{allRights, false},
		{rights{lease: true}, true},
		{rights{neighbours: true}, true},
	} {
		if c.rights.blind() != c.blind {
			t.Errorf("%+v: blind is %t, want %t", c.rights, !c.blind, c.blind)
		}
	}
}

// All of them have to come to the same order, so ours is not fresher than theirs.
func TestWhatOursHasLeftIsWhatItTold(t *testing.T) {
	i := newInstances(provisioned, func() instance { return with("us", "n0", 100) })
	if diff := cmp.Diff([]instance{with("us", "n0", 100)}, i.all(), cmp.AllowUnexported(instance{})); diff != "" {
		t.Errorf("before it told anything (-want +got):\n%s", diff)
	}
	now := time.Now()
	h := i.handler()
	h.OnAdd(leaseOf(t, with("other", "n1", 70), provisioned, "host", now), true)
	h.OnAdd(leaseOf(t, with("us", "n0", 80), provisioned, "host", now), true)
	i.all()[0].promise(demand{size: 1}) // which is the caller's own
	for id, want := range map[string]int64{"us": 80, "other": 70} {
		i.made(id, demand{size: 30})
		i.made(id, demand{size: 10, pool: "export"})
		all := i.all()
		at := slices.IndexFunc(all, func(i instance) bool { return i.id == id })
		if got := all[at].room["export"]; got != (room{want, want - 40}) || all[0].id != "us" {
			t.Errorf("%s after two volumes were made has %+v", id, got)
		}
		h.OnUpdate(nil, leaseOf(t, with(id, "", want), provisioned, "host", now))
		if got := i.all()[at].room["export"]; got.Unpromised != want-40 {
			t.Errorf("%s: a resync is no news, but it has %+v", id, got)
		}
		h.OnUpdate(nil, leaseOf(t, with(id, "", want-30), provisioned, "host", now.Add(time.Second)))
		if got := i.all()[at].room["export"]; got != (room{want - 30, want - 30}) {
			t.Errorf("%s told that it has %d, but it has %+v", id, want-30, got)
		}
	}
}

func TestWithoutASightOfOthersADaemonSetsPodIsNotAlone(t *testing.T) {
	for node, alone := range map[string]bool{"": true, "n1": false} {
		i := newInstances(provisioned, func() instance { return instance{id: "us", node: node} })
		i.blind = true
		if i.alone() != alone {
			t.Errorf("on node %q: alone is %t, want %t", node, i.alone(), alone)
		}
		if !i.acts("who knows") {
			t.Error("took an instance that cannot be seen for one that ended")
		}
	}
}
