//go:build system

package node

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/vm"
)

// examplePod is what the pod of kubernetes-zfs-provisioner's walk-through does.
const examplePod = `
if [ -e /mnt/SUCCESS ]; then echo file already exists; exit 0; fi
echo file does not exist attempting to create it
touch /mnt/SUCCESS`

// newSiteOnZFS makes a site with a ZFS pool of the guest that has the dataset pvc, and a
// Berth there that takes the place of kubernetes-zfs-provisioner. The class is that of its
// walk-through.
func newSiteOnZFS(t *testing.T, name, pool string) *site {
	t.Helper()
	startKernelServer(t)
	provisioner := "gentics.com/" + name
	s := newSiteWithoutBerth(t, name, func(c *storagev1.StorageClass) { c.Provisioner = provisioner })
	s.must(vm.NewPool(s.ctx, s, pool, 512<<20))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := vm.RemovePool(ctx, s, pool); err != nil {
			t.Error(err)
		}
	})
	_, err := s.Run(s.ctx, "zfs", "create", pool+"/pvc")
	s.must(err)
	s.must(os.WriteFile(filepath.Join(s.Shared, "kubeconfig.admin"), s.Kubeconfig, 0o600))
	s.must(s.Put(s.ctx, shared.binary, "/usr/local/bin/berth"))
	s.startInGuest(vm.Command{
		Args: []string{"berth", "zfs-provisioner"},
		Env: []string{
			"ZFS_PARENT_DATASET=" + pool + "/pvc", "ZFS_PROVISIONER_NAME=" + provisioner, "ZFS_KUBE_CONF=/host/kubeconfig.admin",
			"ZFS_SHARE_OPTIONS=rw=@" + s.Address + "/32,no_root_squash", "ZFS_SERVER_HOSTNAME=" + s.Address, "ZFS_METRICS_PORT=9421",
		},
	})
	return s
}

