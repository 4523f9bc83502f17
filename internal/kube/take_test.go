package kube

import (
	"strconv"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
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
	for _, change := range []func(*storagev1.StorageClass){
		func(*storagev1.StorageClass) {},
		func(c *storagev1.StorageClass) { c.Name, c.Parameters = "nowhere", map[string]string{"pool": "none"} },
		func(c *storagev1.StorageClass) {
			c.Name, c.Parameters = "either", map[string]string{"pool": "none,export"}
		},
		func(c *storagev1.StorageClass) {
			c.Name, c.VolumeBindingMode = "waits", new(storagev1.VolumeBindingWaitForFirstConsumer)
		},
		func(c *storagev1.StorageClass) { c.Name, c.Provisioner = "other", "example.com/other" },
	} {
		class := newClass()
		change(class)
		if err := classes.Informer().GetStore().Add(class); err != nil {
			t.Fatal(err)
		}
	}
	i := newInstances(provisioned, func() instance { return with("b", "nb", 200) })
	i.now = func() time.Time { return c.clock }
	c.taker = newTaker(c.client, i, classes.Lister(), quiet())
	c.now = i.now
	c.began = c.clock.Add(-time.Minute)
	c.renew("a", 300)
	c.renew("b", 200)
	c.renew("c", 100)
	c.clock = c.clock.Add(time.Minute) // they joined long ago
	c.pass(0)
	return c
}

// renew is an instance's sign of life.
func (c *crowd) renew(id string, free int64) {
	c.instances.handler().OnUpdate(nil, leaseOf(c.t, with(id, "n"+id, free), provisioned, "host", c.clock))
}

// pass lets time pass in which all renew their Leases.
func (c *crowd) pass(d time.Duration) { c.passWithout(d, "") }

// passWithout is pass, but one of them is not heard of.
func (c *crowd) passWithout(d time.Duration, silent string) {
	const often = time.Second
	for ; ; d -= often {
		c.clock = c.clock.Add(min(d, often))
		for id, free := range map[string]int64{"a": 300, "b": 200, "c": 100} {
			if id != silent {
				c.renew(id, free)
			}
		}
		if d <= often {
			return
		}
	}
}

// after gives what is due now and then.
func (c *crowd) after(d time.Duration) []*waitingClaim {
	c.due()
	c.pass(d)
	return c.due()
}

// leave lets the others end, and be missed.
func (c *crowd) leave() {
	for range 20 {
		c.clock = c.clock.Add(time.Second)
		c.renew("b", 200)
	}
}

func sized(bytes string) func(*v1.PersistentVolumeClaim) {
	return func(c *v1.PersistentVolumeClaim) {
		c.Spec.Resources.Requests[v1.ResourceStorage] = resource.MustParse(bytes)
	}
}

func ownedBy(id string) func(*v1.PersistentVolumeClaim) {
	return func(c *v1.PersistentVolumeClaim) { c.Annotations[annInstance] = id }
}

func inClass(name string) func(*v1.PersistentVolumeClaim) {
	return func(c *v1.PersistentVolumeClaim) { c.Spec.StorageClassName = &name }
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
	t.Run("what nobody can make fills nobody", func(t *testing.T) {
		c := newCrowd(t)
		c.see(claimWith(withUID("1"), ownedBy("b"), sized("9Ei")))
		c.see(claimWith(withUID("2"), ownedBy("a"), sized("150")))
		c.see(claimWith(withUID("3")))
		c.wantDue("another is fuller now", 1)
	})
	t.Run("what its owner does not get done fills nobody", func(t *testing.T) {
		c := newCrowd(t)
		c.see(claimWith(withUID("1"), ownedBy("b"), sized("200")))
		c.wantDue("a claim of ours", 0)
		c.pass(takeServed)
		c.see(claimWith(withUID("2"), ownedBy("a"), sized("150")))
		c.see(claimWith(withUID("3")))
		c.wantDue("another is fuller", 1)
	})
	t.Run("what was made fills them", func(t *testing.T) {
		c := newCrowd(t)
		c.see(claimWith(withUID("1"), sized("150")))
		c.see(claimWith(withUID("1"), sized("150"), ownedBy("a"), boundTo("pv")))
		c.see(claimWith(withUID("2")))
		c.wantDue("though it did not tell yet", 1)
	})
	t.Run("what we took fills us", func(t *testing.T) {
		c := newCrowd(t)
		c.see(claimWith(withUID("1"), ownedBy("a"), sized("150")))
		for _, uid := range []string{"2", "3", "4"} {
			c.see(claimWith(withUID(uid)))
		}
		// 200 here, 150 there: after one of 50 both are the same, and "a" comes first;
		// then it is our turn again.
		c.wantDue("of three", 2)
	})
}

// They do not have to wait for each other.
func TestClaimsAreSharedAtOnce(t *testing.T) {
	const claims = 30
	taken := make(map[types.UID]string)
	for _, id := range []string{"a", "b", "c"} {
		c := newCrowd(t)
		c.instances.id = id
		for n := range claims {
			c.see(claimWith(withUID(strconv.Itoa(n)), sized("10")))
		}
		for _, p := range c.due() {
			if other := taken[p.claim.UID]; other != "" {
				t.Errorf("claim %s is %s's and %s's", p.claim.UID, other, id)
			}
			taken[p.claim.UID] = id
		}
	}
	if len(taken) != claims {
		t.Errorf("of %d claims %d are taken", claims, len(taken))
	}
}

