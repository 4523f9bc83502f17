//go:build system

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/test/nfs4"
)

// btrfs makes the site's root a btrfs with quotas, until the test ends.
func (s *site) btrfs() {
	s.t.Helper()
	image := filepath.Join(s.t.TempDir(), "btrfs")
	s.must(os.WriteFile(image, nil, 0o600))
	s.must(os.Truncate(image, 256<<20))
	s.command("mkfs.btrfs", "-q", image)
	s.command("mount", "-t", "btrfs", "-o", "loop", image, s.options.Root)
	s.command("btrfs", "quota", "enable", s.options.Root)
	s.t.Cleanup(s.unmount)
}

// tmpfs makes the site's root a file system that has no quotas.
func (s *site) tmpfs() {
	s.t.Helper()
	s.command("mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", s.options.Root)
	s.t.Cleanup(s.unmount)
}

// unmount unmounts the root, and the volumes in it that a killed Berth has left mounted.
func (s *site) unmount() {
	if out, err := exec.Command("umount", "--recursive", s.options.Root).CombinedOutput(); err != nil {
		s.t.Errorf("unmounting the root: %v: %s", err, out)
	}
}

// command runs a program, which must end well, and gives its output.
func (s *site) command(args ...string) string {
	s.t.Helper()
	out, err := exec.CommandContext(s.t.Context(), args[0], args[1:]...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func ofSize(size string) func(*v1.PersistentVolumeClaim) {
	return func(c *v1.PersistentVolumeClaim) {
		c.Spec.Resources.Requests[v1.ResourceStorage] = resource.MustParse(size)
	}
}

// listed is a volume as "berth volumes" tells of it.
type listed struct {
	Name, Claim, State, Limit string
	Size                      int64
	Used                      *uint64
	Published                 bool
}

// volumes is what "berth volumes" says of the site's pool, while Berth has it open.
func (s *site) volumes() (all []listed) {
	s.t.Helper()
	var out struct{ Pools []struct{ Volumes []listed } }
	s.must(json.Unmarshal([]byte(s.command(s.options.Binary, "volumes", "--root", s.options.Root, "-o", "json")), &out))
	if len(out.Pools) != 1 {
		s.t.Fatalf("%d pools are listed, want 1", len(out.Pools))
	}
	return out.Pools[0].Volumes
}

// A claim's volume ends at the claim's size, and so it stays when Berth is killed.
func TestVolumeOnBtrfsIsKeptToItsSize(t *testing.T) {
	s := newSite(t, "btrfs")
	s.btrfs()
	b := s.start()
	s.claim("data", ofSize("16Mi"))
	pv := s.bound("data")
	if got := pv.Spec.Capacity.Storage().String(); got != "16Mi" {
		t.Errorf("capacity is %s", got)
	}
	c := s.mount()
	data := []byte(strings.Repeat("all hands\n", 12<<20/10))
	s.must(c.WriteFile(t.Context(), pv.Spec.NFS.Path+"/fits", data, 0o644))
	full := func() {
		t.Helper()
		if err := c.WriteFile(t.Context(), pv.Spec.NFS.Path+"/too-much", data, 0o644); !errors.Is(err, nfs4.ErrDQuot) {
			t.Errorf("writing 24 MiB to a volume of 16: got error %v, want %v", err, nfs4.ErrDQuot)
		}
		s.must(c.Remove(t.Context(), pv.Spec.NFS.Path+"/too-much"))
	}
	full()
	s.must(killAll(b))
	b = s.start()
	full()
	got, err := c.ReadFile(t.Context(), pv.Spec.NFS.Path+"/fits")
	s.must(err)
	if len(got) != len(data) {
		t.Errorf("of %d bytes there are %d after the kill", len(data), len(got))
	}

	s.command("btrfs", "filesystem", "sync", s.options.Root) // which counts
	s.until("the volume is marked as published", func() bool { all := s.volumes(); return len(all) == 1 && all[0].Published })
	v := s.volumes()[0]
	if v.Name != pv.Name || v.Claim != "data" || v.State != "ready" || v.Limit != "btrfs qgroup" || v.Size != 16<<20 || v.Used == nil || *v.Used < 12<<20 {
		t.Errorf("berth volumes says %+v", v)
	}
	s.must(b.Stop())
	b = s.start() // metrics are measured at the start, then each minute
	line := fmt.Sprintf(`berth_volume_used_bytes{claim="data",namespace="%s",pool="local",volume="%s"} `, s.name, pv.Name)
	s.until("a metric tells what the volume takes up", func() bool {
		text, err := b.Metrics(t.Context())
		return err == nil && strings.Contains(text, line)
	})

	s.deleteClaim("data")
	s.volumeGone(pv.Name)
	s.untilEmpty()
	if left := s.command("btrfs", "subvolume", "list", s.options.Root); left != "" {
		t.Errorf("subvolumes are left:\n%s", left)
	}
	s.must(b.Stop())
	if mounts := s.command("findmnt", "--noheadings", "--submounts", "--output", "TARGET", s.options.Root); strings.Count(mounts, "\n") != 1 {
		t.Errorf("mounts are left:\n%s", mounts)
	}
}

// Where nothing enforces sizes, that is said on a claim and in the list of volumes.
func TestAdvisorySizeIsSaidToBeOne(t *testing.T) {
	s := newSite(t, "advisory")
	s.tmpfs()
	s.start()
	pv := s.bind("data")
	var event v1.Event
	s.until("there is an event on the claim", func() bool {
		events, err := s.client.CoreV1().Events(s.name).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=SizeNotEnforced"})
		if err != nil || len(events.Items) == 0 {
			return false
		}
		event = events.Items[0]
		return true
	})
	if event.InvolvedObject.Name != "data" || event.Type != v1.EventTypeNormal || !strings.Contains(event.Message, "1048576 bytes") {
		t.Errorf("the event is %+v", event)
	}
	table := s.command(s.options.Binary, "volumes", "--root", s.options.Root)
	if !strings.Contains(table, pv.Name) || !strings.Contains(table, "advisory") || !strings.Contains(table, "xfs, ext4 and btrfs have") {
		t.Errorf("berth volumes says\n%s", table)
	}
}

// The flag of nfs-provisioner demands what the article's user did not get.
func TestEnableXFSQuotaIsADemand(t *testing.T) {
	s := newSite(t, "demand")
	s.tmpfs()
	s.checkRefusal(s.beginDropIn("-enable-xfs-quota=true").Process, s.options.Root, "quotas are required", "xfs, ext4 and btrfs")
}
