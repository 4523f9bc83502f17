package kube

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	kubetest "k8s.io/client-go/testing"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"github.com/berth-storage/berth/internal/volume"
)

const readyStatus = "\nstatus: {readyToUse: true, boundVolumeSnapshotContentName: snapcontent-5a5a, restoreSize: 1Gi}\nspec:"

// restoring is a cluster with a claim that is to be restored from a VolumeSnapshot.
type restoring struct {
	claim             *v1.PersistentVolumeClaim
	snapshot, content *unstructured.Unstructured
	pool              *Pool
	volumes           *fakeVolumes
	record            volume.Volume
	denied            string // what cannot be read
}

func newRestoring(t *testing.T) *restoring {
	t.Helper()
	r := &restoring{
		claim: newClaim(), snapshot: parseYAML(t, aSnapshot, "\nspec:", readyStatus),
		content: parseYAML(t, aContent+"\nstatus: {readyToUse: true, snapshotHandle: local/snapshot-5a5a, restoreSize: 1073741824}"),
	}
	r.claim.Spec.DataSource = &v1.TypedLocalObjectReference{APIGroup: new(snapshotGroup), Kind: "VolumeSnapshot", Name: "shot"}
	r.claim.Spec.DataSourceRef = &v1.TypedObjectReference{APIGroup: new(snapshotGroup), Kind: "VolumeSnapshot", Name: "shot"}
	r.pool, r.volumes = newPool("local")
	spec := volume.SnapshotSpec{Name: parseName(t, shotName), Of: parseName(t, "pvc-5eed"), Namespace: "team", Cluster: clusterUID}
	r.record = volume.NewSnapshot(spec, volume.Volume{Name: spec.Of, Size: 1 << 30, Claim: volume.Claim{Namespace: "team", Name: "database"}}, at)
	r.record.State = volume.StateSnapshot
	return r
}

func (r *restoring) provision(t *testing.T) (controller.ProvisioningState, error) {
	t.Helper()
	var objects []*unstructured.Unstructured
	for _, o := range []*unstructured.Unstructured{r.snapshot, r.content} {
		if o != nil {
			objects = append(objects, o)
		}
	}
	api := newObjects(objects...)
	api.PrependReactor("get", r.denied, func(kubetest.Action) (bool, runtime.Object, error) { return r.denied != "", nil, errAPI })
	if r.volumes.begun == nil {
		r.volumes.begun = map[string]volume.Volume{r.record.Name.String(): r.record}
	}
	p := newProvisioner(newClient(r.claim), r.pool)
	p.objects = api
	_, state, err := p.Provision(t.Context(), options(r.claim, newClass()))
	return state, err
}

func TestClaimIsRestoredFromASnapshot(t *testing.T) {
	for name, change := range map[string]func(*restoring){
		"both fields":        func(*restoring) {},
		"dataSource only":    func(r *restoring) { r.claim.Spec.DataSourceRef = nil },
		"dataSourceRef only": func(r *restoring) { r.claim.Spec.DataSource = nil },
		"its own namespace":  func(r *restoring) { r.claim.Spec.DataSourceRef.Namespace = new("team") },
		"a snapshot of the claim's own name": func(r *restoring) {
			r.snapshot.SetName("data")
			r.claim.Spec.DataSource.Name, r.claim.Spec.DataSourceRef.Name = "data", "data"
		},
		// What was begun is finished.
		"a VolumeSnapshot that was deleted meanwhile": func(r *restoring) {
			r.snapshot, r.content = nil, nil
			r.volumes.begun = map[string]volume.Volume{volumeName: {ClonedFrom: r.record.SnapshotOf, FromSnapshot: r.record.Name}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRestoring(t)
			change(r)
			if _, err := r.provision(t); err != nil {
				t.Fatal(err)
			}
			want := &volume.Source{Volume: r.record.SnapshotOf, Snapshot: r.record.Name}
			if diff := cmp.Diff(want, r.volumes.created[0].From, cmp.AllowUnexported(volume.Name{})); diff != "" {
				t.Errorf("made from (-want +got):\n%s", diff)
			}
		})
	}
}

