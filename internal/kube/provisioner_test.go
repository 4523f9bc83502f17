package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"github.com/berth-storage/berth/internal/volume"
)

func TestMountOptionsOfTheClassComeBeforeItsParameter(t *testing.T) {
	pool, _ := newPool("local")
	class := newClass()
	class.Parameters = map[string]string{"mountOptions": "vers=3, nolock,,"}
	for _, c := range []struct{ ofClass, want []string }{
		{[]string{"vers=4.2"}, []string{"vers=4.2"}},
		{[]string{}, []string{}},
		{nil, []string{"vers=3", "nolock"}},
	} {
		class.MountOptions = c.ofClass
		pv, _, err := newProvisioner(newClient(newClaim()), pool).Provision(t.Context(), options(newClaim(), class))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, pv.Spec.MountOptions); diff != "" {
			t.Errorf("mount options (-want +got):\n%s", diff)
		}
	}
}

func TestProvisionGivesAPersistentVolume(t *testing.T) {
	pool, volumes := newPool("local")
	class := newClass()
	class.ReclaimPolicy = new(v1.PersistentVolumeReclaimRetain)
	got, state, err := newProvisioner(newClient(newClaim()), pool).Provision(t.Context(), options(newClaim(), class))
	if err != nil || state != controller.ProvisioningFinished {
		t.Fatalf("got state %s, %v", state, err)
	}
	want := &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name:   volumeName,
			Labels: map[string]string{"app.kubernetes.io/managed-by": "berth", "berth.storage/pool": "local"},
			Annotations: map[string]string{
				"berth.storage/instance":    "local-instance",
				"berth.storage/volume":      "local/" + volumeName,
				"pv.beta.kubernetes.io/gid": "2",
			},
		},
		Spec: v1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: v1.PersistentVolumeReclaimRetain,
			AccessModes:                   []v1.PersistentVolumeAccessMode{v1.ReadWriteMany, v1.ReadOnlyMany},
			Capacity:                      v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")},
			MountOptions:                  []string{"vers=4.1", "hard"},
			PersistentVolumeSource: v1.PersistentVolumeSource{
				NFS: &v1.NFSVolumeSource{Server: "nfs", Path: "/exports/" + volumeName},
			},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("PersistentVolume (-want +got):\n%s", diff)
	}
	if len(volumes.created) != 1 || volumes.created[0].Reclaim != volume.ReclaimRetain || volumes.created[0].Cluster != clusterUID {
		t.Errorf("made %+v", volumes.created)
	}
}

func TestThePersistentVolumeHasTheSizeThatIsReal(t *testing.T) {
	for _, c := range []struct {
		request string
		size    int64
		want    string
	}{
		{"1Gi", 1 << 30, "1Gi"},
		{"1000M", 1000000000, "1G"},
		{"1000001", 1003520, "980Ki"}, // in whole blocks
	} {
		pool, volumes := newPool("local")
		volumes.made = func(v *volume.Volume) { v.Size = c.size }
		claim := newClaim()
		claim.Spec.Resources.Requests[v1.ResourceStorage] = resource.MustParse(c.request)
		pv, _, err := newProvisioner(newClient(claim), pool).Provision(t.Context(), options(claim, newClass()))
		if err != nil {
			t.Fatal(err)
		}
		if got := pv.Spec.Capacity.Storage().String(); got != c.want {
			t.Errorf("asked for %s, got a capacity of %s, want %s", c.request, got, c.want)
		}
	}
}

func TestInodesOfTheClassAreAskedFor(t *testing.T) {
	pool, volumes := newPool("local")
	class := newClass()
	class.Parameters = map[string]string{"inodes": "1000"}
	if _, _, err := newProvisioner(newClient(newClaim()), pool).Provision(t.Context(), options(newClaim(), class)); err != nil {
		t.Fatal(err)
	}
	if got := volumes.created[0].Inodes; got != 1000 {
		t.Errorf("asked for %d inodes", got)
	}
}

func TestVolumeOfGroupRootHasNoGroupAnnotation(t *testing.T) {
	pool, _ := newPool("local")
	class := newClass()
	class.Parameters = map[string]string{"gid": "0"}
	pv, _, err := newProvisioner(newClient(newClaim()), pool).Provision(t.Context(), options(newClaim(), class))
	if err != nil {
		t.Fatal(err)
	}
	if gid, found := pv.Annotations[annGID]; found {
		t.Errorf("processes of pods would get the group %s", gid)
	}
}

