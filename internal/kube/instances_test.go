package kube

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

func TestRank(t *testing.T) {
	one := func(id, node string, room int64) instance {
		return instance{id: id, node: node, room: map[string]int64{"export": room}}
	}
	three := []instance{one("a", "n1", 100), one("b", "n2", 300), one("c", "n3", 200)}
	for _, c := range []struct {
		name     string
		demand   demand
		all      []instance
		promised map[string]int64
		want     string // ids in order
	}{
		{"most room first", demand{size: 10}, three, nil, "bca"},
		{"less what was promised", demand{size: 10}, three, map[string]int64{"b": 250, "": 999}, "cab"},
		{"the pod's node first", demand{size: 10, node: "n1"}, three, nil, "abc"},
		{"unless it does not fit there", demand{size: 150, node: "n1"}, three, nil, "bca"},
		{"a node without an instance", demand{size: 10, node: "n9"}, three, nil, "bca"},
		{"fits nowhere", demand{size: 999}, three, nil, "bca"},
		{"the same room", demand{size: 10}, []instance{one("b", "", 5), one("a", "", 5)}, nil, "ab"},
		{"alone", demand{size: 10}, []instance{one("a", "", 0)}, nil, "a"},
		{"by pool", demand{size: 10, pool: "fast"}, []instance{
			one("a", "", 100),
			{id: "b", room: map[string]int64{"fast": 20, "big": 900}},
			{id: "c", room: map[string]int64{"fast": 30}},
		}, nil, "cb"},
		{"several pools and none named", demand{size: 10}, []instance{{id: "a", room: map[string]int64{"fast": 20, "big": 900}}, one("b", "", 1)}, nil, "b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := make([]byte, len(c.all))
			able := 0
			for _, i := range c.all {
				if place, ok := rank(c.demand, c.all, c.promised, i.id); ok {
					got[place] = i.id[0]
					able++
				}
			}
			if string(got[:able]) != c.want {
				t.Errorf("order is %q, want %q", got[:able], c.want)
			}
		})
	}
	if _, ok := rank(demand{}, three, nil, "d"); ok {
		t.Error("an instance that is not there has a place")
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
	other := instance{id: "other", node: "n1", room: map[string]int64{"export": 7}}

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

	now = now.Add(14 * time.Second)
	h.OnUpdate(nil, leaseOf(t, other, provisioned, "host", theirs)) // a resync
	want("within the Lease", "other")
	now = now.Add(time.Second)
	want("after it ran out")
	if i.acts("other") || !i.acts("us") {
		t.Error("the other one acts, or we do not")
	}
	h.OnUpdate(nil, leaseOf(t, other, provisioned, "host", theirs.Add(20*time.Second)))
	want("renewed", "other")
	h.OnUpdate(nil, leaseOf(t, other, provisioned, "", theirs.Add(21*time.Second)))
	want("given back")
	h.OnUpdate(nil, leaseOf(t, other, provisioned, "host", theirs.Add(22*time.Second)))
	h.OnDelete(cache.DeletedFinalStateUnknown{Obj: leaseOf(t, other, provisioned, "host", theirs)})
	want("deleted")
}

func TestInstanceThatCannotSayItsRoomHasNone(t *testing.T) {
	lease := leaseOf(t, instance{id: "a"}, provisioned, "host", time.Now())
	lease.Annotations[annRoom] = "{torn"
	i, ok := parseInstance(lease, provisioned)
	if room, has := i.roomFor(demand{}); !ok || has || room != 0 {
		t.Errorf("got %+v, %t with room %d", i, ok, room)
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
