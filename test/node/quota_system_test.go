//go:build system

package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-storage/berth/test/vm"
)

// newSiteOnXFS makes a site with a Berth in the guest, whose kernel has quotas, and its
// pool on XFS, served by exporter.
func newSiteOnXFS(t *testing.T, name, exporter string) *site {
	t.Helper()
	s := newSiteWithoutBerth(t, name)
	root := "/srv/" + name
	s.must(vm.MountNew(s.ctx, s, vm.XFS, root, 512<<20))
	s.inPool = func(folder string) []string {
		list, err := s.Run(s.ctx, "find", filepath.Join(root, folder), "-mindepth", "1", "-maxdepth", "1", "-printf", `%f\n`)
		s.must(err)
		return strings.Fields(list)
	}
	s.must(s.Put(s.ctx, shared.binary, "/usr/local/bin/berth"))
	for file, content := range map[string]string{
		"kubeconfig.admin": string(s.Kubeconfig),
		"berth.yaml": fmt.Sprintf(`
pools: [{name: local, provisioner: %s, dir: {root: %s, quota: required}, exporter: %s}]
ganesha: {listen: %s}
server: {hostname: %s}
http: {listen: "%s:9421"}
kubernetes: {kubeconfig: /host/kubeconfig.admin}
`, provisioner, root, exporter, s.Address, s.Address, s.Address),
	} {
		s.must(os.WriteFile(filepath.Join(s.Shared, file), []byte(content), 0o600))
	}

	s.startInGuest(vm.Command{Args: []string{"berth", "serve", "--config", "/host/berth.yaml"}})
	return s
}

// A file of 2 MiB does not go into a claim of 1 MiB. What fits does, also after that.
func TestClaimsSizeIsEnforced(t *testing.T) {
	s := newSiteOnXFS(t, "quota", "ganesha")
	s.claim("nfs")
	pod := s.pod("writer", "nfs", `
dd if=/dev/zero of=/mnt/tmp.512K bs=512K count=1 conv=fsync && echo fits
dd if=/dev/zero of=/mnt/tmp.2M bs=1M count=2 conv=fsync || echo does not fit
rm /mnt/tmp.2M && dd if=/dev/zero of=/mnt/tmp.256K bs=256K count=1 conv=fsync && echo fits again`)
	s.create(pod)
	log := s.ends(pod, 0)
	for _, want := range []string{"fits\n", "No space left on device", "does not fit\n", "fits again\n"} {
		if !strings.Contains(log, want) {
			t.Errorf("the pod has not printed %q:\n%s", want, log)
		}
	}
	s.clear("nfs")
}

// With the kernel's server on XFS a pod sees its claim's size, and what it has used of it.
// So does who looks at kubelet's metrics. When the claim grows the pod sees that, too, and can write
// as much, without being started again.
func TestPodsSeeTheClaimsSize(t *testing.T) {
	const size, file = 1 << 20, 256 << 10
	s := newSiteWithKernelServer(t, "size")
	s.claim("data")
	pod := s.pod("writer", "data", fmt.Sprintf(`
dd if=/dev/zero of=/mnt/file bs=%d count=1 conv=fsync 2>/dev/null
df -k /mnt | tail -n 1
while [ ! -e /mnt/seen ]; do sleep 0.2; done
until df -k /mnt | tail -n 1 | grep -q ' %d '; do sleep 1; done
dd if=/dev/zero of=/mnt/more bs=%d count=1 conv=fsync`, file, 2*size>>10, size))
	s.create(pod)
	metric := func(name string) (value float64) {
		text, err := s.Client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes", Name, "proxy/metrics").DoRaw(s.ctx)
		s.must(err)
		line := fmt.Sprintf(`kubelet_volume_stats_%s{namespace="%s",persistentvolumeclaim="data"} `, name, s.name)
		if _, after, found := strings.Cut(string(text), line); found {
			_, err := fmt.Sscan(after, &value)
			s.must(err)
		}
		return value
	}
	s.until("kubelet has measured the volume with its file", func() bool { return metric("used_bytes") >= file })
	for name, want := range map[string]float64{"capacity_bytes": size, "used_bytes": file, "available_bytes": size - file} {
		if got := metric(name); got != want {
			t.Errorf("kubelet_volume_stats_%s is %.0f, want %.0f", name, got, want)
		}
	}
	_, err := s.Run(s.ctx, "touch", filepath.Join("/srv", s.name, s.claimIs("data").Spec.VolumeName, "seen"))
	s.must(err)
	_, err = s.Client.StorageV1().StorageClasses().Patch(s.ctx, s.name, types.MergePatchType, []byte(`{"allowVolumeExpansion":true}`), metav1.PatchOptions{})
	s.must(err)
	grown := fmt.Appendf(nil, `{"spec":{"resources":{"requests":{"storage":"%d"}}}}`, 2*size)
	_, err = s.Client.CoreV1().PersistentVolumeClaims(s.name).Patch(s.ctx, "data", types.MergePatchType, grown, metav1.PatchOptions{})
	s.must(err)
	before, _, _ := strings.Cut(s.ends(pod, 0), "/mnt")
	// df breaks the line after a long name of what is mounted.
	if got, want := strings.Fields(before), []string{"1024", "256", "768", "25%"}; !slices.Equal(got[max(0, len(got)-len(want)):], want) {
		t.Errorf("df says %q, want %q at its end", got, want)
	}
	if got := s.claimIs("data").Status.Capacity.Storage().Value(); got != 2*size {
		t.Errorf("the claim has %d bytes", got)
	}
	s.clear("data")
}

// newSiteWithKernelServer is newSiteOnXFS with the guest's own NFS server.
func newSiteWithKernelServer(t *testing.T, name string) *site {
	t.Helper()
	startKernelServer(t)
	return newSiteOnXFS(t, name, "kernel")
}

// startKernelServer starts the guest's own NFS server, which ends with the test.
func startKernelServer(t *testing.T) {
	t.Helper()
	if err := vm.StartNFSD(t.Context(), shared.node); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // others need the port
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := shared.node.Run(ctx, "rpc.nfsd", "0"); err != nil {
			t.Error(err)
		}
	})
}
