package kube

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	kubetest "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
)

// planning is a scheduler that works on one claim, and its surroundings.
type planning struct {
	*scheduler
	s     *shooting
	claim *v1.PersistentVolumeClaim
	pv    *v1.PersistentVolume
}

// newPlanning makes one with a claim that was made now and has a schedule.
func newPlanning(t *testing.T, annotations ...string) *planning {
	t.Helper()
	s := newShooting(t, parseYAML(t, aClass, "{name: keep-none}", `{name: usual, annotations: {snapshot.storage.kubernetes.io/is-default-class: "true"}}`))
	_, claim, pv := growingObjects()
	claim.CreationTimestamp = metav1.Now()
	claim.Annotations = map[string]string{"berth.storage/snapshot-schedule": "0 3 * * *"}
	for i := 0; i < len(annotations); i += 2 {
		claim.Annotations[annotations[i]] = annotations[i+1]
	}
	s.provisioner.client = newClient(claim, pv)
	scheduler, err := newScheduler(s.snapshotter, s.core, s.caches.ForResource(snapshotResource(snapshotsPlural)).Informer(), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(scheduler.due.ShutDown)
	p := &planning{scheduler, s, claim, pv}
	s.setClaim(claim, pv)
	return p
}

// see looks once at the claim, with caches that know all there is.
func (p *planning) see() (time.Time, error) {
	p.s.t.Helper()
	p.s.read()
	return p.lookAtClaim(p.s.t.Context(), cache.MetaObjectToName(p.claim))
}

// names are those of the VolumeSnapshots that there are.
func (p *planning) names() []string {
	p.s.t.Helper()
	list, err := p.s.api.Resource(snapshotResource(snapshotsPlural)).Namespace(p.claim.Namespace).List(p.s.t.Context(), metav1.ListOptions{})
	if err != nil {
		p.s.t.Fatal(err)
	}
	var names []string
	for _, item := range list.Items {
		names = append(names, item.GetName())
	}
	slices.Sort(names)
	return names
}

func (p *planning) wantNames(when string, want ...string) {
	p.s.t.Helper()
	if diff := cmp.Diff(want, p.names()); diff != "" {
		p.s.t.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

// ready has all VolumeSnapshots be ready, with uids as an API server gives them.
func (p *planning) ready() {
	p.s.t.Helper()
	for _, name := range p.names() {
		object, err := p.s.api.Resource(snapshotResource(snapshotsPlural)).Namespace(p.claim.Namespace).Get(p.s.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			p.s.t.Fatal(err)
		}
		object.SetUID(types.UID("uid-" + name))
		if err := unstructured.SetNestedField(object.Object, true, "status", "readyToUse"); err != nil {
			p.s.t.Fatal(err)
		}
		p.s.change(snapshotsPlural, object)
	}
}

// byHand makes a VolumeSnapshot that no schedule is for.
func (p *planning) byHand(name string, change func(*unstructured.Unstructured)) {
	p.s.t.Helper()
	object := newScheduled(p.claim, name, "usual", time.Now().Add(-1000*time.Hour))
	change(object)
	if err := p.s.api.Tracker().Create(snapshotResource(snapshotsPlural), object, p.claim.Namespace); err != nil {
		p.s.t.Fatal(err)
	}
}

// In a bubble of synctest it is midnight of 2000-01-01 at first, in UTC.
func TestScheduledSnapshotsAreMadeAndPruned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlanning(t, "berth.storage/snapshot-keep", "2")
		p.byHand("mine", func(o *unstructured.Unstructured) { o.SetLabels(nil) })
		p.byHand("labelled", func(o *unstructured.Unstructured) { o.SetAnnotations(nil) })
		p.byHand("forged", func(*unstructured.Unstructured) {})
		p.byHand("others", func(o *unstructured.Unstructured) { o.SetLabels(map[string]string{labelScheduleOf: "another"}) })
		p.ready()
		hand := []string{"forged", "labelled", "mine", "others"}
		next, err := p.see()
		if want := time.Now().Add(3 * time.Hour); err != nil || !next.Equal(want) {
			t.Errorf("next at %s, %v; want %s", next, err, want)
		}
		p.wantNames("before it is due", hand...)

		time.Sleep(3 * time.Hour)
		for range 2 { // the second time nothing is to be done
			if next, err = p.see(); err != nil || !next.Equal(time.Now().Add(24*time.Hour)) {
				t.Errorf("next at %s, %v", next, err)
			}
			p.wantNames("when it is due", append([]string{"data-20000101-0300"}, hand...)...)
		}
		object, err := p.s.api.Resource(snapshotResource(snapshotsPlural)).Namespace("team").Get(t.Context(), "data-20000101-0300", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]any{"volumeSnapshotClassName": "usual", "source": map[string]any{"persistentVolumeClaimName": "data"}}
		if diff := cmp.Diff(want, object.Object["spec"]); diff != "" || object.GetLabels()["berth.storage/schedule-of"] != string(p.claim.UID) {
			t.Errorf("it is %v (-want +got):\n%s", object, diff)
		}

		for range 2 { // days
			p.ready()
			time.Sleep(24 * time.Hour)
			if _, err := p.see(); err != nil {
				t.Fatal(err)
			}
		}
		p.wantNames("while the third is not ready", append([]string{"data-20000101-0300", "data-20000102-0300", "data-20000103-0300"}, hand...)...)
		p.ready()
		if _, err := p.see(); err != nil {
			t.Fatal(err)
		}
		p.wantNames("when the third is ready", append([]string{"data-20000102-0300", "data-20000103-0300"}, hand...)...)

		// Berth was down for ten days.
		time.Sleep(10 * 24 * time.Hour)
		if _, err := p.see(); err != nil {
			t.Fatal(err)
		}
		p.wantNames("after ten days", append([]string{"data-20000102-0300", "data-20000103-0300", "data-20000113-0300"}, hand...)...)
		if said := p.s.said(); said != "" {
			t.Errorf("said: %s", said)
		}
	})
}

func TestScheduledSnapshotThatBecomesTooOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlanning(t, "berth.storage/snapshot-max-age", "47h")
		for range 2 {
			time.Sleep(24 * time.Hour)
			if _, err := p.see(); err != nil {
				t.Fatal(err)
			}
			p.ready()
		}
		next, err := p.see()
		if err != nil || !next.Equal(parseTime(t, "2000-01-03 02:00:01")) {
			t.Errorf("next at %s, %v", next, err)
		}
		p.wantNames("on the third day", "data-20000101-0300", "data-20000102-0300")
		time.Sleep(time.Until(next))
		if next, err = p.see(); err != nil || !next.Equal(parseTime(t, "2000-01-03 03:00:00")) {
			t.Errorf("next at %s, %v", next, err)
		}
		p.wantNames("when the first is too old", "data-20000102-0300")
	})
}

// One that cannot be taken does not become many.
func TestScheduleWaitsForASnapshotThatIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlanning(t)
		time.Sleep(4 * time.Hour)
		if _, err := p.see(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour)
		for range 2 {
			if _, err := p.see(); err == nil {
				t.Error("no error")
			}
		}
		p.wantNames("a day later", "data-20000101-0300")
		if said := p.s.said(); strings.Count(said, "Warning ScheduledSnapshotFailed") != 1 || !strings.Contains(said, "VolumeSnapshot data-20000101-0300 is not ready yet") {
			t.Errorf("said: %s", said)
		}
		p.ready()
		if _, err := p.see(); err != nil {
			t.Fatal(err)
		}
		p.wantNames("when it is ready", "data-20000101-0300", "data-20000102-0300")
	})
}

func TestBadScheduleIsToldOncePerChange(t *testing.T) {
	p := newPlanning(t)
	for i, bad := range []string{"often", "often", "now and then", "0 3 * * *", "often"} {
		p.claim.Annotations["berth.storage/snapshot-schedule"] = bad
		if _, err := p.see(); err != nil {
			t.Error(err)
		}
		said, want := p.s.said(), []int{1, 0, 1, 0, 1}[i]
		if strings.Count(said, "Warning SnapshotScheduleInvalid no scheduled snapshot is taken") != want || want == 1 && !strings.Contains(said, `"0 3 * * *"`) {
			t.Errorf("%d. %q: said %q, want it %d times", i, bad, said, want)
		}
	}
}

func TestClaimsWhoseScheduleIsLeftAlone(t *testing.T) {
	for name, change := range map[string]func(*planning){
		"being deleted":         func(p *planning) { p.claim.DeletionTimestamp = new(metav1.Now()) },
		"not bound":             func(p *planning) { p.claim.Status.Phase = v1.ClaimPending },
		"lost":                  func(p *planning) { p.claim.Spec.VolumeName = "gone" },
		"another driver's":      func(p *planning) { p.pv.Annotations = nil },
		"another claim's":       func(p *planning) { p.pv.Spec.ClaimRef.UID = "other" },
		"without a schedule":    func(p *planning) { p.claim.Annotations = nil },
		"gone, says the server": func(p *planning) { p.provisioner.client = newClient() },
		"another of its name, says the server": func(p *planning) {
			other := p.claim.DeepCopy()
			other.UID = "other"
			p.provisioner.client = newClient(other)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlanning(t)
				change(p)
				time.Sleep(24 * time.Hour)
				if _, err := p.see(); err != nil {
					t.Error(err)
				}
				if names, said := p.names(), p.s.said(); names != nil || said != "" {
					t.Errorf("made %v, said %q", names, said)
				}
			})
		})
	}
}

