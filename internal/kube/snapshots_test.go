package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/dynamicinformer"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/informers"
	kubetest "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"sigs.k8s.io/yaml"

	"github.com/berth-storage/berth/internal/volume"
)

const (
	shotUID     = "5a5a"
	shotName    = "snapshot-" + shotUID
	shotContent = "snapcontent-" + shotUID
)

// The objects of snapshots, as users and the snapshot-controller make them.
const (
	aSnapshot = `
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: shot, namespace: team, uid: 5a5a}
spec: {volumeSnapshotClassName: keep-none, source: {persistentVolumeClaimName: data}}`
	aClass = `
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotClass
metadata: {name: keep-none}
driver: example.com/nfs
deletionPolicy: Delete`
	aContent = `
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotContent
metadata:
  name: snapcontent-5a5a
  uid: c0
  annotations: {berth.storage/instance: local-instance}
  finalizers: [snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection]
spec:
  driver: example.com/nfs
  deletionPolicy: Delete
  volumeSnapshotClassName: keep-none
  source: {volumeHandle: local/pvc-9d9d5d0f}
  volumeSnapshotRef: {apiVersion: snapshot.storage.k8s.io/v1, kind: VolumeSnapshot, namespace: team, name: shot, uid: 5a5a}`
	aContentOfAnAdministrator = `
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotContent
metadata: {name: imported, uid: c1}
spec:
  driver: example.com/nfs
  deletionPolicy: Delete
  source: {snapshotHandle: local/snapshot-old}
  volumeSnapshotRef: {kind: VolumeSnapshot, namespace: team, name: imported, uid: 6b6b}`
)

// parseYAML gives the object of a manifest in which some texts are replaced.
func parseYAML(t testing.TB, manifest string, replace ...string) *unstructured.Unstructured {
	t.Helper()
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(manifest, replace[i]) {
			t.Fatalf("no %q in %s", replace[i], manifest)
		}
	}
	object := new(unstructured.Unstructured)
	if err := yaml.Unmarshal([]byte(strings.NewReplacer(replace...).Replace(manifest)), &object.Object); err != nil {
		t.Fatal(err)
	}
	return object
}

// shooting is a snapshotter and its surroundings.
type shooting struct {
	*snapshotter
	t       *testing.T
	api     *dynamicfake.FakeDynamicClient
	volumes *fakeVolumes
	core    informers.SharedInformerFactory
	caches  dynamicinformer.DynamicSharedInformerFactory
}

func newObjects(objects ...*unstructured.Unstructured) *dynamicfake.FakeDynamicClient {
	var all []runtime.Object
	for _, o := range objects {
		all = append(all, o)
	}
	return dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		snapshotResource(snapshotsPlural): "VolumeSnapshotList", snapshotResource(contentsPlural): "VolumeSnapshotContentList",
		snapshotResource(snapshotClasses): "VolumeSnapshotClassList",
	}, all...)
}

// newShooting makes one with a claim that is bound to a volume of ours.
func newShooting(t *testing.T, objects ...*unstructured.Unstructured) *shooting {
	t.Helper()
	_, claim, pv := growingObjects()
	pool, volumes := newPool("local")
	client := newClient(claim.DeepCopy())
	s := &shooting{
		t: t, api: newObjects(objects...), volumes: volumes, core: informers.NewSharedInformerFactory(client, 0),
	}
	s.caches = dynamicinformer.NewDynamicSharedInformerFactory(s.api, 0)
	p := newProvisioner(client, pool)
	p.objects = s.api
	s.snapshotter = newSnapshotter(p, s.core, s.caches, record.NewFakeRecorder(50))
	t.Cleanup(s.queue.ShutDown)
	s.setClaim(claim, pv)
	return s
}

// setClaim has the caches hold these.
func (s *shooting) setClaim(claim *v1.PersistentVolumeClaim, pv *v1.PersistentVolume) {
	s.t.Helper()
	claims, pvs := s.core.Core().V1().PersistentVolumeClaims().Informer(), s.core.Core().V1().PersistentVolumes().Informer()
	if err := errors.Join(claims.GetIndexer().Add(claim), pvs.GetIndexer().Add(pv)); err != nil {
		s.t.Fatal(err)
	}
}