// Nobody else says why it stays Pending.
func TestClaimThatNobodyCanServeIsTakenAllTheSame(t *testing.T) {
	c := newCrowd(t)
	c.see(claimWith(inClass("nowhere")))
	if got := c.after(takePatience - time.Second); len(got) > 0 {
		t.Error("it is taken before its time")
	}
	c.pass(time.Second)
	c.wantDue("when the first one did not take it", 1)
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
		"its pod has no node yet": claimWith(inClass("waits")),
		"its class is another's":  claimWith(inClass("other")),
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
	c.passWithout(17*time.Second, "a")
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
	c.see(claimWith(withUID("before")))
	c.wantDue("with others", 0)
	c.leave()
	claim := claimWith()
	if !c.mine(claim) {
		t.Error("a claim that nobody took is not ours though we are alone")
	}
	c.wantDue("seen when we were not alone", 1)
	c.clock = c.clock.Add(takeAlone)
	c.renew("b", 200)
	c.see(claim)
	c.wantDue("seen when we were alone", 1)
	c.see(claimWith(withUID("gone"), ownedBy("a")))
	c.wantDue("taken by one that ended", 2)
	c.see(claimWith(withUID("ours"), ownedBy("b")))
	c.wantDue("taken by us", 2)
}

// It may have come because this one is full.
func TestWhoJoinsIsGivenTime(t *testing.T) {
	c := newCrowd(t)
	c.leave()
	c.clock = c.clock.Add(takeAlone)
	c.renew("b", 200)
	c.see(claimWith())
	c.wantDue("alone", 0)
	c.clock = c.clock.Add(time.Hour)
	c.renew("b", 200)
	c.renew("a", 300)
	c.renew("c", 100)
	c.wantDue("when others join", 0)
	c.pass(takePatience)
	c.wantDue("when they do not take it", 1)
}

// After a pause of ours nobody was heard of, and nobody ended.
func TestNothingIsTakenFromOthersAfterAPause(t *testing.T) {
	c := newCrowd(t)
	c.see(claimWith(ownedBy("a")))
	c.clock = c.clock.Add(time.Hour)
	c.wantDue("after a pause", 0)
	if c.mine(claimWith()) {
		t.Error("after a pause we believe that we are alone")
	}
}

func TestMine(t *testing.T) {
	c := newCrowd(t)
	for owner, want := range map[string]bool{"": false, "b": true, "a": false, "gone": false} {
		claim := claimWith()
		if owner != "" {
			ownedBy(owner)(claim)
		}
		if c.mine(claim) != want {
			t.Errorf("owner %q: mine is %t", owner, !want)
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
	c.see(claim)
	c.takeAll(t.Context(), c.after(takePatience))
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
	c.see(claim)
	c.takeAll(t.Context(), c.after(takePatience)) // and no panic, no endless loop
	if got := owner(t, c.client); got != "" {
		t.Errorf("the claim is %q's", got)
	}
}

func TestTakenByAnotherSinceItWasDue(t *testing.T) {
	claim := claimWith()
	c := newCrowd(t, claim)
	c.see(claim)
	due := c.after(takePatience)
	c.see(claimWith(ownedBy("a")))
	c.takeAll(t.Context(), due)
	if got := owner(t, c.client); got != "" {
		t.Errorf("the claim is %q's", got)
	}
}

// One that the API server refuses must neither be tried all the time nor keep us
// from the others.
func TestClaimThatCannotBeTakenIsPutOff(t *testing.T) {
	bad, good := claimWith(withUID("1")), claimWith(withUID("2"))
	bad.Name, bad.CreationTimestamp = "bad", metav1.Unix(0, 0)
	good.CreationTimestamp = metav1.Unix(1, 0)
	c := newCrowd(t, bad, good)
	tries := 0
	c.client.PrependReactor("update", "persistentvolumeclaims", func(action kubetest.Action) (bool, runtime.Object, error) {
		if action.(kubetest.UpdateAction).GetObject().(*v1.PersistentVolumeClaim).Name != "bad" {
			return false, nil, nil
		}
		tries++
		return true, nil, errAPI
	})
	c.see(bad)
	c.see(good)
	c.takeAll(t.Context(), c.after(takePatience))
	c.takeAll(t.Context(), c.due())
	if got := owner(t, c.client); got != "b" || tries != 1 {
		t.Errorf("the good one is %q's, want b's; the bad one was tried %d times", got, tries)
	}
	c.wantDue("at once", 0)
	c.pass(takeRefuse)
	c.wantDue("later", 1)
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

// A claim is given to an instance only if that may have a use for it.
func TestGivenClaims(t *testing.T) {
	const mine = "b"
	for name, c := range map[string]struct {
		class, to string
		want      bool
	}{
		"to who has what it is a copy of":                   {"berth", "a", true},
		"to who has none of the pools of its class":         {"nowhere", "a", false},
		"to who has one of the pools of its class, no room": {"either", "a", true},
		"to itself":          {"berth", mine, false},
		"to nobody who acts": {"berth", "gone", false},
		"to nobody":          {"berth", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			claim := claimWith(ownedBy(mine), sized("1Gi"))
			claim.Spec.StorageClassName = &c.class
			crowd := newCrowd(t, claim)
			want := mine
			if c.want {
				want = c.to
			}
			if got := crowd.giveTo(t.Context(), claim, c.to); got != c.want || owner(t, crowd.client) != want {
				t.Errorf("given: %v, and the claim is %q's", got, owner(t, crowd.client))
			}
		})
	}
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
