package kube

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	kubetest "k8s.io/client-go/testing"
)

// crowd is a taker beside two other instances, with a clock of its own.
type crowd struct {
	*taker
	t      *testing.T
	client *fake.Clientset
	clock  time.Time
}

// newCrowd makes an instance "b" with room for 200 bytes, between "a" with 300 and
// "c" with 100, that has been there for a while.
func newCrowd(t *testing.T, claims ...runtime.Object) *crowd {
	t.Helper()
	c := &crowd{t: t, client: newClient(claims...), clock: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}
	factory := informers.NewSharedInformerFactory(c.client, 0)
	classes := factory.Storage().V1().StorageClasses()
	if err := classes.Informer().GetStore().Add(newClass()); err != nil {
		t.Fatal(err)
	}
	room := func(n int64) map[string]int64 { return map[string]int64{"export": n} }
	i := newInstances(provisioned, func() instance { return instance{id: "b", node: "nb", room: room(200)} })
	i.now = func() time.Time { return c.clock }
	c.taker = newTaker(c.client, i, classes.Lister(), quiet())
	c.now = i.now
	c.began = c.clock.Add(-time.Minute)
	c.renew("a", 300)
	c.renew("c", 100)
	return c
}

// renew is the other instance's sign of life.
func (c *crowd) renew(id string, room int64) {
	i := instance{id: id, node: "n" + id, room: map[string]int64{"export": room}}
	c.instances.handler().OnUpdate(nil, leaseOf(c.t, i, provisioned, "host", c.clock))
}

// pass lets time pass in which the others renew their Leases.
func (c *crowd) pass(d time.Duration) {
	c.clock = c.clock.Add(d)
	c.renew("a", 300)
	c.renew("c", 100)
}

func sized(bytes string) func(*v1.PersistentVolumeClaim) {
	return func(c *v1.PersistentVolumeClaim) {
		c.Spec.Resources.Requests[v1.ResourceStorage] = resource.MustParse(bytes)
	}
}

func ownedBy(id string) func(*v1.PersistentVolumeClaim) {
	return func(c *v1.PersistentVolumeClaim) { c.Annotations[annInstance] = id }
}

func claimWith(change ...func(*v1.PersistentVolumeClaim)) *v1.PersistentVolumeClaim {
	claim := pendingClaim()
	sized("50")(claim)
	for _, f := range change {
		f(claim)
	}
	return claim
}

func (c *crowd) wantDue(what string, want int) {
	c.t.Helper()
	if got := len(c.due()); got != want {
		c.t.Errorf("%s: %d claims are ours to take, want %d", what, got, want)
	}
}

func TestClaimIsLeftToWhoHasMoreRoomForAWhile(t *testing.T) {
	c := newCrowd(t)
	c.see(claimWith())
	c.wantDue("at once", 0)
	c.pass(takePatience - time.Millisecond)
	c.wantDue("just before", 0)
	c.pass(time.Millisecond)
	c.wantDue("after a while", 1)
}

func TestClaimThatFitsHereBest(t *testing.T) {
	for name, claim := range map[string]*v1.PersistentVolumeClaim{
		"the pod is on our node": claimWith(func(p *v1.PersistentVolumeClaim) { p.Annotations[annSelectedNode] = "nb" }),
	} {
		t.Run(name, func(t *testing.T) {
			c := newCrowd(t)
			c.see(claim)
			c.wantDue("at once", 1)
		})
	}
	t.Run("what others took fills them", func(t *testing.T) {
		c := newCrowd(t)
		c.see(claimWith(withUID("1"), ownedBy("a"), sized("150")))
		c.wantDue("a claim of another", 0)
		c.see(claimWith(withUID("2")))
		c.wantDue("another is fuller now", 1)
	})
	t.Run("what we took fills us", func(t *testing.T) {
		c := newCrowd(t)
		c.see(claimWith(withUID("1"), ownedBy("a"), sized("150")))
		for _, uid := range []string{"2", "3", "4"} {
			c.see(claimWith(withUID(uid)))
		}
		// 200 here, 150 there: after one of 50 both are the same, and "a" comes first.
		c.wantDue("of three", 1)
	})
}

func TestClaimsThatAreNotToBeTaken(t *testing.T) {
	for name, claim := range map[string]*v1.PersistentVolumeClaim{
		"bound":                   claimWith(boundTo("pv")),
		"being deleted":           claimWith(beingDeleted),
		"another provisioner's":   claimWith(func(p *v1.PersistentVolumeClaim) { p.Annotations[annStorageProvisioner] = "example.com/other" }),
		"not handed to any":       claimWith(func(p *v1.PersistentVolumeClaim) { p.Annotations = nil }),
		"of an unknown class":     claimWith(func(p *v1.PersistentVolumeClaim) { p.Spec.StorageClassName = new("gone") }),
		"taken by one that acts":  claimWith(ownedBy("a")),
		"taken by us":             claimWith(ownedBy("b")),
		"bigger, fits elsewhere":  claimWith(sized("250")),
		"for the node of another": claimWith(func(p *v1.PersistentVolumeClaim) { p.Annotations[annSelectedNode] = "nc" }),
	} {
		t.Run(name, func(t *testing.T) {
			c := newCrowd(t)
			c.see(claim)
			c.wantDue("at once", 0)
		})
	}
}