// startInGuest starts a Berth in the guest, whose web server is at port 9421 there, until
// the test ends.
func (s *site) startInGuest(c vm.Command) {
	s.t.Helper()
	log, err := os.Create(filepath.Join(s.Shared, "berth.log"))
	s.must(err)
	c.Stdout, c.Stderr = log, log
	ended := make(chan error, 1)
	go func() { ended <- s.Exec(s.ctx, c) }() // until the test ends, and with it its context
	s.t.Cleanup(func() {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			s.t.Errorf("Berth ended by itself: %v", err)
		}
		log.Close()
		if text, err := os.ReadFile(log.Name()); err != nil || s.t.Failed() {
			s.t.Logf("the log of Berth: %v\n%s", err, text)
		}
	})
	s.until("Berth serves NFS", func() bool {
		response, err := http.Get("http://" + s.Address + ":9421/readyz")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

// sh runs a shell script in the guest.
func (s *site) sh(script string, args ...string) string {
	s.t.Helper()
	out, err := s.Run(s.ctx, append([]string{"sh", "-ec", script, "sh"}, args...)...)
	s.must(err)
	return out
}

// events are the messages of a claim's events that give a reason.
func (s *site) events(claim, reason string) string {
	s.t.Helper()
	events, err := s.Client.CoreV1().Events(s.name).List(s.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + claim + ",reason=" + reason})
	s.must(err)
	var all strings.Builder
	for _, e := range events.Items {
		all.WriteString(e.Message + "\n")
	}
	return all.String()
}

// datasets are those of a pool that kubernetes-zfs-provisioner's users see.
func (s *site) datasets(parent string) []string {
	s.t.Helper()
	list, err := s.Run(s.ctx, "zfs", "list", "-H", "-o", "name", "-d", "1", "-t", "filesystem", parent)
	s.must(err)
	var names []string
	for line := range strings.Lines(list) {
		if name, below := strings.CutPrefix(strings.TrimSpace(line), parent+"/"); below && name != ".berth" {
			names = append(names, name)
		}
	}
	return names
}

// The walk-through of kubernetes-zfs-provisioner: a claim whose dataset cannot be shared
// at first, as happened to its author, then a pod that makes a file, and after that is
// gone another one that finds it.
func TestWalkThroughOfZFSProvisioner(t *testing.T) {
	s := newSiteOnZFS(t, "zfs-system", "kubernetes-mirror")
	const parent = "kubernetes-mirror/pvc"
	s.sh(`mkdir -p /etc/exports.d; mount -t tmpfs -o ro none /etc/exports.d`)
	unmount := sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := s.Run(ctx, "umount", "/etc/exports.d"); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(unmount)
	claim := harness.NewClaim(s.name, "example-pvc", s.name)
	claim.Spec.Resources.Requests[v1.ResourceStorage] = resource.MustParse("1M")
	_, err := s.Client.CoreV1().PersistentVolumeClaims(s.name).Create(s.ctx, claim, metav1.CreateOptions{})
	s.must(err)
	s.until("the claim's events say that its dataset is not shared", func() bool {
		return strings.Contains(s.events("example-pvc", "ProvisioningFailed"), "cannot share")
	})
	unmount()
	s.until("the claim is bound", func() bool { return s.claimIs("example-pvc").Status.Phase == v1.ClaimBound })
	if got := s.datasets(parent); len(got) != 1 || got[0] != s.claimIs("example-pvc").Spec.VolumeName {
		t.Errorf("the datasets are %q, and the claim's volume is %s", got, s.claimIs("example-pvc").Spec.VolumeName)
	}

	for _, want := range []string{"file does not exist attempting to create it\n", "file already exists\n"} {
		pod := s.pod("example", "example-pvc", examplePod)
		s.create(pod)
		if log := s.ends(pod, 0); log != want {
			t.Errorf("the pod printed %q, want %q", log, want)
		}
		s.must(s.DeletePod(s.ctx, pod))
		s.must(s.AwaitGone(s.ctx, pod))
	}

	s.deleteClaim("example-pvc")
	s.until("nothing is left", func() bool {
		volumes, err := s.Client.CoreV1().PersistentVolumes().List(s.ctx, metav1.ListOptions{})
		s.must(err)
		return len(volumes.Items) == 0 && len(s.datasets(parent)) == 0 && len(s.datasets(parent+"/.berth")) == 0
	})
	if exports := s.sh("exportfs -s"); strings.Contains(exports, parent) {
		t.Errorf("the guest still exports %s", exports)
	}
}

// A pod can write as much as its claim asks for, and sees that in df.
func TestPodsSeeTheSizeOfADataset(t *testing.T) {
	s := newSiteOnZFS(t, "zfs-size", "tank")
	claim := harness.NewClaim(s.name, "data", s.name)
	claim.Spec.Resources.Requests[v1.ResourceStorage] = resource.MustParse("8Mi")
	_, err := s.Client.CoreV1().PersistentVolumeClaims(s.name).Create(s.ctx, claim, metav1.CreateOptions{})
	s.must(err)
	pod := s.pod("writer", "data", `
df -k /mnt | tail -n 1
dd if=/dev/urandom of=/mnt/fits bs=1M count=2 conv=fsync && echo fits
dd if=/dev/urandom of=/mnt/large bs=1M count=16 conv=fsync || echo does not fit`)
	s.create(pod)
	log := s.ends(pod, 0)
	for _, want := range []string{"8192 ", "fits\n", "Disk quota exceeded", "does not fit\n"} {
		if !strings.Contains(log, want) {
			t.Errorf("the pod has not printed %q:\n%s", want, log)
		}
	}
	s.must(s.DeletePod(s.ctx, pod))
	s.must(s.AwaitGone(s.ctx, pod))
	s.deleteClaim("data")
	s.until("nothing is left", func() bool { return len(s.datasets("tank/pvc"))+len(s.datasets("tank/pvc/.berth")) == 0 })
}
