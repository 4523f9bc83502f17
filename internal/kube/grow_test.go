package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	kubetest "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/berth-storage/berth/internal/volume"
)

// growingObjects are a class that lets claims grow, a claim of it that has 1Gi and asks
// for 2Gi, and its PersistentVolume.
func growingObjects() (*storagev1.StorageClass, *v1.PersistentVolumeClaim, *v1.PersistentVolume) {
	class := newClass()
	class.AllowVolumeExpansion = new(true)
	claim := newClaim()
	claim.Spec.StorageClassName, claim.Spec.VolumeName = new(class.Name), volumeName
	claim.Spec.Resources.Requests = storage("2Gi")
	claim.Status = v1.PersistentVolumeClaimStatus{Phase: v1.ClaimBound, Capacity: storage("1Gi")}
	pv := newVolume("local", "local-instance", volumeName)
	pv.Spec.Capacity = storage("1Gi")
	pv.Spec.ClaimRef = &v1.ObjectReference{Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID}
	return class, claim, pv
}

func storage(quantity string) v1.ResourceList {
	return v1.ResourceList{v1.ResourceStorage: resource.MustParse(quantity)}
}

// growth is a grower that works on one claim, and its surroundings.
type growth struct {
	*grower
	t       *testing.T
	client  *fake.Clientset
	volumes *fakeVolumes
	caches  informers.SharedInformerFactory
}

func newGrowth(t *testing.T) *growth {
	t.Helper()
	class, claim, pv := growingObjects()
	return newGrowthOf(t, class, claim, pv)
}

func newGrowthOf(t *testing.T, class *storagev1.StorageClass, claim *v1.PersistentVolumeClaim, pv *v1.PersistentVolume) *growth {
	t.Helper()
	client := newClient(claim, pv)
	pool, volumes := newPool("local")
	g := &growth{t: t, client: client, volumes: volumes, caches: informers.NewSharedInformerFactory(client, 0)}
	core, classes := g.caches.Core().V1(), g.caches.Storage().V1().StorageClasses()
	g.grower = &grower{
		provisioner: newProvisioner(client, pool), claims: core.PersistentVolumeClaims().Lister(), volumes: core.PersistentVolumes().Lister(),
		classes: classes.Lister(), events: record.NewFakeRecorder(20), allowed: true, queue: newQueue(), log: quiet(),
	}
	t.Cleanup(g.queue.ShutDown)
	if class != nil {
		if err := classes.Informer().GetIndexer().Add(class); err != nil {
			t.Fatal(err)
		}
	}
	g.read()
	return g
}

// read brings the caches to what the API server has.
func (g *growth) read() {
	g.t.Helper()
	claim, pv := g.now()
	err := errors.Join(
		g.caches.Core().V1().PersistentVolumeClaims().Informer().GetIndexer().Add(claim),
		g.caches.Core().V1().PersistentVolumes().Informer().GetIndexer().Add(pv),
	)
	if err != nil {
		g.t.Fatal(err)
	}
}

func (g *growth) now() (*v1.PersistentVolumeClaim, *v1.PersistentVolume) {
	g.t.Helper()
	claim, err := g.client.CoreV1().PersistentVolumeClaims("team").Get(g.t.Context(), "data", metav1.GetOptions{})
	pv, pvErr := g.client.CoreV1().PersistentVolumes().Get(g.t.Context(), volumeName, metav1.GetOptions{})
	if err := errors.Join(err, pvErr); err != nil {
		g.t.Fatal(err)
	}
	return claim, pv
}

func (g *growth) said() (events []string) {
	for {
		select {
		case e := <-g.events.(*record.FakeRecorder).Events:
			events = append(events, e)
		default:
			return events
		}
	}
}

// state is the claim's and its PersistentVolume's as far as growing goes.
func (g *growth) state() string {
	claim, pv := g.now()
	text := fmt.Sprintf("PV %s, claim %s", pv.Spec.Capacity.Storage(), claim.Status.Capacity.Storage())
	if r, found := claim.Status.AllocatedResources[v1.ResourceStorage]; found {
		text += fmt.Sprintf(", %s to %s", claim.Status.AllocatedResourceStatuses[v1.ResourceStorage], &r)
	}
	for _, c := range claim.Status.Conditions {
		text += fmt.Sprintf(", %s %s", c.Type, c.Status)
	}
	return text
}

var team = cache.ObjectName{Namespace: "team", Name: "data"} // the claim's

