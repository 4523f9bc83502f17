package kube

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kubetest "k8s.io/client-go/testing"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
)

func TestSpecOfAClaim(t *testing.T) {
	pool, _ := newPool("local")
	p := parameters{pool: pool, owner: volume.Owner{UID: 1, GID: 2, Mode: 0o770}, squash: export.SquashRoot, onDelete: volume.OnDeleteRetain}
	got, err := specOf(newClaim(), newClass(), clusterUID, parseName(t, volumeName), p)
	if err != nil {
		t.Fatal(err)
	}
	want := volume.Spec{
		Name: parseName(t, volumeName), Path: parseName(t, volumeName).RelPath(), Size: 1 << 30, Cluster: clusterUID, Owner: p.owner,
		Claim:   volume.Claim{Namespace: "team", Name: "data", UID: claimUID},
		Reclaim: volume.ReclaimDelete, OnDelete: volume.OnDeleteRetain, Export: volume.ExportRef{Squash: export.SquashRoot},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(volume.Name{}, volume.RelPath{})); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
}

func TestReclaimPolicyOfTheClass(t *testing.T) {
	for _, c := range []struct {
		class *v1.PersistentVolumeReclaimPolicy
		want  volume.Reclaim
		pv    v1.PersistentVolumeReclaimPolicy
	}{
		{nil, volume.ReclaimDelete, v1.PersistentVolumeReclaimDelete},
		{new(v1.PersistentVolumeReclaimDelete), volume.ReclaimDelete, v1.PersistentVolumeReclaimDelete},
		{new(v1.PersistentVolumeReclaimRetain), volume.ReclaimRetain, v1.PersistentVolumeReclaimRetain},
	} {
		class := &storagev1.StorageClass{ReclaimPolicy: c.class}
		pool, _ := newPool("local")
		if got, err := specOf(newClaim(), class, clusterUID, parseName(t, volumeName), parameters{pool: pool}); err != nil || got.Reclaim != c.want {
			t.Errorf("volume of a class with %v: got %q, %v; want %q", c.class, got.Reclaim, err, c.want)
		}
		if got := reclaimPolicy(class, parameters{pool: pool}); got != c.pv {
			t.Errorf("PersistentVolume of a class with %v: got %q, want %q", c.class, got, c.pv)
		}
	}
}

func TestClaimsThatCannotBeHonouredAreRefused(t *testing.T) {
	pool, _ := newPool("local")
	local := parameters{pool: pool}
	for _, c := range []struct {
		name   string
		change func(*v1.PersistentVolumeClaim)
		want   error
		text   string
	}{
		{"selector", func(c *v1.PersistentVolumeClaim) { c.Spec.Selector = &metav1.LabelSelector{} }, volume.ErrInvalid, "claim.spec.selector is not supported"},
		{"block", func(c *v1.PersistentVolumeClaim) { c.Spec.VolumeMode = new(v1.PersistentVolumeBlock) }, volume.ErrUnsupported, "volumeMode Block"},
		{"attributes", func(c *v1.PersistentVolumeClaim) { c.Spec.VolumeAttributesClassName = new("gold") }, volume.ErrUnsupported, `volumeAttributesClassName "gold"`},
		{"no size", func(c *v1.PersistentVolumeClaim) { c.Spec.Resources.Requests = nil }, volume.ErrInvalid, "0 bytes is not above 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			claim := newClaim()
			c.change(claim)
			if _, err := specOf(claim, newClass(), clusterUID, parseName(t, volumeName), local); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got error %v, want %v with %q", err, c.want, c.text)
			}
		})
	}
}

func TestUidsThatAreNoNames(t *testing.T) {
	pool, _ := newPool("local")
	for uid, want := range map[string]string{"../../etc": "not allowed", strings.Repeat("x", 200): "1 to 200 characters"} {
		claim := newClaim()
		withUID(uid)(claim)
		if name, err := volumeFor(options(claim, newClass()), []*Pool{pool}); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20s: got %s, %v; want an ErrInvalid with %q", uid, name, err, want)
		}
	}
}

func TestWhatIsNothingSpecialIsAccepted(t *testing.T) {
	claim := newClaim()
	claim.Spec.VolumeMode = new(v1.PersistentVolumeFilesystem)
	claim.Spec.VolumeAttributesClassName = new("")
	pool, _ := newPool("local")
	if _, err := specOf(claim, newClass(), clusterUID, parseName(t, volumeName), parameters{pool: pool}); err != nil {
		t.Error(err)
	}
}

