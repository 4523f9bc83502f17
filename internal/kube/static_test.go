package kube

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kubetest "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

func home() Static {
	return Static{
		Name: "home", Path: "/home", Capacity: "1Mi",
		AccessModes: []string{"ReadWriteMany"}, MountOptions: []string{"vers=4.1"}, StorageClass: "homes",
	}
}

// homePV is what home becomes.
func homePV() *v1.PersistentVolume {
	return &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: "home", Annotations: map[string]string{"berth.storage/static": "local-instance"},
			Labels: map[string]string{"app.kubernetes.io/managed-by": "berth", "berth.storage/pool": "local"},
		},
		Spec: v1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: v1.PersistentVolumeReclaimRetain,
			Capacity:                      v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Mi")},
			AccessModes:                   []v1.PersistentVolumeAccessMode{v1.ReadWriteMany},
			MountOptions:                  []string{"vers=4.1"},
			StorageClassName:              "homes",
			PersistentVolumeSource:        v1.PersistentVolumeSource{NFS: &v1.NFSVolumeSource{Server: "nfs", Path: "/home"}},
		},
	}
}

// A static directory has its PersistentVolume, also when somebody has deleted that, and
// whatever happens to it nothing is deleted.
func TestStaticDirectoryIsPublished(t *testing.T) {
	client := newClient(servedObjects()[1:]...) // without the claim
	pool, volumes := newPool("local")
	pool.Static = []Static{home()}
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), logr.Discard()))
	ended := make(chan error)
	go func() { ended <- newFrontEnd(client, pool).Run(ctx) }()
	pvs := client.CoreV1().PersistentVolumes()
	get := func() (pv *v1.PersistentVolume) {
		eventually(func() (ok bool) {
			var err error
			pv, err = pvs.Get(ctx, "home", metav1.GetOptions{})
			return err == nil
		})
		return pv
	}
	if diff := cmp.Diff(homePV(), get()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	untilWatched(client, "persistentvolumes")
	if err := pvs.Delete(ctx, "home", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	pv := get()
	// An administrator may even have it deleted with its claim.
	pv.Spec.PersistentVolumeReclaimPolicy, pv.Status.Phase = v1.PersistentVolumeReclaimDelete, v1.VolumeReleased
	pv.Annotations[annProvisionedBy] = provisioned
	if _, err := pvs.Update(ctx, pv, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	last := newVolume("local", "local-instance", "pvc-last")
	last.Name, last.Annotations[annProvisionedBy] = "pvc-last", provisioned
	last.Status.Phase, last.Spec.PersistentVolumeReclaimPolicy = v1.VolumeReleased, v1.PersistentVolumeReclaimDelete
	if _, err := pvs.Create(ctx, last, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(func() bool { _, err := pvs.Get(ctx, "pvc-last", metav1.GetOptions{}); return err != nil })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"pvc-last " + clusterUID}, slices.Compact(volumes.deleted)); diff != "" {
		t.Errorf("deleted (-want +got):\n%s", diff)
	}
	if slices.Contains(volumes.published, "home") {
		t.Error("it is taken for a volume of the pool")
	}
}

func TestWhatIsToldOfStaticDirectories(t *testing.T) {
	edited := func(edit func(*v1.PersistentVolume)) *v1.PersistentVolume {
		pv := homePV()
		edit(pv)
		return pv
	}
	for _, c := range []struct {
		name string
		have *v1.PersistentVolume
		told string // "": nothing
	}{
		{"as it should be", homePV(), ""},
		{"bound, with another policy", edited(func(pv *v1.PersistentVolume) {
			pv.Spec.ClaimRef, pv.Spec.PersistentVolumeReclaimPolicy = &v1.ObjectReference{Name: "data"}, v1.PersistentVolumeReclaimDelete
		}), ""},
		{"somebody else's", edited(func(pv *v1.PersistentVolume) { pv.Annotations = nil }), "give the directory another name"},
		{"another pool's", edited(func(pv *v1.PersistentVolume) { pv.Annotations[annStatic] = "other" }), "give the directory another name"},
		{"of another path", edited(func(pv *v1.PersistentVolume) { pv.Spec.NFS.Path = "/other" }), "it is made again"},
		{"read-only", edited(func(pv *v1.PersistentVolume) { pv.Spec.NFS.ReadOnly = true }), "it is made again"},
		{"not by NFS", edited(func(pv *v1.PersistentVolume) { pv.Spec.NFS = nil }), "it is made again"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pool, _ := newPool("local")
			pool.Static = []Static{home()}
			got, made := syncStatics(t, []*Pool{pool}, c.have)
			if (got != "") != (c.told != "") || !strings.Contains(got, c.told) || len(made) > 0 {
				t.Errorf("told %q, want %q; made %v", got, c.told, made)
			}
		})
	}
}