const hasGrown = "PV 2Gi, claim 2Gi"

func (g *growth) want(state string) {
	g.t.Helper()
	if got := g.state(); got != state {
		g.t.Errorf("got %s, want %s", got, state)
	}
}

func TestAClaimGrows(t *testing.T) {
	g := newGrowth(t)
	g.volumes.limit = "xfs project quota"
	if err := g.look(t.Context(), team); err != nil {
		t.Fatal(err)
	}
	g.want(hasGrown)
	if diff := cmp.Diff([]string{volumeName + " " + clusterUID + " 2147483648"}, g.volumes.grown); diff != "" {
		t.Errorf("the volume (-want +got):\n%s", diff)
	}
	events := []string{"Normal Resizing Berth makes volume pvc-9d9d5d0f grow to 2Gi", "Normal VolumeResizeSuccessful volume pvc-9d9d5d0f has grown to 2Gi"}
	if diff := cmp.Diff(events, g.said()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	g.read()
	if err := g.look(t.Context(), team); err != nil || len(g.volumes.grown) != 1 {
		t.Errorf("again: error %v, the volume was asked to grow %d times", err, len(g.volumes.grown))
	}
}

func TestAnAdvisorySizeIsSaidToBeOneWhenAClaimGrows(t *testing.T) {
	g := newGrowth(t)
	if err := g.look(t.Context(), team); err != nil {
		t.Fatal(err)
	}
	if events := g.said(); len(events) != 2 || !strings.HasSuffix(events[1], "nothing keeps it to that size, which is advisory") {
		t.Errorf("got events %q", events)
	}
}

// A run that was cut off at any step is gone on with.
func TestGrowthThatIsCutOff(t *testing.T) {
	for step, want := range []string{
		"PV 1Gi, claim 1Gi",
		"PV 1Gi, claim 1Gi, ControllerResizeInProgress to 2Gi, Resizing True",
		"PV 2Gi, claim 1Gi, ControllerResizeInProgress to 2Gi, Resizing True",
		hasGrown,
	} {
		g := newGrowth(t)
		writes := 0
		g.client.PrependReactor("patch", "*", func(kubetest.Action) (bool, runtime.Object, error) {
			if writes++; writes == step+1 {
				return true, nil, errAPI
			}
			return false, nil, nil
		})
		if err := g.look(t.Context(), team); (err == nil) != (want == hasGrown) {
			t.Errorf("cut off after %d writes: error %v", step, err)
		}
		g.want(want)
		g.read() // as after a new start
		if err := g.look(t.Context(), team); err != nil {
			t.Errorf("after it was cut off after %d writes: %v", step, err)
		}
		g.want(hasGrown)
	}
}

func TestGrowthThatFails(t *testing.T) {
	for _, c := range []struct {
		name  string
		fail  error
		class func(*storagev1.StorageClass)
		want  string // of the claim's status
		event string
	}{
		{"no space", volume.ErrNoSpace, nil, "ControllerResizeInfeasible to 2Gi, Resizing True, ControllerResizeError True", "not enough space"},
		{"unsupported", volume.ErrUnsupported, nil, "ControllerResizeInfeasible to 2Gi, Resizing True, ControllerResizeError True", "not supported"},
		{"busy", volume.ErrBusy, nil, "ControllerResizeInProgress to 2Gi, Resizing True", "busy"},
		{"unknown", volume.ErrUnknown, nil, "ControllerResizeInProgress to 2Gi, Resizing True", "outcome unknown"},
		{
			"a class that does not let it", nil, func(c *storagev1.StorageClass) { c.AllowVolumeExpansion = nil },
			"ControllerResizeInfeasible to 2Gi, Resizing True, ControllerResizeError True", `its StorageClass "berth" does not say allowVolumeExpansion`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			class, claim, pv := growingObjects()
			if c.class != nil {
				c.class(class)
			}
			g := newGrowthOf(t, class, claim, pv)
			g.volumes.fail = c.fail
			if err := g.look(t.Context(), team); err == nil {
				t.Error("no error")
			}
			g.want("PV 1Gi, claim 1Gi, " + c.want)
			if events := g.said(); len(events) != 2 || !strings.HasPrefix(events[1], "Warning VolumeResizeFailed ") || !strings.Contains(events[1], c.event) {
				t.Errorf("got events %q", events)
			}

			g.read()
			g.volumes.fail, class.AllowVolumeExpansion = nil, new(true)
			if err := g.look(t.Context(), team); err != nil {
				t.Fatal(err)
			}
			g.want(hasGrown)
			if events := g.said(); len(events) != 1 || !strings.HasPrefix(events[0], "Normal VolumeResizeSuccessful ") {
				t.Errorf("when it was possible: got events %q", events)
			}
		})
	}
}

