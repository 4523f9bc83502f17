package kube

import (
	"context"
	"errors"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kubetest "k8s.io/client-go/testing"

	"github.com/berth-storage/berth/internal/volume"
)

func TestARequestThatIsTakenBack(t *testing.T) {
	class, claim, pv := growingObjects()
	g := newGrowthOf(t, class, claim, pv)
	g.volumes.fail = volume.ErrNoSpace
	if err := g.look(t.Context(), team); err == nil {
		t.Fatal("no error")
	}
	claim, _ = g.now()
	claim.Spec.Resources.Requests = storage("1Gi")
	claim.Status.Conditions = append(claim.Status.Conditions, v1.PersistentVolumeClaimCondition{Type: "Another's", Status: v1.ConditionTrue})
	if _, err := g.client.CoreV1().PersistentVolumeClaims("team").Update(t.Context(), claim, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	g.read()
	if err := g.look(t.Context(), team); err != nil {
		t.Fatal(err)
	}
	g.want("PV 1Gi, claim 1Gi, Another's True")
}

// lower asks for less than before.
func (g *growth) lower(to string) {
	g.t.Helper()
	claim, _ := g.now()
	claim.Spec.Resources.Requests = storage(to)
	if _, err := g.client.CoreV1().PersistentVolumeClaims("team").Update(g.t.Context(), claim, metav1.UpdateOptions{}); err != nil {
		g.t.Fatal(err)
	}
	g.read()
}

// sizedVolumes remember how large the only volume is, as a Manager does.
type sizedVolumes struct {
	*fakeVolumes
	size int64
}

func (s *sizedVolumes) Grow(ctx context.Context, n volume.Name, cluster string, bytes int64) (volume.Volume, error) {
	s.size = max(s.size, bytes)
	return s.fakeVolumes.Grow(ctx, n, cluster, s.size)
}

func (s *sizedVolumes) Get(_ context.Context, n volume.Name) (volume.Volume, error) {
	return volume.Volume{Name: n, Size: s.size}, s.fail
}

// Wherever it was cut off, a claim that asks for less by then has that, or what its volume
// has got already, and says so.
func TestARequestThatIsLoweredInTheMiddle(t *testing.T) {
	for _, to := range []string{"1Gi", "1536Mi"} {
		for step, want := range []string{"PV " + to + ", claim " + to, hasGrown, hasGrown} {
			g := newGrowth(t)
			volumes := &sizedVolumes{fakeVolumes: g.volumes, size: 1 << 30}
			g.provisioner.pools[0].Volumes = volumes
			writes := 0
			g.client.PrependReactor("patch", "*", func(kubetest.Action) (bool, runtime.Object, error) {
				if writes++; writes == step+1 {
					return true, nil, errAPI
				}
				return false, nil, nil
			})
			if err := g.look(t.Context(), team); !errors.Is(err, errAPI) {
				t.Errorf("cut off after %d writes: error %v", step, err)
			}
			g.lower(to)
			if err := g.look(t.Context(), team); err != nil {
				t.Errorf("lowered to %s after %d writes: %v", to, step, err)
			}
			if got := g.state(); got != want {
				t.Errorf("lowered to %s after %d writes: got %s, want %s", to, step, got, want)
			}
		}
	}
}

// While the pool does not say how large the volume is, nothing is told.
func TestARequestThatIsTakenBackWhileThePoolIsAway(t *testing.T) {
	g := newGrowth(t)
	volumes := &sizedVolumes{fakeVolumes: g.volumes, size: 2 << 30}
	g.provisioner.pools[0].Volumes = volumes
	volumes.fail = volume.ErrUnknown
	if err := g.look(t.Context(), team); !errors.Is(err, volume.ErrUnknown) {
		t.Errorf("got error %v", err)
	}
	g.lower("1Gi")
	if err := g.look(t.Context(), team); !errors.Is(err, volume.ErrUnknown) {
		t.Errorf("taken back: got error %v", err)
	}
	g.want("PV 1Gi, claim 1Gi, ControllerResizeInProgress to 2Gi, Resizing True")
	volumes.fail = nil
	if err := g.look(t.Context(), team); err != nil {
		t.Error(err)
	}
	g.want(hasGrown)
}

func TestWhatWasInTheWayOfAnotherSizeIsNotSaidAnyMore(t *testing.T) {
	g := newGrowth(t)
	g.volumes.fail = volume.ErrNoSpace
	if err := g.look(t.Context(), team); !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("got error %v", err)
	}
	g.lower("1536Mi")
	g.volumes.fail = volume.ErrBusy
	if err := g.look(t.Context(), team); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("lowered: got error %v", err)
	}
	g.want("PV 1Gi, claim 1Gi, ControllerResizeInProgress to 1536Mi, Resizing True")
}