// Nothing may be made of these claims.
func TestProvisionRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		claim  func(*v1.PersistentVolumeClaim)
		class  func(*storagev1.StorageClass)
		stored []func(*v1.PersistentVolumeClaim) // the claim as the API server has it; gone if nil
		want   controller.ProvisioningState
		err    error  // nil: an IgnoredError
		text   string // in the error
	}{
		{name: "an unknown parameter", class: func(c *storagev1.StorageClass) { c.Parameters = map[string]string{"x": "y"} },
			want: controller.ProvisioningFinished, err: volume.ErrInvalid, text: `unknown StorageClass parameter "x"`},
		{name: "a selector", claim: func(c *v1.PersistentVolumeClaim) { c.Spec.Selector = &metav1.LabelSelector{} },
			want: controller.ProvisioningFinished, err: volume.ErrInvalid, text: "selector"},
		{name: "a claim that is gone", want: controller.ProvisioningFinished, text: "gone, bound"},
		{name: "a claim made anew under the name", stored: []func(*v1.PersistentVolumeClaim){withUID("other")}, want: controller.ProvisioningFinished, text: "gone, bound"},
		{name: "a claim bound elsewhere", stored: []func(*v1.PersistentVolumeClaim){boundTo("pvc-other")}, want: controller.ProvisioningFinished, text: "gone, bound"},
		{name: "a claim that is being deleted", stored: []func(*v1.PersistentVolumeClaim){beingDeleted}, want: controller.ProvisioningFinished, text: "gone, bound"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pool, volumes := newPool("local")
			claim, class := newClaim(), newClass()
			if c.claim != nil {
				c.claim(claim)
			}
			if c.class != nil {
				c.class(class)
			}
			client := newClient()
			for _, change := range c.stored {
				stored := newClaim()
				change(stored)
				client = newClient(stored)
			}
			pv, state, err := newProvisioner(client, pool).Provision(t.Context(), options(claim, class))
			var ignored *controller.IgnoredError
			if c.err == nil && !errors.As(err, &ignored) || c.err != nil && !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got error %v, want %v with %q", err, c.err, c.text)
			}
			if pv != nil || state != c.want {
				t.Errorf("got %v in state %s, want none and %s", pv, state, c.want)
			}
			if len(volumes.created) > 0 {
				t.Errorf("made %+v", volumes.created)
			}
		})
	}
}

// What came of an earlier call is still so: NoChange.
func TestProvisionMakesNothingWhileItCannotAsk(t *testing.T) {
	pool, volumes := newPool("local")
	client := newClient(newClaim())
	failing(client, "get", "persistentvolumeclaims")
	p := newProvisioner(client, pool)
	if _, state, err := p.Provision(t.Context(), options(newClaim(), newClass())); state != controller.ProvisioningNoChange || !errors.Is(err, errAPI) {
		t.Errorf("without the API server: got state %s, %v; want %s, %v", state, err, controller.ProvisioningNoChange, errAPI)
	}
	p = newProvisioner(newClient(newClaim()), pool)
	p.address = resolver("", false, true, nil)
	_, state, err := p.Provision(t.Context(), options(newClaim(), newClass()))
	if state != controller.ProvisioningNoChange || err == nil || !strings.Contains(err.Error(), "the address of the NFS server: ") {
		t.Errorf("without an address: got state %s, %v; want %s", state, err, controller.ProvisioningNoChange)
	}
	if len(volumes.created) > 0 {
		t.Errorf("made %+v", volumes.created)
	}
}

func TestProvisionInThePoolOfTheClass(t *testing.T) {
	fast, fastVolumes := newPool("fast")
	slow, slowVolumes := newPool("slow")
	class := newClass()
	class.Parameters = map[string]string{"pool": "slow"}
	pv, _, err := newProvisioner(newClient(newClaim()), fast, slow).Provision(t.Context(), options(newClaim(), class))
	if err != nil {
		t.Fatal(err)
	}
	if got := pv.Annotations[annVolume]; got != "slow/"+volumeName || len(fastVolumes.created) != 0 || len(slowVolumes.created) != 1 {
		t.Errorf("got %s; made %d in fast and %d in slow", got, len(fastVolumes.created), len(slowVolumes.created))
	}
}

func TestErrorsOfThePoolAreTheClaims(t *testing.T) {
	pool, volumes := newPool("local")
	volumes.fail = fmt.Errorf("%w: it is full", volume.ErrNoSpace)
	var observed []string
	p := newProvisioner(newClient(newClaim()), pool)
	p.observe = func(step string, _ time.Duration, err error) {
		observed = append(observed, fmt.Sprint(step, " ", err != nil))
	}
	pv, state, err := p.Provision(t.Context(), options(newClaim(), newClass()))
	if pv != nil || state != controller.ProvisioningFinished || !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("got %v, %s, %v; want %s, %v", pv, state, err, controller.ProvisioningFinished, volume.ErrNoSpace)
	}
	if err := p.Delete(t.Context(), newVolume("local", "local-instance", volumeName)); !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("Delete: got error %v, want the pool's", err)
	}
	if diff := cmp.Diff([]string{"provision true", "delete true"}, observed); diff != "" {
		t.Errorf("observed (-want +got):\n%s", diff)
	}
}