func TestAClassThatIsGoneLetsNothingGrow(t *testing.T) {
	_, claim, pv := growingObjects()
	g := newGrowthOf(t, nil, claim, pv)
	if err := g.look(t.Context(), team); !errors.Is(err, volume.ErrUnsupported) || len(g.volumes.grown) > 0 {
		t.Errorf("error %v; %d volumes grew", err, len(g.volumes.grown))
	}
}

// Storage that limits in blocks gives whole ones.
func TestWhatIsRoundedUpIsTold(t *testing.T) {
	class, claim, pv := growingObjects()
	claim.Spec.Resources.Requests = storage("1500001k")
	g := newGrowthOf(t, class, claim, pv)
	g.provisioner.pools[0].Volumes = rounding{g.volumes}
	if err := g.look(t.Context(), team); err != nil {
		t.Fatal(err)
	}
	g.want("PV 1431Mi, claim 1431Mi")
}

type rounding struct{ *fakeVolumes }

func (r rounding) Grow(ctx context.Context, n volume.Name, cluster string, bytes int64) (volume.Volume, error) {
	return r.fakeVolumes.Grow(ctx, n, cluster, (bytes+1<<20-1)>>20<<20)
}

func TestClaimsThatAreNotOursToGrow(t *testing.T) {
	for what, change := range map[string]func(*v1.PersistentVolumeClaim, *v1.PersistentVolume){
		"another instance's":     func(_ *v1.PersistentVolumeClaim, pv *v1.PersistentVolume) { pv.Annotations[annInstance] = "other" },
		"no Berth's":             func(_ *v1.PersistentVolumeClaim, pv *v1.PersistentVolume) { pv.Annotations = nil },
		"of another claim":       func(_ *v1.PersistentVolumeClaim, pv *v1.PersistentVolume) { pv.Spec.ClaimRef.UID = "other" },
		"of no claim":            func(_ *v1.PersistentVolumeClaim, pv *v1.PersistentVolume) { pv.Spec.ClaimRef = nil },
		"not bound":              func(c *v1.PersistentVolumeClaim, _ *v1.PersistentVolume) { c.Status.Phase = v1.ClaimPending },
		"lost":                   func(c *v1.PersistentVolumeClaim, _ *v1.PersistentVolume) { c.Spec.VolumeName = "pvc-other" },
		"being deleted":          func(c *v1.PersistentVolumeClaim, _ *v1.PersistentVolume) { beingDeleted(c) },
		"as big as asked for":    func(c *v1.PersistentVolumeClaim, _ *v1.PersistentVolume) { c.Status.Capacity = storage("2Gi") },
		"bigger than asked for":  func(c *v1.PersistentVolumeClaim, _ *v1.PersistentVolume) { c.Status.Capacity = storage("3Gi") },
		"no claim by that name ": func(c *v1.PersistentVolumeClaim, _ *v1.PersistentVolume) { c.Spec.VolumeName = "" },
	} {
		class, claim, pv := growingObjects()
		change(claim, pv)
		g := newGrowthOf(t, class, claim, pv)
		before := g.state()
		if err := g.look(t.Context(), team); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if events := g.said(); len(g.volumes.grown)+len(events) > 0 || g.state() != before {
			t.Errorf("%s: grew %q, said %q, is %s", what, g.volumes.grown, events, g.state())
		}
	}
	g := newGrowth(t)
	if err := g.look(t.Context(), cache.ObjectName{Namespace: "team", Name: "none"}); err != nil {
		t.Errorf("a claim that is gone: %v", err)
	}
}

// An annotation that names another volume must not let that grow.
func TestAVolumeOfAnotherNameDoesNotGrow(t *testing.T) {
	class, claim, pv := growingObjects()
	pv.Annotations[annVolume] = "local/pvc-other"
	g := newGrowthOf(t, class, claim, pv)
	if err := g.look(t.Context(), team); !errors.Is(err, volume.ErrForeign) || len(g.volumes.grown) > 0 {
		t.Errorf("error %v; grew %q", err, g.volumes.grown)
	}
}

