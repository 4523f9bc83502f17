//go:build system

package deploy

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/test/harness"
)

// btrfs mounts a new file system with quotas at path. The mount is this program's own,
// and ends with it.
func (s *site) btrfs(path string) {
	s.t.Helper()
	disk := filepath.Join(s.t.TempDir(), "disk")
	file, err := os.Create(disk)
	s.must(err)
	s.must(file.Truncate(512 << 20))
	s.must(file.Close())
	for _, args := range [][]string{{"mkfs.btrfs", "-q", disk}, {"mount", "-o", "loop", disk, path}, {"btrfs", "quota", "enable", path}} {
		if output, err := exec.CommandContext(s.t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			s.t.Fatalf("%q: %v\n%s", args, err, output)
		}
	}
	s.t.Cleanup(func() {
		if output, err := exec.Command("umount", path).CombinedOutput(); err != nil {
			s.t.Errorf("umount: %v: %s", err, output)
		}
	})
}

// With the component, and no more capabilities than it adds, a pod keeps volumes to
// their sizes. btrfs needs most of the file systems: a mount for each volume.
func TestQuota(t *testing.T) {
	s := newSite(t)
	n, folder := s.poolNode()
	s.btrfs(folder)
	s.applyWith("deploy/quota", "deploy/deployment", args("Deployment", noGrace))
	address := s.serviceIP(s.ready(n))

	claim := harness.NewClaim("default", "limited", "berth")
	claim.Spec.Resources.Requests[v1.ResourceStorage] = resource.MustParse("8Mi")
	_, err := shared.client.CoreV1().PersistentVolumeClaims("default").Create(t.Context(), claim, metav1.CreateOptions{})
	s.must(err)
	pv := s.bound("limited")
	client := s.mount(address)
	s.must(client.WriteFile(t.Context(), pv.Spec.NFS.Path+"/fits", bytes.Repeat([]byte("x"), 4<<20), 0o644))
	if err := client.WriteFile(t.Context(), pv.Spec.NFS.Path+"/too-much", bytes.Repeat([]byte("x"), 16<<20), 0o644); err == nil {
		t.Error("16 MiB fit into a volume of 8 MiB")
	}
	s.deleteClaim("limited")
}