// What is in the way is told, and tried again.
func TestScheduledSnapshotThatCannotBeMade(t *testing.T) {
	fails := func(verb string) func(*planning) {
		return func(p *planning) {
			p.s.api.PrependReactor(verb, snapshotsPlural, func(kubetest.Action) (bool, runtime.Object, error) { return true, nil, errAPI })
		}
	}
	for name, c := range map[string]struct {
		change func(*planning)
		want   string
	}{
		"without permission": {func(p *planning) { p.allowed = false }, "lacks the verb create or delete for volumesnapshots"},
		"no class": {func(p *planning) { p.claim.Annotations["berth.storage/snapshot-class"] = "gone" },
			"there is no VolumeSnapshotClass gone"},
		"the name is taken": {func(p *planning) {
			p.byHand("data-20000101-0300", func(o *unstructured.Unstructured) { o.SetLabels(nil) })
		}, "there is a VolumeSnapshot data-20000101-0300 that is not of this schedule"},
		"the API server": {fails("create"), "making VolumeSnapshot data-20000101-0300"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlanning(t)
				c.change(p)
				time.Sleep(4 * time.Hour)
				before := p.names()
				for range 2 {
					if _, err := p.see(); err == nil {
						t.Error("no error")
					}
				}
				p.wantNames("made", before...)
				if said := p.s.said(); strings.Count(said, "ScheduledSnapshotFailed") != 1 || !strings.Contains(said, c.want) {
					t.Errorf("said %q, want %q once", said, c.want)
				}
			})
		})
	}
	t.Run("the API server, when it is to delete", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPlanning(t, "berth.storage/snapshot-keep", "1")
			for range 2 {
				time.Sleep(24 * time.Hour)
				if _, err := p.see(); err != nil {
					t.Fatal(err)
				}
				p.ready()
			}
			fails("delete")(p)
			if _, err := p.see(); !errors.Is(err, errAPI) {
				t.Errorf("error %v, want %v", err, errAPI)
			}
			if said := p.s.said(); !strings.Contains(said, "deleting VolumeSnapshot data-20000101-0300") {
				t.Errorf("said %q", said)
			}
		})
	})
}

// The cache is behind when it is tried a second time.
func TestScheduledSnapshotIsMadeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlanning(t)
		time.Sleep(4 * time.Hour)
		p.s.read()
		for range 2 {
			if _, err := p.lookAtClaim(t.Context(), cache.MetaObjectToName(p.claim)); err != nil {
				t.Error(err)
			}
		}
		p.wantNames("after two tries", "data-20000101-0300")
		if said := p.s.said(); said != "" {
			t.Errorf("said: %s", said)
		}
	})
}

// The name of one that is not to be kept is another one's by now.
func TestOnlyTheSnapshotThatWasMeantIsPruned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlanning(t)
		var asked *types.UID
		p.s.api.PrependReactor("delete", snapshotsPlural, func(a kubetest.Action) (bool, runtime.Object, error) {
			asked = a.(kubetest.DeleteActionImpl).DeleteOptions.Preconditions.UID
			return true, nil, apierrors.NewConflict(snapshotResource(snapshotsPlural).GroupResource(), "x", errAPI)
		})
		if err := p.remove(t.Context(), p.claim, scheduled{name: "x", uid: "mine"}); err != nil || asked == nil || *asked != "mine" {
			t.Errorf("error %v, asked for the one with uid %v", err, asked)
		}
	})
}

// The queue comes back to a claim when its next snapshot is due.
func TestSchedulerRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlanning(t)
		p.s.read()
		p.ofClaims().OnAdd(p.claim, true)
		done := make(chan struct{})
		go func() { defer close(done); p.follow(t.Context(), func() bool { return true }) }()
		time.Sleep(3*time.Hour + time.Second)
		synctest.Wait()
		p.wantNames("when it is due", "data-20000101-0300")
		p.ready()
		p.s.read()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		p.wantNames("a day later", "data-20000101-0300", "data-20000102-0300")
		p.due.ShutDown()
		<-done
	})
}

// A claim is looked at again when a VolumeSnapshot of its schedule changes.
func TestSchedulerSeesItsSnapshots(t *testing.T) {
	p := newPlanning(t)
	shot := newScheduled(p.claim, "x", "usual", time.Now())
	other := newScheduled(p.claim, "y", "usual", time.Now())
	other.SetLabels(nil)
	for what, c := range map[string]struct {
		tell func(cache.ResourceEventHandler, any)
		of   any
		want int
	}{
		"changed":             {func(h cache.ResourceEventHandler, o any) { h.OnUpdate(o, o) }, shot, 1},
		"deleted":             {func(h cache.ResourceEventHandler, o any) { h.OnDelete(o) }, shot, 1},
		"deleted, seen later": {func(h cache.ResourceEventHandler, o any) { h.OnDelete(o) }, cache.DeletedFinalStateUnknown{Key: "team/x", Obj: shot}, 1},
		"made by hand":        {func(h cache.ResourceEventHandler, o any) { h.OnAdd(o, false) }, other, 0},
	} {
		c.tell(p.ofSnapshots(), c.of)
		if got := p.due.Len(); got != c.want {
			t.Errorf("%s: %d claims to look at, want %d", what, got, c.want)
		}
		for p.due.Len() > 0 {
			key, _ := p.due.Get()
			if key.String() != "team/data" {
				t.Errorf("%s: %s is looked at", what, key)
			}
			p.due.Done(key)
		}
	}
}
