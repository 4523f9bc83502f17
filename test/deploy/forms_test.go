//go:build system

package deploy

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// noGrace spares a test the wait for clients of an earlier run. The manifests leave it
// at nfs-provisioner's 90 s.
const noGrace = "-grace-period=0"

func TestDeployment(t *testing.T) {
	s := newSite(t)
	n := s.node()
	folder := n.mkdir(t, "/srv/berth")
	s.apply("deploy/deployment", args("Deployment", noGrace))
	s.kubectl("label", "node", n.name, "berth.storage/pool=true")
	running := s.ready(n)
	s.kubectl("rollout", "status", "--timeout=2m", "-n", namespace, "deployment/berth")

	service, err := shared.client.CoreV1().Services(namespace).Get(t.Context(), "berth", metav1.GetOptions{})
	s.must(err)
	s.must(running.Answer(t.Context(), service.Spec.ClusterIP))
	pv := s.claim("data")
	if pv.Spec.NFS.Server != service.Spec.ClusterIP {
		t.Errorf("the volume's server is %s, want the Service's cluster IP %s", pv.Spec.NFS.Server, service.Spec.ClusterIP)
	}
	s.roundTrip(pv.Spec.NFS.Server, pv, folder)
	s.deleteClaim("data")
}

// Each node has its own volumes, and PersistentVolumes name the node.
func TestDaemonSet(t *testing.T) {
	s := newSite(t)
	pool, other := []*node{s.node(), s.node()}, s.node()
	serving, folders := map[string]string{}, map[string]string{} // by the node's name
	s.apply("deploy/daemonset", args("DaemonSet", noGrace))
	for _, n := range pool {
		folders[n.name] = n.mkdir(t, "/srv/berth")
		s.kubectl("label", "node", n.name, "berth.storage/pool=true")
		serving[n.name] = s.ready(n).IP
	}
	s.kubectl("rollout", "status", "--timeout=2m", "-n", namespace, "daemonset/berth")
	if pods := s.kubectl("get", "pods", "-n", namespace, "-o", "name", "--field-selector", "spec.nodeName="+other.name); pods != "" {
		t.Errorf("the node without the label has %s", pods)
	}
	pv := s.claim("data")
	node := pv.Spec.NFS.Server
	if serving[node] == "" {
		t.Fatalf("the volume's server is %s, want one of the nodes %v", node, serving)
	}
	s.roundTrip(serving[node], pv, folders[node])
	s.deleteClaim("data")
}
