//go:build system

package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/nfs4"
)

// growable starts Berth with a class whose claims may grow, and has a claim of it bound.
func (s *site) growable(claim, size string) (*harness.Berth, *v1.PersistentVolume) {
	s.t.Helper()
	class := s.name + "-growable"
	s.class(class, func(c *storagev1.StorageClass) { c.AllowVolumeExpansion = new(true) })
	b := s.start()
	s.claim(claim, ofSize(size), func(c *v1.PersistentVolumeClaim) { c.Spec.StorageClassName = &class })
	return b, s.bound(claim)
}

// resize asks for another size of a claim.
func (s *site) resize(claim, size string) {
	s.t.Helper()
	patch := fmt.Appendf(nil, `{"spec":{"resources":{"requests":{"storage":%q}}}}`, size)
	_, err := s.client.CoreV1().PersistentVolumeClaims(s.name).Patch(s.t.Context(), claim, types.MergePatchType, patch, metav1.PatchOptions{})
	s.must(err)
}

// untilGrown waits until a claim has a size, and nothing about it is left to do.
func (s *site) untilGrown(claim, size string) {
	s.t.Helper()
	s.until(claim+" has "+size, func() bool {
		c, err := s.client.CoreV1().PersistentVolumeClaims(s.name).Get(s.t.Context(), claim, metav1.GetOptions{})
		return err == nil && c.Status.Capacity.Storage().String() == size && len(c.Status.Conditions)+len(c.Status.AllocatedResourceStatuses) == 0
	})
	pv := s.bound(claim)
	if got := pv.Spec.Capacity.Storage().String(); got != size {
		s.t.Errorf("the claim has %s, its PersistentVolume %s", size, got)
	}
}

// events are the texts of a claim's events of a reason.
func (s *site) events(claim, reason string) (texts []string) {
	s.t.Helper()
	events, err := s.client.CoreV1().Events(s.name).List(s.t.Context(), metav1.ListOptions{FieldSelector: "reason=" + reason})
	s.must(err)
	for _, e := range events.Items {
		if e.InvolvedObject.Name == claim {
			texts = append(texts, e.Message)
		}
	}
	return texts
}

// A claim's new size is real: more can be written then, while clients have it mounted.
func TestAClaimGrowsToASizeThatIsEnforced(t *testing.T) {
	s := newSite(t, "grow")
	s.btrfs()
	_, pv := s.growable("data", "16Mi")
	c := s.mount()
	file, data := pv.Spec.NFS.Path+"/file", []byte(strings.Repeat("all hands\n", 20<<20/10))
	if err := c.WriteFile(t.Context(), file, data, 0o644); !errors.Is(err, nfs4.ErrDQuot) {
		t.Fatalf("writing 20 MiB to a volume of 16: got error %v, want %v", err, nfs4.ErrDQuot)
	}
	s.must(c.Remove(t.Context(), file))
	s.command("btrfs", "filesystem", "sync", s.options.Root) // which counts
	s.resize("data", "48Mi")
	s.untilGrown("data", "48Mi")
	s.must(c.WriteFile(t.Context(), file, data, 0o644))
	if v := s.volumes()[0]; v.Size != 48<<20 || v.Limit != "btrfs qgroup" {
		t.Errorf("berth volumes says %+v", v)
	}
	if events := s.events("data", "VolumeResizeSuccessful"); len(events) != 1 || !strings.HasSuffix(events[0], "has grown to 48Mi") {
		t.Errorf("got events %q", events)
	}
}

// What was asked for while Berth was away is done when it is back.
func TestAClaimGrowsAfterARestart(t *testing.T) {
	s := newSite(t, "growlater")
	s.tmpfs()
	b, _ := s.growable("data", "16Mi")
	s.must(b.Stop())
	s.resize("data", "32Mi")
	s.start()
	s.untilGrown("data", "32Mi")
	events := s.events("data", "VolumeResizeSuccessful")
	if len(events) != 1 || !strings.Contains(events[0], "advisory") {
		t.Errorf("got events %q", events)
	}
}

// onEachLimit runs a test on storage that limits by the file system, and on datasets, each in a pool of
// 256 MiB. limit is the real one of a volume, in bytes.
func onEachLimit(t *testing.T, name string, test func(s *site, limit func(pv string) string)) {
	t.Run("btrfs", func(t *testing.T) {
		s := newSite(t, name+"-btrfs")
		s.btrfs()
		test(s, func(pv string) string {
			rows := strings.Split(strings.TrimSpace(s.command("btrfs", "qgroup", "show", "-rf", "--raw", s.options.Root+"/"+pv)), "\n")
			return strings.Fields(rows[len(rows)-1])[3] // after its id, and what is in it, also of its own
		})
	})
	t.Run("zfs", func(t *testing.T) {
		s := newSite(t, name+"-zfs")
		parent := s.dataset("a", "-o", "quota=256M")
		s.options.Storage, s.options.Pool = "zfs: {dataset: "+parent+", sizing: quota}", "exporter: ganesha"
		test(s, func(pv string) string { return s.zfs("get", "-Hp", "-o", "value", "refquota", parent+"/"+pv) })
	})
}

// Whenever Berth is killed while a claim grows, it has what it asks for in the end, and its
// volume is limited to that.
func TestGrowthSurvivesKills(t *testing.T) {
	onEachLimit(t, "growkilled", func(s *site, limit func(string) string) {
		b, pv := s.growable("data", "16Mi")
		random := rand.New(rand.NewPCG(1, 2))
		for i := range 6 {
			s.resize("data", fmt.Sprint(24+8*i, "Mi"))
			time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
			s.must(killAll(b))
			b = s.start()
		}
		s.untilGrown("data", "64Mi")
		if got := limit(pv.Name); got != "67108864" {
			s.t.Errorf("the volume's limit is %s bytes", got)
		}
	})
}

// What the pool has no room for is told, while the claim has what it had, and can be taken back.
func TestAClaimThatCannotGrow(t *testing.T) {
	onEachLimit(t, "growtoomuch", func(s *site, limit func(string) string) {
		_, pv := s.growable("data", "16Mi")
		s.resize("data", "1Ti")
		s.untilEvent(s.name, "data", "VolumeResizeFailed", "not enough space", "1Ti")
		var c *v1.PersistentVolumeClaim
		s.until("the claim says so", func() bool {
			var err error
			c, err = s.client.CoreV1().PersistentVolumeClaims(s.name).Get(s.t.Context(), "data", metav1.GetOptions{})
			return err == nil && c.Status.AllocatedResourceStatuses[v1.ResourceStorage] == v1.PersistentVolumeClaimControllerResizeInfeasible
		})
		if !slices.ContainsFunc(c.Status.Conditions, func(c v1.PersistentVolumeClaimCondition) bool {
			return c.Type == v1.PersistentVolumeClaimControllerResizeError && strings.Contains(c.Message, "not enough space")
		}) {
			s.t.Errorf("its conditions are %+v", c.Status.Conditions)
		}
		has := []string{c.Status.Capacity.Storage().String(), s.bound("data").Spec.Capacity.Storage().String(), limit(pv.Name)}
		if want := []string{"16Mi", "16Mi", "16777216"}; !slices.Equal(has, want) {
			s.t.Errorf("the claim, its PersistentVolume and its volume have %v, want %v", has, want)
		}
		s.resize("data", "24Mi")
		s.untilGrown("data", "24Mi")
		if got := limit(pv.Name); got != "25165824" {
			s.t.Errorf("the volume's limit is %s bytes", got)
		}
	})
}