func TestClaimOfAnInstanceThatEnded(t *testing.T) {
	c := newCrowd(t)
	c.see(claimWith(ownedBy("a")))
	c.wantDue("while it acts", 0)
	for range 3 { // "a" renews no more
		c.clock = c.clock.Add(5 * time.Second)
		c.renew("c", 100)
	}
	c.wantDue("when its Lease ran out", 1)
	c.renew("a", 300)
	c.wantDue("when it is back", 0)
}

func TestNewcomerLeavesClaimsToThoseBefore(t *testing.T) {
	c := newCrowd(t)
	c.began = c.clock
	c.see(claimWith(func(p *v1.PersistentVolumeClaim) { p.Annotations[annSelectedNode] = "nb" }))
	c.wantDue("at once", 0)
	c.pass(takeSettle)
	c.wantDue("settled", 1)
}

func TestAloneThereIsNoNeedToTake(t *testing.T) {
	c := newCrowd(t)
	c.clock = c.clock.Add(time.Hour) // the others are gone
	claim := claimWith()
	if !c.mine(claim) {
		t.Error("a claim that nobody took is not ours though we are alone")
	}
	c.see(claim)
	c.wantDue("at once", 0)
	c.clock = c.clock.Add(takeAlone)
	c.wantDue("after a while, in case that we were not alone", 1)
}

func TestMine(t *testing.T) {
	c := newCrowd(t)
	for owner, want := range map[string]struct{ mine, may bool }{"": {false, true}, "b": {true, true}, "a": {false, false}, "gone": {false, false}} {
		claim := claimWith()
		if owner != "" {
			ownedBy(owner)(claim)
		}
		if c.mine(claim) != want.mine || c.mayBeMine(claim) != want.may {
			t.Errorf("owner %q: mine is %t, may be %t; want %+v", owner, c.mine(claim), c.mayBeMine(claim), want)
		}
	}
}

func owner(t *testing.T, client *fake.Clientset) string {
	t.Helper()
	claim, err := client.CoreV1().PersistentVolumeClaims("team").Get(t.Context(), "data", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return claim.Annotations[annInstance]
}

func TestTake(t *testing.T) {
	claim := claimWith()
	c := newCrowd(t, claim)
	c.take(t.Context(), claim)
	if got := owner(t, c.client); got != "b" {
		t.Errorf("the claim is %q's, want b's", got)
	}
	if claim.Annotations[annInstance] != "" {
		t.Error("the informer's own object was changed")
	}
}

func TestTakenByAnotherMeanwhile(t *testing.T) {
	claim := claimWith()
	c := newCrowd(t, claim)
	c.client.PrependReactor("update", "persistentvolumeclaims", func(kubetest.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewConflict(v1.Resource("persistentvolumeclaims"), "data", nil)
	})
	c.take(t.Context(), claim) // and no panic, no endless loop
	if got := owner(t, c.client); got != "" {
		t.Errorf("the claim is %q's", got)
	}
}

func TestClaimThatDoesNotFitIsPassedOn(t *testing.T) {
	for name, c := range map[string]struct {
		claim *v1.PersistentVolumeClaim
		want  string
	}{
		"it fits elsewhere":        {claimWith(ownedBy("b"), sized("250")), ""},
		"it fits nowhere":          {claimWith(ownedBy("b"), sized("350")), "b"},
		"another has it meanwhile": {claimWith(ownedBy("c"), sized("250")), "c"},
	} {
		t.Run(name, func(t *testing.T) {
			crowd := newCrowd(t, c.claim)
			crowd.passOn(t.Context(), c.claim)
			if got := owner(t, crowd.client); got != c.want {
				t.Errorf("the claim is %q's, want %q's", got, c.want)
			}
		})
	}
}

// Otherwise it would go round and round if the others cannot serve it either.
func TestClaimThatWasPassedOnIsNotTakenAgainAtOnce(t *testing.T) {
	claim := claimWith(ownedBy("b"), sized("250"))
	c := newCrowd(t, claim)
	c.see(claim)
	c.passOn(t.Context(), claim)
	c.see(claimWith(sized("250")))
	c.wantDue("at once", 0)
	c.pass(takePatience)
	c.wantDue("when the first one did not take it", 0)
	for range 6 {
		c.pass(10 * time.Second)
	}
	c.wantDue("after a minute", 1)
}

func TestForgottenClaims(t *testing.T) {
	c := newCrowd(t)
	h := c.handler()
	for _, uid := range []types.UID{"1", "2"} {
		h.OnAdd(claimWith(withUID(string(uid))), false)
	}
	h.OnUpdate(nil, claimWith(withUID("1"), boundTo("pv")))
	h.OnDelete(claimWith(withUID("2")))
	if len(c.pending) != 0 {
		t.Errorf("%d claims are still waited for", len(c.pending))
	}
}