// read brings the caches to what the API server has.
func (s *shooting) read() {
	s.t.Helper()
	for _, plural := range []string{snapshotsPlural, contentsPlural, snapshotClasses} {
		list, err := s.api.Resource(snapshotResource(plural)).List(s.t.Context(), metav1.ListOptions{})
		if err != nil {
			s.t.Fatal(err)
		}
		var objects []any
		for i := range list.Items {
			objects = append(objects, &list.Items[i])
		}
		if err := s.caches.ForResource(snapshotResource(plural)).Informer().GetIndexer().Replace(objects, ""); err != nil {
			s.t.Fatal(err)
		}
	}
}

// look has the snapshotter look once at all that there is.
func (s *shooting) look() error {
	s.t.Helper()
	s.read()
	err := s.lookAtSnapshot(s.t.Context(), cache.ObjectName{Namespace: "team", Name: "shot"})
	s.read()
	for _, name := range []string{shotContent, "imported"} {
		err = errors.Join(err, s.lookAtContent(s.t.Context(), cache.ObjectName{Name: name}))
	}
	return err
}

// content gives a content; nil if there is none.
func (s *shooting) content(name string) *snapshotContent {
	s.t.Helper()
	object, err := s.api.Resource(snapshotResource(contentsPlural)).Get(s.t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		s.t.Fatal(err)
	}
	content, err := parseObject[snapshotContent](object)
	if err != nil {
		s.t.Fatal(err)
	}
	return content
}

