//go:build system

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/test/harness"
)

const (
	annInstance     = "berth.storage/instance"
	annSelectedNode = "volume.kubernetes.io/selected-node"
)

// member is one of several Berths of a site, with a pool of its own.
type member struct {
	*harness.Berth
	site     *site // with the member's own options; everything else is shared
	identity string
}

// several starts a Berth for each size, as the pods of a DaemonSet on nodes n0, n1
// and so on, each with a file system of that size for itself.
func (s *site) several(sizes ...string) []*member {
	s.t.Helper()
	var all []*member
	for i, size := range sizes {
		own := *s
		port, err := harness.FreePort()
		s.must(err)
		own.options.NFSPort = port
		own.options.Folder = newFolder(s.t)
		own.options.Root = filepath.Join(s.t.TempDir(), "root")
		s.must(os.Mkdir(own.options.Root, 0o755))
		own.mountMemory(size)
		own.options.Env = []string{fmt.Sprintf("NODE_NAME=n%d", i)}
		all = append(all, &member{Berth: own.begin(own.options), site: &own})
	}
	for _, m := range all {
		m.site.ready(m.Berth)
		text, err := os.ReadFile(filepath.Join(m.Root, ".berth", "identity"))
		s.must(err)
		m.identity = strings.TrimSpace(string(text))
	}
	for _, m := range all {
		s.until("all instances serve claims", func() bool { return strings.Contains(m.Log(), "serving claims") })
	}
	return all
}

// mountMemory mounts a file system in memory at the site's root. Nobody but the
// tests and what they start sees it; see harness.OwnMounts.
func (s *site) mountMemory(size string) {
	s.t.Helper()
	root := s.options.Root
	s.must(unix.Mount("tmpfs", root, "tmpfs", 0, "size="+size))
	s.t.Cleanup(func() {
		if err := unix.Unmount(root, 0); err != nil {
			s.t.Errorf("unmounting %s: %v", root, err)
		}
	})
}

// directories counts the volumes that lie on the disk of m.
func (m *member) directories() int {
	return len(m.site.contents().volumes)
}

// checkShares checks that each claim has one volume, on the disk of the instance
// that its annotation and its PersistentVolume name.
func (s *site) checkShares(all []*member, claims int) {
	s.t.Helper()
	total := 0
	place := make(map[string]string) // volume → identity
	for _, m := range all {
		for _, name := range m.site.contents().volumes {
			place[name] = m.identity
			total++
		}
		s.t.Logf("%s has %d volumes", m.Root, m.directories())
	}
	if total != claims || len(place) != claims {
		s.t.Errorf("%d claims gave %d directories for %d volumes", claims, total, len(place))
	}
	for _, pv := range s.listVolumes() {
		if got := pv.Annotations[annInstance]; got == "" || got != place[pv.Name] {
			s.t.Errorf("PersistentVolume %s is instance %q's, the directory lies with %q", pv.Name, got, place[pv.Name])
		}
	}
}

func TestSeveralInstancesShareTheClaims(t *testing.T) {
	const claims = 100
	s := newSite(t, "several")
	all := s.several("160m", "160m", "160m")
	s.must(harness.CreateClaims(t.Context(), s.client, s.name, "claim", s.name, claims))
	s.untilCount("all claims are Bound", claims, s.watch.Bound)
	s.checkShares(all, claims)
	for _, m := range all {
		if n := m.directories(); n < claims/10 {
			t.Errorf("%s has %d of %d volumes, though it has as much room as the others", m.Root, n, claims)
		}
	}
	s.deleteAllClaims()
	for _, m := range all {
		m.site.untilEmpty()
	}
}

func TestSeveralInstancesAndOneIsKilled(t *testing.T) {
	const claims = 100
	s := newSite(t, "several-killed")
	all := s.several("300m", "200m", "100m")
	s.must(harness.CreateClaims(t.Context(), s.client, s.name, "claim", s.name, claims))
	s.until("some claims are Bound", func() bool { return s.watch.Bound() > claims/5 })
	s.must(killAll(all[0].Berth))
	all[0].Berth = all[0].site.start()
	s.untilCount("all claims are Bound", claims, s.watch.Bound)
	s.checkShares(all, claims)
}

func TestClaimGoesWhereMostRoomIs(t *testing.T) {
	s := newSite(t, "several-room")
	all := s.several("20m", "60m", "40m")
	time.Sleep(time.Second) // each has told the others
	s.bind("data")
	if n := all[1].directories(); n != 1 {
		t.Errorf("the instance with most room has %d volumes, want 1", n)
	}
	s.checkShares(all, 1)
}

// With WaitForFirstConsumer the pod's node is known, and preferred if there is room.
func TestClaimGoesToThePodsNode(t *testing.T) {
	s := newSite(t, "several-node")
	s.class(s.name+"-wait", func(c *storagev1.StorageClass) {
		c.VolumeBindingMode = new(storagev1.VolumeBindingWaitForFirstConsumer)
	})
	all := s.several("20m", "100m", "40m")
	for name, node := range map[string]string{"small": "n0", "big": "n0", "elsewhere": "n7"} {
		s.claim(name, func(c *v1.PersistentVolumeClaim) {
			c.Spec.StorageClassName = new(s.name + "-wait")
			c.Annotations = map[string]string{annSelectedNode: node} // as the scheduler does
			if name == "big" {
				c.Spec.Resources.Requests[v1.ResourceStorage] = resource.MustParse("30Mi")
			}
		})
	}
	for name, want := range map[string]*member{"small": all[0], "big": all[1], "elsewhere": all[1]} {
		if pv := s.bound(name); pv.Annotations[annInstance] != want.identity {
			t.Errorf("claim %s went to instance %s, want %s of %s", name, pv.Annotations[annInstance], want.identity, want.Root)
		}
	}
	s.checkShares(all, 3)
}

func TestClaimOfAnInstanceThatEndedIsTakenOver(t *testing.T) {
	t.Parallel() // with others that mostly wait
	s := newSite(t, "several-gone")
	all := s.several("60m", "40m")
	s.must(killAll(all[0].Berth))
	s.claim("data", func(c *v1.PersistentVolumeClaim) {
		c.Annotations = map[string]string{annInstance: all[0].identity} // it was taken, and then its taker ended
	})
	if pv := s.bound("data"); pv.Annotations[annInstance] != all[1].identity {
		t.Errorf("the claim went to instance %s, want %s", pv.Annotations[annInstance], all[1].identity)
	}
	// And what is made for new claims meanwhile does not wait for the dead.
	s.bind("another")
	s.checkShares(all[1:], 2)
}
