//go:build system

package deploy

import (
	"os/exec"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Whoever has nfs-provisioner changes the image, and nothing else.
func TestManifestsOfNFSProvisionerWithAnotherImage(t *testing.T) {
	s := newSite(t)
	n := s.node()
	folder := n.mkdir(t, "/srv")
	s.apply("test/deploy/testdata/nfs-provisioner")
	running := s.ready(n)

	service, err := shared.client.CoreV1().Services(namespace).Get(t.Context(), "nfs-provisioner", metav1.GetOptions{})
	s.must(err)
	s.must(running.Answer(t.Context(), service.Spec.ClusterIP))
	pv := s.claim("old")
	if pv.Spec.NFS.Server != service.Spec.ClusterIP || pv.Spec.NFS.Path != "/export/"+pv.Name {
		t.Errorf("the volume is %s:%s, want %s:/export/%s", pv.Spec.NFS.Server, pv.Spec.NFS.Path, service.Spec.ClusterIP, pv.Name)
	}
	s.roundTrip(pv.Spec.NFS.Server, pv, folder)
	// By NFSv3, as its volumes are mounted: rpcbind and mountd answer, too.
	url := "nfs://" + pv.Spec.NFS.Server + pv.Spec.NFS.Path + "/file?version=3"
	if text, err := exec.CommandContext(t.Context(), "nfs-cat", url).CombinedOutput(); err != nil || !strings.HasPrefix(string(text), "berth\n") {
		t.Errorf("by NFSv3 is read %.80q, %v", text, err)
	}
	s.deleteClaim("old")

	// What Berth does without is told, and nothing any more when the role has it.
	const without = "Berth works without a permission that it should have; see deploy/rbac"
	for _, resource := range []string{"namespaces", "leases", "persistentvolumes"} {
		if !strings.Contains(running.Log(), without+`" component=kubernetes provisioner=example.com/nfs verb=`) || !strings.Contains(running.Log(), "resource="+resource) {
			t.Errorf("the log does not say that it lacks %s", resource)
		}
	}
	s.apply("test/deploy/testdata/nfs-provisioner-more")
	s.kubectl("rollout", "restart", "-n", namespace, "deployment/nfs-provisioner")
	s.kubectl("rollout", "status", "--timeout=1m", "-n", namespace, "deployment/nfs-provisioner")
	again := s.ready(n)
	s.must(again.Answer(t.Context(), service.Spec.ClusterIP))
	s.claim("new")
	if strings.Contains(again.Log(), without) {
		t.Errorf("with all permissions the log says:\n%s", again.Log())
	}
	s.deleteClaim("new")
}