// The instance may have taken it when it had such a pool.
func TestClaimForAPoolOfAnotherInstanceIsPassedOn(t *testing.T) {
	for name, c := range map[string]struct{ pools, parameters, owner string }{
		"another has the pool":    {"elsewhere", "elsewhere", ""},
		"nobody has it":           {"third", "elsewhere", "local-instance"},
		"something else is wrong": {"elsewhere", "", "local-instance"},
	} {
		t.Run(name, func(t *testing.T) {
			claim, class := claimWith(ownedBy("local-instance")), newClass()
			class.Parameters = map[string]string{"pool": c.parameters}
			if c.parameters == "" {
				class.Parameters = map[string]string{"mode": "rwx"}
			}
			client := newClient(claim)
			pool, _ := newPool("local")
			p := newProvisioner(client, pool)
			classes := informers.NewSharedInformerFactory(client, 0).Storage().V1().StorageClasses()
			if err := classes.Informer().GetStore().Add(class); err != nil {
				t.Fatal(err)
			}
			p.taker.classes = classes.Lister()
			other := instance{id: "other", room: map[string]room{c.pools: {1000, 1000}}}
			p.taker.instances.see(leaseOf(t, other, provisioned, "host", time.Now()))
			if _, _, err := p.Provision(t.Context(), options(claim, class)); !errors.Is(err, volume.ErrInvalid) {
				t.Errorf("got error %v, want %v", err, volume.ErrInvalid)
			}
			if got := owner(t, client); got != c.owner {
				t.Errorf("the claim is %q's, want %q's", got, c.owner)
			}
		})
	}
}

// The library would refuse such a claim itself, without saying what to do.
func TestBlockClaimsAreLeftToProvisionToRefuse(t *testing.T) {
	pool, _ := newPool("local")
	var p controller.BlockProvisioner = newProvisioner(newClient(), pool)
	if !p.SupportsBlock(t.Context()) {
		t.Error("the library would not ask")
	}
}

func TestStateOfEachError(t *testing.T) {
	const finished, unchanged, background = controller.ProvisioningFinished, controller.ProvisioningNoChange, controller.ProvisioningInBackground
	for err, want := range map[error]controller.ProvisioningState{
		// Nothing was made, and nothing is going on.
		volume.ErrInvalid: finished, volume.ErrUnsupported: finished, volume.ErrExists: finished, volume.ErrForeign: finished, volume.ErrNoSpace: finished,
		volume.ErrBusy: unchanged,
		// Something may have been made: the library has to come back.
		volume.ErrPending: background, volume.ErrUnknown: background, volume.ErrConflict: background, volume.ErrNotFound: background,
		context.Canceled: background, context.DeadlineExceeded: background, errAPI: background,
	} {
		for _, err := range []error{err, fmt.Errorf("volume pvc-1: %w", err)} {
			if got := stateOf(err); got != want {
				t.Errorf("%v: got %s, want %s", err, got, want)
			}
		}
	}
}

func TestDelete(t *testing.T) {
	fast, fastVolumes := newPool("fast")
	slow, slowVolumes := newPool("slow")
	if err := newProvisioner(newClient(), fast, slow).Delete(t.Context(), newVolume("slow", "slow-instance", volumeName)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{volumeName + " " + clusterUID}, slowVolumes.deleted); diff != "" || len(fastVolumes.deleted) > 0 {
		t.Errorf("deleted in slow (-want +got):\n%s\nin fast: %v", diff, fastVolumes.deleted)
	}
}

func TestDeleteAfterThePoolGotAnotherName(t *testing.T) {
	pool, volumes := newPool("local")
	if err := newProvisioner(newClient(), pool).Delete(t.Context(), newVolume("its-old-name", pool.Instance, volumeName)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{volumeName + " " + clusterUID}, volumes.deleted); diff != "" {
		t.Errorf("deleted (-want +got):\n%s", diff)
	}
}

func TestDeleteLeavesAlone(t *testing.T) {
	bare := newVolume("", "", "")
	bare.Annotations = nil
	for _, c := range []struct {
		name string
		pv   *v1.PersistentVolume
		want error // nil: an IgnoredError
	}{
		{"what does not say whose it is", bare, nil},
		{"another instance's", newVolume("local", "other-instance", volumeName), nil},
		{"one without an instance", newVolume("local", "", volumeName), nil},
		{"a handle that is none", newVolume("local", "local-instance", "../../etc"), volume.ErrInvalid},
		// Whoever can edit a PersistentVolume must not have any volume deleted.
		{"one that names another's volume", newVolume("local", "local-instance", "pvc-precious"), volume.ErrForeign},
	} {
		t.Run(c.name, func(t *testing.T) {
			pool, volumes := newPool("local")
			err := newProvisioner(newClient(), pool).Delete(t.Context(), c.pv)
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
