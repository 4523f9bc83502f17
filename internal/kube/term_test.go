package kube

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/klog/v2"

	"github.com/berth-storage/berth/internal/volume"
)

// The fake API server knows plain lists and watches only.
func TestMain(m *testing.M) {
	if err := os.Setenv("KUBE_FEATURE_WatchListClient", "false"); err != nil {
		panic(err)
	}
	m.Run()
}

// newFrontEnd makes one that serves the claims of fake volumes.
func newFrontEnd(client *fake.Clientset, pools ...*Pool) *FrontEnd {
	m, _ := LibraryMetrics()
	return NewFrontEnd(Client{Interface: client, objects: newObjects(), lease: client, namespace: "storage"}, Options{
		Provisioner: provisioned, Pools: pools, Workers: 2, ScavengeAfter: 15 * time.Minute, Hostname: "nfs", NFSPort: 2049,
		Log: quiet(), Observe: func(string, time.Duration, error) {}, Metrics: m,
	})
}

// eventually waits until something is so. What never becomes so ends the test by
// go test's own limit, with a stack that says where.
func eventually(is func() bool) {
	for !is() {
		time.Sleep(time.Millisecond)
	}
}

// pendingClaim is one as kube-controller-manager hands it to a provisioner.
func pendingClaim() *v1.PersistentVolumeClaim {
	claim := newClaim()
	claim.Annotations = map[string]string{"volume.kubernetes.io/storage-provisioner": provisioned}
	claim.Spec.StorageClassName = new("berth")
	return claim
}

func servedObjects() []runtime.Object {
	return []runtime.Object{
		pendingClaim(), newClass(), &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: clusterUID}},
	}
}

func TestFrontEndServesAClaimFromBeginningToEnd(t *testing.T) {
	client := newClient(servedObjects()...)
	pool, volumes := newPool("local")
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), logr.Discard()))
	ended := make(chan error)
	go func() { ended <- newFrontEnd(client, pool).Run(ctx) }()

	pvs := client.CoreV1().PersistentVolumes()
	var pv *v1.PersistentVolume
	eventually(func() bool {
		var err error
		pv, err = pvs.Get(ctx, volumeName, metav1.GetOptions{})
		return err == nil
	})
	if got := pv.Annotations["pv.kubernetes.io/provisioned-by"]; got != provisioned {
		t.Errorf("the PersistentVolume is provisioned by %q, want %q", got, provisioned)
	}
	if !slices.Contains(pv.Finalizers, "external-provisioner.volume.kubernetes.io/finalizer") {
		t.Errorf("finalizers are %v: the volume would stay behind if the PersistentVolume is deleted before its claim", pv.Finalizers)
	}
	eventually(func() bool { return volumes.count(&volumes.published) > 0 })

	pv.Status.Phase = v1.VolumeReleased
	if _, err := pvs.Update(ctx, pv, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(func() bool { return volumes.count(&volumes.deleted) > 0 })
	eventually(func() bool { _, err := pvs.Get(ctx, volumeName, metav1.GetOptions{}); return err != nil })

	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	// Once when it appears and again when it changes.
	if diff := cmp.Diff([]string{volumeName}, slices.Compact(volumes.published)); diff != "" {
		t.Errorf("published (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{volumeName + " " + clusterUID}, slices.Compact(volumes.deleted)); diff != "" {
		t.Errorf("deleted (-want +got):\n%s", diff)
	}
	if volumes.asks == nil {
		t.Error("the pool cannot ask whether a volume is wanted")
	}
	if diff := cmp.Diff([]string{clusterUID + " 15m0s"}, volumes.scavenged); diff != "" {
		t.Errorf("scavenged (-want +got):\n%s", diff)
	}
	lease, err := client.CoordinationV1().Leases("storage").Get(t.Context(), leaseOfLocal, metav1.GetOptions{})
	if err != nil || *lease.Spec.HolderIdentity != "" {
		t.Errorf("the Lease was not given back: %v, %v", lease, err)
	}
}

// The roles that nfs-provisioner's users have lack what is denied here.
func TestFrontEndServesWithTheRoleOfAPredecessor(t *testing.T) {
	client := newClient(servedObjects()...)
	deny(client, "get namespaces", "get leases", "list leases", "patch persistentvolumes")
	for _, verb := range []string{"get", "list", "watch", "create", "update"} {
		failing(client, verb, "leases")
	}
	failing(client, "get", "namespaces")
	failing(client, "patch", "persistentvolumes")
	pool, volumes := newPool("local")
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), logr.Discard()))
	ended := make(chan error)
	go func() { ended <- newFrontEnd(client, pool).Run(ctx) }()

	pvs := client.CoreV1().PersistentVolumes()
	var pv *v1.PersistentVolume
	eventually(func() (found bool) {
		var err error
		pv, err = pvs.Get(ctx, volumeName, metav1.GetOptions{})
		return err == nil
	})
	untilWatched(client, "persistentvolumes")
	if len(pv.Finalizers) > 0 {
		t.Errorf("the PersistentVolume has finalizers %v that nobody may remove", pv.Finalizers)
	}
	pv.Status.Phase = v1.VolumeReleased
	if _, err := pvs.Update(ctx, pv, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(func() bool { return volumes.count(&volumes.deleted) > 0 })
	eventually(func() bool { _, err := pvs.Get(ctx, volumeName, metav1.GetOptions{}); return err != nil })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{volumeName + " "}, slices.Compact(volumes.deleted)); diff != "" {
		t.Errorf("deleted, with no cluster (-want +got):\n%s", diff)
	}
}