func TestSizeOfARequest(t *testing.T) {
	for _, c := range []struct {
		request string
		want    int64
	}{
		{"1", 1},
		{"1Mi", 1 << 20},
		{"1M", 1_000_000},
		{"1.5Ki", 1536},
		{"0.1", 1},   // rounded up:
		{"1500m", 2}, // never less than was asked for
		{"1.0001Ki", 1025},
		{"1n", 1},
		{"9223372036854775806.5", math.MaxInt64},
		{"9223372036854775807", math.MaxInt64},
		// Kubernetes itself makes 2^63-1 of anything above it that has a binary suffix.
		{"8Ei", math.MaxInt64},
		{"100Ei", math.MaxInt64},
	} {
		if got, err := sizeOf(resource.MustParse(c.request)); err != nil || got != c.want {
			t.Errorf("%s: got %d, %v; want %d", c.request, got, err, c.want)
		}
	}
	for request, want := range map[string]string{
		"0": "not above 0", "0Gi": "not above 0", "-1": "not above 0", "-1Gi": "not above 0", "-0.1": "not above 0",
		"9223372036854775807.5": "more than 2^63-1 bytes", "9223372036854775808": "more than 2^63-1 bytes",
		"10E": "more than 2^63-1 bytes", "1e30": "more than 2^63-1 bytes", "-1e30": "not above 0",
	} {
		if got, err := sizeOf(resource.MustParse(request)); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %d, %v; want an ErrInvalid with %q", request, got, err, want)
		}
	}
}

func FuzzSizeOf(f *testing.F) {
	for _, s := range []string{"0", "-1", "1Gi", "0.0001", "1e30", "8Ei", "9223372036854775808", "1n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q, err := resource.ParseQuantity(s)
		if err != nil {
			return
		}
		size, err := sizeOf(q)
		if err != nil {
			return
		}
		if got := resource.NewQuantity(size, resource.BinarySI); size <= 0 || got.Cmp(q) < 0 {
			t.Errorf("a request of %s got %d bytes", s, size)
		}
	})
}

func TestWhetherAClaimWantsAVolume(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*v1.PersistentVolumeClaim)
		want   bool
	}{
		{"unbound", func(*v1.PersistentVolumeClaim) {}, true},
		{"bound to this volume", boundTo(volumeName), true},
		{"bound to another volume", boundTo("pvc-other"), false},
		{"another claim of the same name", withUID("other"), false},
		{"being deleted", beingDeleted, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			claim := newClaim()
			c.change(claim)
			got, err := claimWants(t.Context(), newClient(claim), claimOf(newClaim()), volumeName, anybodys, metav1.GetOptions{})
			if err != nil || got != c.want {
				t.Errorf("got %t, %v; want %t", got, err, c.want)
			}
		})
	}
	t.Run("gone", func(t *testing.T) {
		if got, err := claimWants(t.Context(), newClient(), claimOf(newClaim()), volumeName, anybodys, metav1.GetOptions{}); err != nil || got {
			t.Errorf("got %t, %v; want false", got, err)
		}
	})
	t.Run("API server away", func(t *testing.T) {
		client := newClient(newClaim())
		failing(client, "get", "persistentvolumeclaims")
		if got, err := claimWants(t.Context(), client, claimOf(newClaim()), volumeName, anybodys, metav1.GetOptions{}); !errors.Is(err, errAPI) {
			t.Errorf("got %t, %v; want the error %v", got, err, errAPI)
		}
	})
}

func TestAnOldAnswerThatAClaimIsGoneIsNotBelieved(t *testing.T) {
	client := newClient(newClaim())
	client.PrependReactor("get", "persistentvolumeclaims", func(action kubetest.Action) (bool, runtime.Object, error) {
		// The memory of an API server that has not heard of the claim yet.
		if action.(kubetest.GetActionImpl).GetOptions.ResourceVersion == "0" {
			return true, nil, apierrors.NewNotFound(v1.Resource("persistentvolumeclaims"), "claim")
		}
		return false, nil, nil
	})
	if got, err := claimWantsNow(t.Context(), client, claimOf(newClaim()), volumeName, anybodys); err != nil || !got {
		t.Errorf("got %t, %v; want true", got, err)
	}
}