// syncStatics syncs twice and gives what was logged and which PersistentVolumes were
// made or changed.
func syncStatics(t *testing.T, pools []*Pool, have ...*v1.PersistentVolume) (log string, written []string) {
	t.Helper()
	client, store := newClient(), cache.NewStore(cache.MetaNamespaceKeyFunc)
	for _, pv := range have {
		if err := store.Add(pv); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	s := newStatics(client, newAddressResolver(client, "nfs", 2049, false, true), pools, slog.New(slog.NewTextHandler(&out, nil)))
	for range 2 {
		if err := s.sync(t.Context(), store); err != nil {
			t.Fatal(err)
		}
	}
	for _, action := range client.Actions() {
		if create, ok := action.(kubetest.CreateAction); ok {
			written = append(written, create.GetObject().(*v1.PersistentVolume).Name)
		} else if action.GetVerb() != "get" {
			t.Errorf("%s %s", action.GetVerb(), action.GetResource().Resource)
		}
	}
	if strings.Count(out.String(), "\n") > 1 {
		t.Errorf("it is said more than once:\n%s", out.String())
	}
	return out.String(), written
}

func TestStaticDirectoryThatIsNotPublishedAnyMore(t *testing.T) {
	pool, _ := newPool("local")
	other := homePV()
	other.Name, other.Annotations[annStatic] = "others", "other-instance"
	log, written := syncStatics(t, []*Pool{pool}, homePV(), other)
	if !strings.Contains(log, "persistentVolume=home") || strings.Contains(log, "others") || len(written) > 0 {
		t.Errorf("told %q, written %v", log, written)
	}
}

func TestStaticDirectoriesAreTriedAgain(t *testing.T) {
	client := newClient()
	pool, _ := newPool("local")
	second := home()
	second.Name = "second"
	pool.Static = []Static{home(), second}
	failed := 0
	client.PrependReactor("create", "persistentvolumes", func(action kubetest.Action) (bool, runtime.Object, error) {
		if name := action.(kubetest.CreateAction).GetObject().(*v1.PersistentVolume).Name; name == "home" && failed == 0 {
			failed++
			return true, nil, errAPI
		}
		return false, nil, nil
	})
	s := newStatics(client, newAddressResolver(client, "nfs", 2049, false, true), []*Pool{pool}, quiet())
	store := cache.NewStore(cache.MetaNamespaceKeyFunc)
	if err := s.sync(t.Context(), store); err == nil || !strings.Contains(err.Error(), "PersistentVolume home: "+errAPI.Error()) {
		t.Errorf("got error %v", err)
	}
	if _, err := client.CoreV1().PersistentVolumes().Get(t.Context(), "second", metav1.GetOptions{}); err != nil {
		t.Errorf("one that fails keeps the other from being published: %v", err)
	}
	if err := store.Add(func() *v1.PersistentVolume { pv := homePV(); pv.Name = "second"; return pv }()); err != nil {
		t.Fatal(err)
	}
	if err := s.sync(t.Context(), store); err != nil {
		t.Errorf("the second time: %v", err)
	}
}