func TestClaimsThatAreNotRestored(t *testing.T) {
	set := func(t *testing.T, o *unstructured.Unstructured, value any, path ...string) {
		t.Helper()
		if err := unstructured.SetNestedField(o.Object, value, path...); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		change func(*testing.T, *restoring)
		want   string // in the error
		state  controller.ProvisioningState
	}{
		"no VolumeSnapshot": {func(_ *testing.T, r *restoring) { r.snapshot = nil }, `VolumeSnapshot "shot" of namespace team does not exist`, controller.ProvisioningFinished},
		"another namespace": {func(_ *testing.T, r *restoring) { r.snapshot.SetNamespace("other") }, "does not exist", controller.ProvisioningFinished},
		"a snapshot of a namespace that is named": {
			func(_ *testing.T, r *restoring) { r.claim.Spec.DataSourceRef.Namespace = new("other") }, "of the same namespace", controller.ProvisioningFinished,
		},
		"being deleted": {func(_ *testing.T, r *restoring) {
			r.snapshot.SetDeletionTimestamp(&atTime)
			r.snapshot.SetFinalizers([]string{"x/y"})
		}, "is being deleted", controller.ProvisioningFinished},
		"not ready": {
			func(t *testing.T, r *restoring) { set(t, r.snapshot, false, "status", "readyToUse") }, "is not ready to use yet", controller.ProvisioningNoChange,
		},
		"no content": {func(_ *testing.T, r *restoring) { r.content = nil }, "has lost its VolumeSnapshotContent snapcontent-5a5a", controller.ProvisioningFinished},
		"another driver's": {
			func(t *testing.T, r *restoring) { set(t, r.content, "csi.example.com", "spec", "driver") }, "is of driver csi.example.com", controller.ProvisioningFinished,
		},
		"a content that is another one's": {
			func(t *testing.T, r *restoring) { set(t, r.content, "other", "spec", "volumeSnapshotRef", "uid") },
			"is not the one that VolumeSnapshotContent snapcontent-5a5a is bound to", controller.ProvisioningFinished,
		},
		"a content that is not ready": {
			func(t *testing.T, r *restoring) { set(t, r.content, false, "status", "readyToUse") }, "is not ready to use: its VolumeSnapshotContent", controller.ProvisioningNoChange,
		},
		"another instance's": {
			func(_ *testing.T, r *restoring) { r.content.SetAnnotations(map[string]string{annInstance: "other"}) }, "is in no pool of this Berth", controller.ProvisioningFinished,
		},
		"no record": {
			func(_ *testing.T, r *restoring) { r.volumes.begun = map[string]volume.Volume{} }, "has lost its snapshot snapshot-5a5a in pool local", controller.ProvisioningFinished,
		},
		"a volume": {func(_ *testing.T, r *restoring) { r.record.SnapshotOf = volume.Name{} }, "snapshot-5a5a in pool local is a volume", controller.ProvisioningFinished},
		"too big":  {func(_ *testing.T, r *restoring) { r.record.Size++ }, `VolumeSnapshot "shot" has 1073741825 bytes, and this claim asks for 1073741824`, controller.ProvisioningFinished},
		"clone-from too": {func(_ *testing.T, r *restoring) {
			r.claim.Annotations = map[string]string{"berth.storage/clone-from": "shot"}
		}, "name different things", controller.ProvisioningFinished},
		"of a group that is not known": {
			func(_ *testing.T, r *restoring) { r.claim.Spec.DataSourceRef.APIGroup = new("example.com") }, "an empty volume in its place would be wrong", controller.ProvisioningFinished,
		},
		"a VolumeSnapshot that cannot be read": {func(_ *testing.T, r *restoring) { r.denied = snapshotsPlural }, errAPI.Error(), controller.ProvisioningInBackground},
		"a content that cannot be read":        {func(_ *testing.T, r *restoring) { r.denied = contentsPlural }, errAPI.Error(), controller.ProvisioningInBackground},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRestoring(t)
			c.change(t, r)
			state, err := r.provision(t)
			if err == nil || !strings.Contains(err.Error(), c.want) || state != c.state {
				t.Errorf("%s, error %v, want %s, %q", state, err, c.state, c.want)
			}
			if len(r.volumes.created) > 0 {
				t.Errorf("made %+v", r.volumes.created)
			}
		})
	}
}

func TestRestoreThatGoesOnInTheBackground(t *testing.T) {
	r := newRestoring(t)
	r.volumes.fail = volume.ErrPending
	if state, err := r.provision(t); !errors.Is(err, volume.ErrPending) || state != controller.ProvisioningInBackground {
		t.Errorf("%s, error %v", state, err)
	}
}