// change replaces an object.
func (s *shooting) change(plural string, object *unstructured.Unstructured) {
	s.t.Helper()
	if err := s.api.Tracker().Update(snapshotResource(plural), object, object.GetNamespace()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *shooting) said() string {
	var all []string
	for {
		select {
		case e := <-s.events.(*record.FakeRecorder).Events:
			all = append(all, e)
		default:
			return strings.Join(all, "\n")
		}
	}
}

func TestSnapshotIsTakenAndContentSaysSo(t *testing.T) {
	s := newShooting(t, parseYAML(t, aSnapshot), parseYAML(t, aClass))
	if err := s.look(); err != nil {
		t.Fatal(err)
	}
	got := s.content(shotContent)
	got.ObjectMeta = metav1.ObjectMeta{Annotations: got.Annotations}
	want := &snapshotContent{
		ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{annInstance: "local-instance"}},
		Spec: contentSpec{
			Driver: provisioned, DeletionPolicy: "Delete", Class: new("keep-none"), Source: contentSource{Volume: new("local/" + volumeName)},
			Snapshot: v1.ObjectReference{APIVersion: "snapshot.storage.k8s.io/v1", Kind: "VolumeSnapshot", Namespace: "team", Name: "shot", UID: shotUID},
		},
		Status: contentStatus{Snapshot: new("local/" + shotName), Ready: true, RestoreSize: new(int64(1 << 30)), Created: new(int64(1000e9))},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the content (-want +got):\n%s", diff)
	}
	shot := volume.SnapshotSpec{Name: parseName(t, shotName), Of: parseName(t, volumeName), Namespace: "team", Cluster: clusterUID}
	if diff := cmp.Diff([]volume.SnapshotSpec{shot}, s.volumes.shot, cmp.AllowUnexported(volume.Name{})); diff != "" {
		t.Errorf("the pool was asked for (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{shotName}, s.volumes.published); diff != "" {
		t.Errorf("the scavenger may take a snapshot that is ready (-want +got):\n%s", diff)
	}
	if said := s.said(); !strings.Contains(said, "Normal SnapshotCreated") {
		t.Errorf("said: %s", said)
	}
	// A second look finds all as it should be.
	s.change(snapshotsPlural, parseYAML(t, aSnapshot, "\nspec:", readyStatus))
	if err := s.look(); err != nil || len(s.volumes.shot) != 1 {
		t.Errorf("a ready content: %v, the pool was asked %d times", err, len(s.volumes.shot))
	}
}

func TestSnapshotOfTheDefaultClass(t *testing.T) {
	const noClass = "volumeSnapshotClassName: keep-none, "
	byDefault := func(name, driver string) *unstructured.Unstructured {
		return parseYAML(t, aClass, "{name: keep-none}", `{name: `+name+`, annotations: {snapshot.storage.kubernetes.io/is-default-class: "true"}}`, "example.com/nfs", driver)
	}
	s := newShooting(t, parseYAML(t, aSnapshot, noClass, ""), parseYAML(t, aClass), byDefault("ours", provisioned), byDefault("theirs", "example.com/other"))
	if err := s.look(); err != nil {
		t.Fatal(err)
	}
	snapshot, err := s.api.Resource(snapshotResource(snapshotsPlural)).Namespace("team").Get(t.Context(), "shot", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if class, _, _ := unstructured.NestedString(snapshot.Object, "spec", "volumeSnapshotClassName"); class != "ours" || *s.content(shotContent).Spec.Class != "ours" {
		t.Errorf("the VolumeSnapshot has class %q, and the content %q", class, *s.content(shotContent).Spec.Class)
	}
	for what, classes := range map[string][]*unstructured.Unstructured{
		"not one default class but 0":       {parseYAML(t, aClass), byDefault("theirs", "example.com/other")},
		"not one default class but 2: a, b": {byDefault("b", provisioned), byDefault("a", provisioned)},
	} {
		s := newShooting(t, append(classes, parseYAML(t, aSnapshot, noClass, ""))...)
		if err := s.look(); err == nil || s.content(shotContent) != nil {
			t.Errorf("%s: error %v, content %v", what, err, s.content(shotContent))
		}
		if said := s.said(); !strings.Contains(said, what) {
			t.Errorf("want %q, said: %s", what, said)
		}
	}
}

// A claim that was deleted and made again has the volume of another one, which may be retained.
func TestSnapshotOfAClaimThatWasMadeAgain(t *testing.T) {
	s := newShooting(t, parseYAML(t, aSnapshot), parseYAML(t, aClass))
	claims := s.provisioner.client.CoreV1().PersistentVolumeClaims("team")
	again, err := claims.Get(t.Context(), "data", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	again.UID = "another"
	if _, err := claims.Update(t.Context(), again, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.look(); !errors.Is(err, volume.ErrBusy) || s.content(shotContent) != nil || s.volumes.shot != nil {
		t.Errorf("error %v, taken %v", err, s.volumes.shot)
	}
}

func TestSnapshotThatIsNotOursToTake(t *testing.T) {
	for name, c := range map[string]struct {
		snapshot []string // replaced in aSnapshot
		change   func(*v1.PersistentVolumeClaim, *v1.PersistentVolume)
		again    bool // it may be ours later
	}{
		"another driver's volume": {nil, func(_ *v1.PersistentVolumeClaim, pv *v1.PersistentVolume) { pv.Annotations = nil }, false},
		"a volume that is another claim's": {nil, func(_ *v1.PersistentVolumeClaim, pv *v1.PersistentVolume) {
			pv.Spec.ClaimRef.UID = "other"
		}, false},
		"a claim that is not bound":   {nil, func(c *v1.PersistentVolumeClaim, _ *v1.PersistentVolume) { c.Status.Phase = v1.ClaimPending }, true},
		"no claim":                    {[]string{"persistentVolumeClaimName: data", "persistentVolumeClaimName: other"}, nil, true},
		"a snapshot that there is":    {[]string{"persistentVolumeClaimName: data", "volumeSnapshotContentName: x"}, nil, false},
		"a VolumeSnapshot that goes":  {[]string{"uid: 5a5a", `uid: 5a5a, deletionTimestamp: "2026-01-01T00:00:00Z", finalizers: [x/y]`}, nil, false},
		"a VolumeSnapshot that is ok": {[]string{"\nspec:", "\nstatus: {readyToUse: true}\nspec:"}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShooting(t, parseYAML(t, aSnapshot, c.snapshot...), parseYAML(t, aClass))
			if c.change != nil {
				_, claim, pv := growingObjects()
				c.change(claim, pv)
				s.setClaim(claim, pv)
			}
			if err := s.look(); (err != nil) != c.again {
				t.Errorf("error %v, want one: %v", err, c.again)
			}
			if content := s.content(shotContent); content != nil {
				t.Errorf("there is a content: %v", content)
			}
			if said := s.said(); said != "" {
				t.Errorf("said: %s", said)
			}
		})
	}
}

// The cache has a VolumeSnapshot that the API server has no more.
func TestContentIsNotMadeForAVolumeSnapshotThatIsGone(t *testing.T) {
	for name, now := range map[string]*unstructured.Unstructured{
		"gone": nil, "another one of its name": parseYAML(t, aSnapshot, "uid: 5a5a", "uid: 7c7c"),
		"being deleted": parseYAML(t, aSnapshot, "uid: 5a5a", `uid: 5a5a, deletionTimestamp: "2026-01-01T00:00:00Z", finalizers: [x/y]`),
	} {
		s := newShooting(t, parseYAML(t, aSnapshot), parseYAML(t, aClass))
		s.read()
		if now == nil {
			if err := s.api.Tracker().Delete(snapshotResource(snapshotsPlural), "team", "shot"); err != nil {
				t.Fatal(err)
			}
		} else {
			s.change(snapshotsPlural, now)
		}
		if err := s.lookAtSnapshot(t.Context(), cache.ObjectName{Namespace: "team", Name: "shot"}); err != nil || s.content(shotContent) != nil {
			t.Errorf("%s: %v, content %v", name, err, s.content(shotContent))
		}
	}
}

func TestSnapshotThatCannotBeTaken(t *testing.T) {
	for name, c := range map[string]struct {
		class []string // replaced in aClass
		fail  error
		says  string
		quiet bool // it is said by an event, and not in the content
	}{
		"a pool that takes none":    {nil, fmt.Errorf("%w: pool local takes no snapshots", volume.ErrUnsupported), "takes no snapshots", false},
		"a pool that is full":       {nil, fmt.Errorf("%w: 3 bytes are left", volume.ErrNoSpace), "3 bytes are left", false},
		"unknown parameters":        {[]string{"deletionPolicy", "parameters: {b: x, a: z}\ndeletionPolicy"}, nil, "unknown parameters: a, b;", false},
		"another driver's class":    {[]string{"example.com/nfs", "example.com/other"}, nil, "keep-none is of driver example.com/other", true},
		"a class that is not there": {[]string{"keep-none", "other"}, nil, "there is no VolumeSnapshotClass keep-none", true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShooting(t, parseYAML(t, aSnapshot), parseYAML(t, aClass, c.class...))
			s.volumes.fail = c.fail
			if err := s.look(); err == nil {
				t.Error("no error: it is not tried again")
			}
			if said := s.said(); !strings.Contains(said, "Warning SnapshotCreationFailed") || !strings.Contains(said, c.says) {
				t.Errorf("want %q, said: %s", c.says, said)
			}
			content := s.content(shotContent)
			if c.quiet {
				if content != nil {
					t.Errorf("there is a content: %v", content)
				}
				return
			}
			if e := content.Status.Error; e == nil || !strings.Contains(e.Message, c.says) || content.Status.Ready {
				t.Errorf("want %q, the content's status is %+v", c.says, content.Status)
			}
			since := content.Status.Error.Time
			_ = s.look()
			if again := s.content(shotContent).Status.Error.Time; !again.Equal(&since) {
				t.Error("the same error was written again")
			}
			s.volumes.fail = nil
			s.change(snapshotClasses, parseYAML(t, aClass))
			if err := s.look(); err != nil {
				t.Fatal(err)
			}
			if content = s.content(shotContent); content.Status.Error != nil || !content.Status.Ready {
				t.Errorf("when it can be taken the content's status is %+v", content.Status)
			}
		})
	}
}

func TestSnapshotThatIsCopiedIsAskedForAgain(t *testing.T) {
	s := newShooting(t, parseYAML(t, aSnapshot), parseYAML(t, aClass))
	s.volumes.fail = fmt.Errorf("%w: 7 files up to now", volume.ErrPending)
	if err := s.look(); !errors.Is(err, volume.ErrPending) {
		t.Errorf("error %v, want ErrPending", err)
	}
	if said := s.said(); !strings.Contains(said, "Normal CreatingSnapshot") || !strings.Contains(said, "7 files up to now") {
		t.Errorf("said: %s", said)
	}
	if status := s.content(shotContent).Status; status.Ready || status.Error != nil {
		t.Errorf("the content's status is %+v", status)
	}
}

// served is what an API server that knows snapshots says of them.
func served(plurals ...string) []*metav1.APIResourceList {
	list := &metav1.APIResourceList{GroupVersion: "snapshot.storage.k8s.io/v1"}
	for _, plural := range plurals {
		list.APIResources = append(list.APIResources, metav1.APIResource{Name: plural})
	}
	return []*metav1.APIResourceList{list}
}

func TestSnapshotsAreOffUntilTheClusterKnowsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newClient()
		f := newFrontEnd(client, &Pool{})
		var log bytes.Buffer
		f.o.Log = slog.New(slog.NewTextHandler(&log, nil))
		var asked []time.Duration
		began := time.Now()
		client.PrependReactor("get", "resource", func(kubetest.Action) (bool, runtime.Object, error) {
			asked = append(asked, time.Since(began))
			switch len(asked) {
			case 2: // without the API server
				return true, nil, errAPI
			case 3: // while they are being installed
				client.Resources = served(snapshotsPlural, snapshotClasses)
			case 4:
				client.Resources = served(snapshotsPlural, contentsPlural, snapshotClasses)
			}
			return false, nil, nil
		})
		if !f.awaitSnapshots(t.Context()) {
			t.Error("snapshots stay off")
		}
		if diff := cmp.Diff([]time.Duration{0, lookForSnapshots, 2 * lookForSnapshots, 3 * lookForSnapshots}, asked); diff != "" {
			t.Errorf("asked at (-want +got):\n%s", diff)
		}
		if n := strings.Count(log.String(), "snapshots are off"); n != 1 {
			t.Errorf("it was said %d times that snapshots are off: %s", n, &log)
		}

		client.Resources = nil
		ctx, cancel := context.WithTimeout(t.Context(), lookForSnapshots/2)
		defer cancel()
		if f.awaitSnapshots(ctx) {
			t.Error("snapshots are on at the end")
		}
	})
}