// A claim that cannot grow is tried after longer and longer pauses, and the next one that
// it asks for at once again.
func TestGrowthBacksOff(t *testing.T) {
	g := newGrowth(t)
	g.volumes.fail = volume.ErrNoSpace
	for tries := range 3 {
		g.queue.Add(team)
		if !g.next(t.Context()) || g.queue.NumRequeues(team) != tries+1 {
			t.Errorf("after %d failures %d are counted", tries+1, g.queue.NumRequeues(team))
		}
		g.read()
	}
	if g.queue.Len() > 0 {
		t.Error("it is tried again at once")
	}
	g.volumes.fail = nil
	g.queue.Add(team)
	if !g.next(t.Context()) || g.queue.NumRequeues(team) != 0 {
		t.Errorf("after it has grown %d failures are counted", g.queue.NumRequeues(team))
	}
	g.want(hasGrown)
}

func TestGrowthWithoutTheRight(t *testing.T) {
	g := newGrowth(t)
	g.allowed = false
	if err := g.look(t.Context(), team); !errors.Is(err, volume.ErrUnsupported) {
		t.Errorf("got error %v", err)
	}
	if events := g.said(); len(g.volumes.grown) > 0 || len(events) != 1 || !strings.Contains(events[0], "persistentvolumeclaims/status") {
		t.Errorf("grew %q, said %q", g.volumes.grown, events)
	}
	g.want("PV 1Gi, claim 1Gi")
}

// What somebody has changed meanwhile is read again before anything is said of it.
func TestAClaimThatChangesWhileItGrows(t *testing.T) {
	g := newGrowth(t)
	g.client.PrependReactor("patch", "persistentvolumeclaims", func(kubetest.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewConflict(v1.Resource("persistentvolumeclaims"), "data", errors.New("changed"))
	})
	if err := g.look(t.Context(), team); !apierrors.IsConflict(err) {
		t.Errorf("got error %v", err)
	}
	if events := g.said(); len(events) != 1 || len(g.volumes.grown) > 0 {
		t.Errorf("said %q, grew %q", events, g.volumes.grown)
	}
}

func TestWhichChangesAreLookedAt(t *testing.T) {
	_, claim, _ := growingObjects()
	claim.ResourceVersion = "1"
	changed := func(change func(*v1.PersistentVolumeClaim)) *v1.PersistentVolumeClaim {
		c := claim.DeepCopy()
		c.ResourceVersion = "2"
		change(c)
		return c
	}
	smaller := changed(func(c *v1.PersistentVolumeClaim) { c.Spec.Resources.Requests = storage("1Gi") })
	for _, c := range []struct {
		name        string
		before, now *v1.PersistentVolumeClaim
		want        int
	}{
		{"seen at the start", nil, claim, 1},
		{"raised", smaller, claim, 1},
		{"seen again", claim, claim, 1},
		{"bound", changed(func(c *v1.PersistentVolumeClaim) { c.Status.Phase = v1.ClaimPending }), claim, 1},
		{"our own status", claim, changed(func(c *v1.PersistentVolumeClaim) { c.Status.Conditions = []v1.PersistentVolumeClaimCondition{{}} }), 0},
		{"taken back", claim, smaller, 0},
	} {
		g := &grower{queue: newQueue()}
		if c.before == nil {
			g.handler().OnAdd(c.now, true)
		} else {
			g.handler().OnUpdate(c.before, c.now)
		}
		if got := g.queue.Len(); got != c.want {
			t.Errorf("%s: %d claims are queued, want %d", c.name, got, c.want)
		}
		g.queue.ShutDown()
	}
}

// The whole of it, with the caches and queue of a term; tried again after a failure.
func TestFrontEndLetsAClaimGrow(t *testing.T) {
	class, claim, pv := growingObjects()
	client := newClient(class, claim, pv, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: clusterUID}})
	failed := false
	client.PrependReactor("patch", "persistentvolumes", func(kubetest.Action) (bool, runtime.Object, error) {
		if !failed {
			failed = true
			return true, nil, errAPI
		}
		return false, nil, nil
	})
	pool, volumes := newPool("local")
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), logr.Discard()))
	ended := make(chan error)
	go func() { ended <- newFrontEnd(client, pool).Run(ctx) }()
	g := &growth{t: t, client: client}
	eventually(func() bool { return g.state() == hasGrown })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := volumes.count(&volumes.grown); got < 2 {
		t.Errorf("the volume was asked to grow %d times, want twice at least", got)
	}
}
