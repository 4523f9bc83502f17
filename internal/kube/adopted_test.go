package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kubetest "k8s.io/client-go/testing"
	"k8s.io/klog/v2"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"github.com/berth-storage/berth/internal/adopt"
	"github.com/berth-storage/berth/internal/volume"
)

// adoptedPV is a PersistentVolume that nfs-provisioner made.
func adoptedPV() *v1.PersistentVolume {
	return &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: volumeName, CreationTimestamp: metav1.NewTime(time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)),
			Annotations: map[string]string{
				"pv.kubernetes.io/provisioned-by": provisioned, "kubernetes.io/createdby": "nfs-dynamic-provisioner",
				"Provisioner_Id": "old-identity", "Export_Id": "7", "EXPORT_block": "EXPORT {}", "Project_Id": "0",
			},
		},
		Spec: v1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: v1.PersistentVolumeReclaimDelete,
			Capacity:                      v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")},
			ClaimRef:                      &v1.ObjectReference{Namespace: "team", Name: "data", UID: claimUID},
			PersistentVolumeSource:        v1.PersistentVolumeSource{NFS: &v1.NFSVolumeSource{Server: "10.0.0.1", Path: "/export/" + volumeName}},
		},
		Status: v1.PersistentVolumeStatus{Phase: v1.VolumeBound},
	}
}

// adoptedPool is a pool that has adopted the volume of adoptedPV.
func adoptedPool(t *testing.T, name string) (*Pool, *fakeVolumes) {
	t.Helper()
	pool, volumes := newPool(name)
	v := volume.Volume{Name: parseName(t, volumeName), Claim: claimOf(newClaim()), Origin: "nfs-provisioner"}
	v.Export.Path = "/export/" + volumeName
	volumes.adopted = map[string]volume.Volume{volumeName: v}
	return pool, volumes
}

// affinity is that of PersistentVolumes of one of some nodes.
func affinity(nodes ...string) *v1.VolumeNodeAffinity {
	return &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
		MatchExpressions: []v1.NodeSelectorRequirement{{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: nodes}},
	}}}}
}

func TestNodeOfAPersistentVolume(t *testing.T) {
	pv := adoptedPV()
	if got := nodeOf(pv); got != "" {
		t.Errorf("without an affinity it is of node %q", got)
	}
	for want, a := range map[string]*v1.VolumeNodeAffinity{"node-1": affinity("node-1"), "": affinity("node-1", "node-2")} {
		if pv.Spec.NodeAffinity = a; nodeOf(pv) != want {
			t.Errorf("with %+v it is of node %q, want %q", a, nodeOf(pv), want)
		}
	}
}

// openshift-pvmanager's PersistentVolumes do not say whose they are, and their policy is not what it does.
func TestTakingChargeOfPersistentVolumes(t *testing.T) {
	deleted, kept := adoptedPV(), adoptedPV()
	deleted.Name, kept.Name = "a", "b"
	for _, pv := range []*v1.PersistentVolume{deleted, kept} {
		pv.Annotations = map[string]string{"managed-by": "pvmanager.wimsey.us"}
		pv.Spec.PersistentVolumeReclaimPolicy = v1.PersistentVolumeReclaimRetain
	}
	client := newClient(deleted, kept, adoptedPV())
	found, others, err := Client{Interface: client}.AdoptableBy(t.Context(), "managed-by", "pvmanager.wimsey.us")
	if err != nil || len(found) != 2 || len(others) != 1 {
		t.Fatalf("found %v and %v, %v", found, others, err)
	}
	// One that is gone by now is no error, and one that says already whose it is stays as it is.
	done := adopt.PV{Name: volumeName, Annotations: map[string]string{annProvisionedBy: "pvmanager.wimsey.us"}}
	found = append(found, adopt.PV{Name: "gone"}, done, adopt.PV{Name: "not adopted"})
	reclaim := map[string]volume.Reclaim{"a": volume.ReclaimDelete, "b": volume.ReclaimRetain, "gone": volume.ReclaimDelete, volumeName: volume.ReclaimRetain}
	if err := (Client{Interface: client}).TakeCharge(t.Context(), "pvmanager.wimsey.us", found, reclaim); err != nil {
		t.Fatal(err)
	}
	if pv, err := client.CoreV1().PersistentVolumes().Get(t.Context(), volumeName, metav1.GetOptions{}); err != nil || pv.Spec.PersistentVolumeReclaimPolicy != v1.PersistentVolumeReclaimDelete {
		t.Errorf("one that was not to be changed: %+v, %v", pv, err)
	}
	for name, want := range map[string]v1.PersistentVolumeReclaimPolicy{"a": v1.PersistentVolumeReclaimDelete, "b": v1.PersistentVolumeReclaimRetain} {
		pv, err := client.CoreV1().PersistentVolumes().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || pv.Spec.PersistentVolumeReclaimPolicy != want || pv.Annotations[annProvisionedBy] != "pvmanager.wimsey.us" || pv.Annotations["managed-by"] == "" {
			t.Errorf("%s: %+v, %v", name, pv, err)
		}
	}
	failing(client, "patch", "persistentvolumes")
	if err := (Client{Interface: client}).TakeCharge(t.Context(), "pvmanager.wimsey.us", found, reclaim); !errors.Is(err, errAPI) {
		t.Errorf("without an API server: got error %v, want %v", err, errAPI)
	}
}