func TestFrontEndServesSnapshots(t *testing.T) {
	_, claim, pv := growingObjects()
	claim.Spec.Resources = v1.VolumeResourceRequirements{Requests: storage("1Gi")}
	client := newClient(claim, pv, newClass(), &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: clusterUID}})
	client.Resources = served(snapshotsPlural, contentsPlural, snapshotClasses)
	pool, volumes := newPool("local")
	f := newFrontEnd(client, pool)
	objects := newObjects(parseYAML(t, aSnapshot), parseYAML(t, aClass))
	f.client.objects = objects
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), logr.Discard()))
	ended := make(chan error)
	go func() { ended <- f.Run(ctx) }()

	contents := objects.Resource(snapshotResource(contentsPlural))
	eventually(func() bool {
		object, err := contents.Get(ctx, shotContent, metav1.GetOptions{})
		if err != nil {
			return false
		}
		ready, _, _ := unstructured.NestedBool(object.Object, "status", "readyToUse")
		return ready
	})
	deleting := parseYAML(t, aContent)
	deleting.SetDeletionTimestamp(new(metav1.Now()))
	deleting.SetAnnotations(map[string]string{annInstance: "local-instance", annBeingDeleted: "yes"})
	eventually(func() bool {
		object, err := contents.Get(ctx, shotContent, metav1.GetOptions{})
		if err == nil && object.GetDeletionTimestamp() == nil {
			// Once more if a patch that was under way has written what there was before: the fake client reads, then writes.
			err = objects.Tracker().Update(snapshotResource(contentsPlural), deleting, "")
		}
		return err == nil && object.GetDeletionTimestamp() != nil && len(object.GetFinalizers()) == 0
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	// Once more by who does not see yet that it is done.
	if diff := cmp.Diff([]string{shotName + " " + clusterUID}, slices.Compact(volumes.unshot)); diff != "" {
		t.Errorf("deleted (-want +got):\n%s", diff)
	}
}