// The library's finalizer on what is not ours would never be removed.
func TestOnlyPersistentVolumesOfOursGetAFinalizer(t *testing.T) {
	bound := func(name, instance string) *v1.PersistentVolume {
		pv := newVolume("local", instance, name)
		pv.Name = name
		pv.Annotations["pv.kubernetes.io/provisioned-by"] = provisioned
		pv.Spec.PersistentVolumeReclaimPolicy = v1.PersistentVolumeReclaimDelete
		pv.Status.Phase = v1.VolumeBound
		return pv
	}
	others := []string{"pvc-of-another-instance", "pvc-of-the-program-before"}
	client := newClient(bound(others[0], "other-instance"), bound(others[1], ""), bound("pvc-first", "local-instance"))
	pool, _ := newPool("local")
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), logr.Discard()))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		newFrontEnd(client, pool).runTerm(ctx, clusterUID, allRights)
	}()
	finalizers := func(name string) []string {
		pv, err := client.CoreV1().PersistentVolumes().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return pv.Finalizers
	}
	eventually(func() bool { return len(finalizers("pvc-first")) == 1 })
	// By the time that one of ours was worked on which came later, all that were there at the start have been.
	if _, err := client.CoreV1().PersistentVolumes().Create(ctx, bound("pvc-later", "local-instance"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(func() bool { return len(finalizers("pvc-later")) == 1 })
	cancel()
	<-ended
	for _, name := range others {
		if got := finalizers(name); len(got) > 0 {
			t.Errorf("%s has the finalizers %v, want none", name, got)
		}
	}
}

// The Lease is given back after the term, and then another may work.
func TestTermEndsWhenItsWorkersHave(t *testing.T) {
	pool, volumes := newPool("local")
	begun := make(chan struct{}, 1)
	var working atomic.Bool
	volumes.during = func(ctx context.Context) {
		working.Store(true)
		begun <- struct{}{}
		<-ctx.Done()
		time.Sleep(20 * time.Millisecond) // what is begun is brought to an end
		working.Store(false)
	}
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), logr.Discard()))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		newFrontEnd(newClient(servedObjects()...), pool).runTerm(ctx, clusterUID, allRights)
	}()
	<-begun
	cancel()
	<-ended
	if working.Load() {
		t.Error("the term ended while a volume was being made")
	}
}