func TestPersistentVolumesToAdopt(t *testing.T) {
	others, berths, local := adoptedPV(), adoptedPV(), adoptedPV()
	others.Name, others.Annotations["pv.kubernetes.io/provisioned-by"] = "pvc-others", "example.com/other"
	berths.Name, berths.Annotations[annInstance] = "pvc-berths", "some-instance"
	local.Name, local.Spec.NFS, local.Spec.ClaimRef, local.Spec.PersistentVolumeReclaimPolicy = "pvc-local", nil, nil, v1.PersistentVolumeReclaimRecycle
	berths.Spec.NFS.Server, berths.Spec.StorageClassName = "nas", "nfs-client"
	local.Annotations[v1.BetaStorageClassAnnotation], local.Spec.StorageClassName = "beta", "fast"
	local.Spec.Local, local.Spec.NodeAffinity = &v1.LocalVolumeSource{Path: "/tank/pvc"}, affinity("node-1")
	got, rest, err := Client{Interface: newClient(adoptedPV(), others, berths, local)}.Adoptable(t.Context(), provisioned)
	old := adopt.PV{
		Name: volumeName, Server: "10.0.0.1", Path: "/export/" + volumeName, Size: 1 << 30, Claim: claimOf(newClaim()), Reclaim: volume.ReclaimDelete,
		Created:  adoptedPV().CreationTimestamp.Time,
		Identity: "old-identity", ExportID: "7", ExportBlock: "EXPORT {}", Annotations: adoptedPV().Annotations,
	}
	oldLocal, oldBerths, oldOthers := old, old, old
	oldLocal.Name, oldLocal.Server, oldLocal.Path, oldLocal.Claim, oldLocal.Reclaim, oldLocal.Class = "pvc-local", "", "", volume.Claim{}, volume.ReclaimRetain, "beta"
	oldBerths.Name, oldBerths.Server, oldBerths.Class, oldOthers.Name = "pvc-berths", "nas", "nfs-client", "pvc-others"
	oldLocal.Annotations, oldBerths.Annotations, oldOthers.Annotations = local.Annotations, berths.Annotations, others.Annotations
	oldLocal.NodePath, oldLocal.Node = "/tank/pvc", "node-1"
	if diff := cmp.Diff([]adopt.PV{old, oldLocal}, got); diff != "" || err != nil {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
	if diff := cmp.Diff([]adopt.PV{oldBerths, oldOthers}, rest); diff != "" {
		t.Errorf("others (-want +got):\n%s", diff)
	}
	client := newClient()
	failing(client, "list", "persistentvolumes")
	if _, _, err := (Client{Interface: client}).Adoptable(t.Context(), provisioned); !errors.Is(err, errAPI) {
		t.Errorf("without an API server: got error %v, want %v", err, errAPI)
	}
}

// The class as it is now says what becomes of data, in nfs-subdir-external-provisioner's words.
func TestPoliciesOfPersistentVolumesToAdopt(t *testing.T) {
	const gone, unclear = "is gone", "is none of"
	var pvs []adopt.PV
	var objects []runtime.Object
	var wants []string
	for i, c := range []struct {
		parameters map[string]string
		want       string // or what the error says
	}{
		{nil, "archive"},
		{map[string]string{"archiveOnDelete": "true"}, "archive"},
		{map[string]string{"archiveOnDelete": "1"}, "archive"},
		{map[string]string{"archiveOnDelete": "false"}, "delete"},
		{map[string]string{"archiveOnDelete": "F"}, "delete"},
		{map[string]string{"archiveOnDelete": ""}, "neither true nor false"},
		{map[string]string{"archiveOnDelete": "no"}, "neither true nor false"},
		{map[string]string{"onDelete": "delete"}, "delete"},
		{map[string]string{"onDelete": "retain"}, "retain"},
		{map[string]string{"onDelete": "delete", "archiveOnDelete": "true"}, "delete"},
		{map[string]string{"onDelete": "retain", "archiveOnDelete": "false"}, "retain"},
		{map[string]string{"onDelete": "archive", "archiveOnDelete": "false"}, "archive"}, // Berth's word; it deleted
		{map[string]string{"onDelete": "", "archiveOnDelete": "false"}, "delete"},
		{map[string]string{"onDelete": "Delete"}, unclear},
		{map[string]string{"onDelete": "purge", "archiveOnDelete": "false"}, unclear},
		{map[string]string{"pathPattern": "x"}, "archive"},
	} {
		name := fmt.Sprint("class-", i)
		objects = append(objects, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioned, Parameters: c.parameters})
		pvs, wants = append(pvs, adopt.PV{Class: name}), append(wants, c.want)
	}
	objects = append(objects, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "others"}, Provisioner: "x/y"})
	pvs = append(pvs, adopt.PV{Class: "others"}, adopt.PV{Class: "never"}, adopt.PV{})
	wants = append(wants, "is now of provisioner x/y", gone, "no StorageClass")
	if err := (Client{Interface: newClient(objects...)}).AddPolicies(t.Context(), provisioned, pvs); err != nil {
		t.Fatal(err)
	}
	for i, pv := range pvs {
		got := string(pv.OnDelete)
		if pv.OnDeleteErr != nil {
			got = pv.OnDeleteErr.Error()
		}
		if got != wants[i] && (pv.OnDeleteErr == nil || !strings.Contains(got, wants[i])) {
			t.Errorf("class %s: got %s, want %s", pv.Class, got, wants[i])
		}
	}
	client := newClient()
	failing(client, "list", "storageclasses")
	if err := (Client{Interface: client}).AddPolicies(t.Context(), provisioned, pvs); !errors.Is(err, errAPI) {
		t.Errorf("without an API server: got error %v, want %v", err, errAPI)
	}
}