func TestOnlyPersistentVolumesOfOursAreMarkedPublished(t *testing.T) {
	for _, c := range []struct {
		name   string
		object any
		want   []string
	}{
		{"ours", newVolume("local", "local-instance", volumeName), []string{volumeName}},
		{"another instance's", newVolume("local", "other", volumeName), nil},
		{"one that names another's volume", newVolume("local", "local-instance", "pvc-precious"), nil},
		{"nobody's", &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: volumeName}}, nil},
		{"no PersistentVolume", newClaim(), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			pool, volumes := newPool("local")
			client := newClient()
			newFrontEnd(client, pool).markPublished(t.Context(), newProvisioner(client, pool))(c.object)
			if diff := cmp.Diff(c.want, volumes.published); diff != "" {
				t.Errorf("published (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhetherAVolumeIsWanted(t *testing.T) {
	foreign, unsaid := newVolume("local", "other", volumeName), newVolume("local", "", volumeName)
	bound := newClaim()
	boundTo(volumeName)(bound)
	for _, c := range []struct {
		name    string
		objects []runtime.Object
		fail    string // the resource that cannot be read
		want    bool
		err     error
	}{
		{"nobody knows it", nil, "", false, nil},
		{"its claim waits for it", []runtime.Object{newClaim()}, "", true, nil},
		{"its claim waits, and another instance has taken it", []runtime.Object{claimWith(ownedBy("other"))}, "", true, nil},
		{"its claim is bound to it", []runtime.Object{bound}, "", true, nil},
		{"its PersistentVolume exists, the claim is gone", []runtime.Object{newVolume("local", "local-instance", volumeName)}, "", true, nil},
		{"a PersistentVolume does not say whose it is", []runtime.Object{unsaid}, "", true, nil},
		{"the PersistentVolume is another instance's", []runtime.Object{foreign, bound}, "", false, nil},
		{"PersistentVolumes cannot be read", []runtime.Object{newClaim()}, "persistentvolumes", false, errAPI},
		{"claims cannot be read", nil, "persistentvolumeclaims", false, errAPI},
	} {
		t.Run(c.name, func(t *testing.T) {
			pool, _ := newPool("local")
			client := newClient(c.objects...)
			if c.fail != "" {
				failing(client, "get", c.fail)
			}
			v := volume.Volume{Name: parseName(t, volumeName), Claim: claimOf(newClaim())}
			got, err := newProvisioner(client, pool).wanted(t.Context(), pool, v)
			if got != c.want || !errors.Is(err, c.err) {
				t.Errorf("got %t, %v; want %t, %v", got, err, c.want, c.err)
			}
			// A PersistentVolume of it was seen: whoever's it says that it is, its data is in use.
			v.Published = true
			got, err = newProvisioner(client, pool).wanted(t.Context(), pool, v)
			if want := c.want || slices.Contains(c.objects, runtime.Object(foreign)); got != want || !errors.Is(err, c.err) {
				t.Errorf("published: got %t, %v; want %t, %v", got, err, want, c.err)
			}
		})
	}
}

func TestScavengingEachPoolRegularly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fast, fastVolumes := newPool("fast")
		slow, slowVolumes := newPool("slow")
		fastVolumes.fail = errAPI // which keeps it from no other
		client := newClient()
		ctx, cancel := context.WithTimeout(t.Context(), 11*time.Minute)
		defer cancel()
		newFrontEnd(client, fast, slow).scavenge(ctx, newProvisioner(client, fast, slow))
		// At once, after 5 and after 10 minutes.
		if len(fastVolumes.scavenged) != 3 || len(slowVolumes.scavenged) != 3 {
			t.Errorf("scavenged fast %d and slow %d times, want 3", len(fastVolumes.scavenged), len(slowVolumes.scavenged))
		}
		// Each is asked about as its own: fast's is left over if slow's became the PersistentVolume.
		p := newProvisioner(newClient(newVolume("slow", "slow-instance", volumeName)), fast, slow)
		newFrontEnd(client, fast, slow).scavenge(ctx, p)
		v := volume.Volume{Name: parseName(t, volumeName), Claim: claimOf(newClaim())}
		for volumes, want := range map[*fakeVolumes]bool{fastVolumes: false, slowVolumes: true} {
			if got, err := volumes.wanted(t.Context(), v); err != nil || got != want {
				t.Errorf("%s's is wanted: %t, %v; want %t", volumes.name, got, err, want)
			}
		}
	})
}

func TestFrontEndWaitsForTheAPIServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newLeaseClient(servedObjects()[2])
		failing(client.Clientset, "get", "namespaces")
		f := newFrontEnd(client.Clientset)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, cancel)
		start := time.Now()
		if got := f.clusterID(ctx); got != "" || time.Since(start) != time.Minute {
			t.Errorf("got %q after %v, want nothing until the context ends", got, time.Since(start))
		}
		client.ReactionChain = client.ReactionChain[1:]
		if got := f.clusterID(t.Context()); got != clusterUID {
			t.Errorf("got %q, want %q", got, clusterUID)
		}
	})
}

func TestNewClientSaysWhatIsWrong(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for _, c := range []struct {
		o    ClientOptions
		want string
	}{
		{ClientOptions{}, "no API server: outside of a pod say which one"},
		{ClientOptions{Kubeconfig: t.TempDir() + "/absent"}, "/absent"},
	} {
		if _, err := NewClient(c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got error %v, want one with %q", c.o, err, c.want)
		}
	}
}

func TestNewClientOutsideOfAPod(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	c, err := NewClient(ClientOptions{Master: "http://127.0.0.1:1", QPS: 1, Burst: 1})
	if err != nil {
		t.Fatal(err)
	}
	if c.inPod || c.namespace != "default" {
		t.Errorf("in a pod: %t, namespace %q; want false, default", c.inPod, c.namespace)
	}
}