func TestClusterID(t *testing.T) {
	client := newClient(servedObjects()...)
	if id, err := (Client{Interface: client}).ClusterID(t.Context()); id != clusterUID || err != nil {
		t.Errorf("got %q, %v; want %q", id, err, clusterUID)
	}
	client.PrependReactor("get", "namespaces", func(kubetest.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(v1.Resource("namespaces"), "kube-system", nil)
	})
	if id, err := (Client{Interface: client}).ClusterID(t.Context()); id != "" || err != nil {
		t.Errorf("forbidden: got %q, %v; want none", id, err)
	}
	failing(client, "get", "namespaces")
	if id, err := (Client{Interface: client}).ClusterID(t.Context()); !errors.Is(err, errAPI) {
		t.Errorf("without an API server: got %q, %v; want %v", id, err, errAPI)
	}
}

func TestAdoptedVolumeIsDeletedWithItsClaim(t *testing.T) {
	for _, policy := range []v1.PersistentVolumeReclaimPolicy{v1.PersistentVolumeReclaimDelete, v1.PersistentVolumeReclaimRetain} {
		t.Run(string(policy), func(t *testing.T) {
			pv := adoptedPV()
			pv.Status.Phase, pv.Spec.PersistentVolumeReclaimPolicy = v1.VolumeReleased, policy
			last := newVolume("local", "local-instance", "pvc-last")
			last.Name, last.Annotations["pv.kubernetes.io/provisioned-by"] = "pvc-last", provisioned
			last.Status.Phase, last.Spec.PersistentVolumeReclaimPolicy = v1.VolumeReleased, v1.PersistentVolumeReclaimDelete
			// Without the claim, for which a new volume would be made at once.
			client := newClient(append(servedObjects()[1:], pv)...)
			pool, volumes := adoptedPool(t, "local")
			ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), logr.Discard()))
			ended := make(chan error)
			go func() { ended <- newFrontEnd(client, pool).Run(ctx) }()
			pvs := client.CoreV1().PersistentVolumes()
			eventually(func() bool { return volumes.count(&volumes.published) > 0 })
			untilWatched(client, "persistentvolumes")
			// By the time that this one is gone, the other has been looked at.
			if _, err := pvs.Create(ctx, last, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			eventually(func() bool { _, err := pvs.Get(ctx, "pvc-last", metav1.GetOptions{}); return err != nil })
			want := []string{"pvc-last " + clusterUID}
			if policy == v1.PersistentVolumeReclaimDelete {
				eventually(func() bool { _, err := pvs.Get(ctx, volumeName, metav1.GetOptions{}); return err != nil })
				want = []string{volumeName + " " + clusterUID, "pvc-last " + clusterUID}
			} else if _, err := pvs.Get(ctx, volumeName, metav1.GetOptions{}); err != nil {
				t.Errorf("the retained PersistentVolume: %v", err)
			}
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			slices.Sort(volumes.deleted)
			// The library may ask twice.
			if diff := cmp.Diff(want, slices.Compact(volumes.deleted)); diff != "" {
				t.Errorf("deleted (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatLooksLikeAnAdoptedVolumeIsLeftAlone(t *testing.T) {
	for what, c := range map[string]struct {
		edit func(pv *v1.PersistentVolume)
		want error // nil: an IgnoredError
	}{
		"another path":       {func(pv *v1.PersistentVolume) { pv.Spec.NFS.Path = "/export/pvc-2" }, nil},
		"another name":       {func(pv *v1.PersistentVolume) { pv.Name = "pvc-2" }, nil},
		"no name of ours":    {func(pv *v1.PersistentVolume) { pv.Name = ".." }, nil},
		"not by NFS":         {func(pv *v1.PersistentVolume) { pv.Spec.NFS = nil }, nil},
		"another instance's": {func(pv *v1.PersistentVolume) { pv.Annotations[annInstance] = "other" }, nil},
		// It was given to somebody else since, and so may be somebody else's to delete.
		"another claim": {func(pv *v1.PersistentVolume) { pv.Spec.ClaimRef.UID = "other" }, volume.ErrForeign},
	} {
		t.Run(what, func(t *testing.T) {
			pool, volumes := adoptedPool(t, "local")
			pv := adoptedPV()
			c.edit(pv)
			err := newProvisioner(newClient(), pool).Delete(t.Context(), pv)
			var ignored *controller.IgnoredError
			if c.want == nil && !errors.As(err, &ignored) || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got error %v, want %v", err, c.want)
			}
			if len(volumes.deleted) > 0 {
				t.Errorf("deleted %v", volumes.deleted)
			}
		})
	}
}

// What pods use on its node, by kind hostPath or local, is adopted as well.
func TestAdoptedVolumeOfANode(t *testing.T) {
	for _, source := range []v1.PersistentVolumeSource{
		{HostPath: &v1.HostPathVolumeSource{Path: "/export/" + volumeName}}, {Local: &v1.LocalVolumeSource{Path: "/export/" + volumeName}},
	} {
		pool, volumes := adoptedPool(t, "local")
		pv := adoptedPV()
		pv.Spec.PersistentVolumeSource = source
		if err := newProvisioner(newClient(), pool).Delete(t.Context(), pv); err != nil || len(volumes.deleted) != 1 {
			t.Errorf("%+v: error %v, deleted %v", source, err, volumes.deleted)
		}
	}
}

// The event on one that has another claim says how to go on.
func TestAdoptedVolumeOfAnotherClaim(t *testing.T) {
	pool, volumes := adoptedPool(t, "local")
	pv := adoptedPV()
	pv.Spec.ClaimRef.UID = "other"
	p := newProvisioner(newClient(), pool)
	annotations := annInstance + "=local-instance " + annVolume + "=local/" + volumeName
	if err := p.Delete(t.Context(), pv); err == nil || !strings.Contains(err.Error(), annotations) {
		t.Errorf("got error %v, want one that says %s", err, annotations)
	}
	pv.Annotations[annInstance], pv.Annotations[annVolume] = "local-instance", "local/"+volumeName
	if err := p.Delete(t.Context(), pv); err != nil || len(volumes.deleted) != 1 {
		t.Errorf("with these annotations: %v, deleted %v", err, volumes.deleted)
	}
}

func TestAdoptedVolumeIsThatOfTheRightPool(t *testing.T) {
	fast, fastVolumes := newPool("fast")
	slow, slowVolumes := adoptedPool(t, "slow")
	if err := newProvisioner(newClient(), fast, slow).Delete(t.Context(), adoptedPV()); err != nil {
		t.Fatal(err)
	}
	if len(slowVolumes.deleted) != 1 || len(fastVolumes.deleted) != 0 {
		t.Errorf("deleted in slow: %v, in fast: %v", slowVolumes.deleted, fastVolumes.deleted)
	}
}
