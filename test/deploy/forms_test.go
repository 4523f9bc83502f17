//go:build system

package deploy

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/pod"
)

// noGrace spares a test the wait for clients of an earlier run. The manifests leave it
// at nfs-provisioner's 90 s.
const noGrace = "-grace-period=0"

// poolNode adds a node that has the label and the directory of the manifests.
func (s *site) poolNode() (n *node, folder string) {
	s.t.Helper()
	n = s.node()
	s.kubectl("label", "node", n.name, "berth.storage/pool=true")
	return n, n.mkdir(s.t, "/srv/berth")
}

// serviceIP has the pod answer at the Service's address, and gives that.
func (s *site) serviceIP(p *pod.Pod) string {
	s.t.Helper()
	service, err := shared.client.CoreV1().Services(namespace).Get(s.t.Context(), "berth", metav1.GetOptions{})
	s.must(err)
	s.must(p.Answer(s.t.Context(), service.Spec.ClusterIP))
	return service.Spec.ClusterIP
}

// serves makes a volume, whose server has to be want, reads and writes, and deletes it.
func (s *site) serves(name, want, address, folder string) {
	s.t.Helper()
	pv := s.claim(name)
	if pv.Spec.NFS.Server != want {
		s.t.Errorf("the volume's server is %s, want %s", pv.Spec.NFS.Server, want)
	}
	s.roundTrip(address, pv, folder)
	s.deleteClaim(name)
	s.until("the volume's directory is gone", func() bool {
		_, err := os.Stat(filepath.Join(folder, pv.Name))
		return os.IsNotExist(err)
	})
}

func TestDeployment(t *testing.T) {
	s := newSite(t)
	n, folder := s.poolNode()
	s.apply("deploy/deployment", args("Deployment", noGrace))
	address := s.serviceIP(s.ready(n))
	s.kubectl("rollout", "status", "--timeout=1m", "-n", namespace, "deployment/berth")
	s.serves("data", address, address, folder)
}

// A second pod waits until the first one ends. Clients go on where they were, and no
// traffic goes to a pod that only waits.
func TestStandby(t *testing.T) {
	s := newSite(t)
	n, folder := s.poolNode()
	s.apply("deploy/deployment", args("Deployment", noGrace))
	first := s.ready(n)
	address := s.serviceIP(first)
	pv := s.claim("data")
	s.roundTrip(address, pv, folder)

	s.kubectl("scale", "-n", namespace, "deployment/berth", "--replicas=2")
	var second *pod.Pod
	s.until("another pod stands by", func() bool {
		list, err := shared.client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
		s.must(err)
		for _, p := range list.Items {
			if p.Name != first.Name {
				second = n.Pod(namespace, p.Name)
			}
		}
		status, text := 0, ""
		if second != nil {
			status, text = get("http://" + second.IP + ":9421/healthz")
		}
		return status == 200 && text == "standing by: another process has pool export open\n"
	})
	if status, text := get("http://" + second.IP + ":9421/readyz"); status != 503 {
		t.Errorf("the one that stands by is ready: %d %s", status, text)
	}
	client := s.mount(address)
	s.must(client.WriteFile(t.Context(), pv.Spec.NFS.Path+"/before", []byte("before"), 0o644))
	s.kubectl("delete", "pod", "-n", namespace, first.Name)
	// The Deployment makes a third one: whichever of the two finds the lock free first serves.
	next := s.ready(n)
	s.must(next.Answer(t.Context(), address))
	got, err := client.ReadFile(t.Context(), pv.Spec.NFS.Path+"/before")
	s.must(err)
	if string(got) != "before" {
		t.Errorf("read %q", got)
	}
	s.deleteClaim("data")
}

// disk is a volume of the cluster's own on that node.
func (s *site) disk(n *node) (folder string) {
	s.t.Helper()
	disk := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "disk"}, Spec: v1.PersistentVolumeSpec{
		Capacity: v1.ResourceList{v1.ResourceStorage: resource.MustParse("10Gi")}, AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce},
		PersistentVolumeSource: v1.PersistentVolumeSource{HostPath: &v1.HostPathVolumeSource{Path: "/disk"}},
	}}
	volumes := shared.client.CoreV1().PersistentVolumes()
	_, err := volumes.Create(s.t.Context(), disk, metav1.CreateOptions{})
	s.must(err)
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		err := volumes.Delete(ctx, disk.Name, metav1.DeleteOptions{})
		gone := func() bool {
			_, err := volumes.Get(ctx, disk.Name, metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		}
		if err := errors.Join(err, harness.Until(ctx, "the disk is gone", gone)); err != nil {
			s.t.Error(err)
		}
	})
	return n.mkdir(s.t, "/disk")
}

// The volume that its claim template asks for is one of the cluster's own.
func TestStatefulSet(t *testing.T) {
	s := newSite(t)
	n := s.node()
	folder := s.disk(n)
	s.apply("deploy/statefulset", args("StatefulSet", noGrace))
	address := s.serviceIP(s.ready(n))
	s.kubectl("rollout", "status", "--timeout=1m", "-n", namespace, "statefulset/berth")
	s.serves("data", address, address, folder)
}

// Each node has its own volumes, and PersistentVolumes name the node.
func TestDaemonSet(t *testing.T) {
	s := newSite(t)
	pool, other := []*node{}, s.node()
	serving, folders := map[string]string{}, map[string]string{} // by the node's name
	for range 2 {
		n, folder := s.poolNode()
		pool, folders[n.name] = append(pool, n), folder
	}
	s.apply("deploy/daemonset", args("DaemonSet", noGrace))
	for _, n := range pool {
		serving[n.name] = s.ready(n).IP
	}
	s.kubectl("rollout", "status", "--timeout=1m", "-n", namespace, "daemonset/berth")
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

// A bare pod's volumes last as long as the pod, also when its container is started again.
func TestPodWithAnEmptyDir(t *testing.T) {
	s := newSite(t)
	n := s.node()
	s.apply("deploy/pod-emptydir")
	running := s.ready(n)
	pv := s.claim("data")
	if pv.Spec.NFS.Server != running.IP {
		t.Errorf("the volume's server is %s, want the pod's address %s", pv.Spec.NFS.Server, running.IP)
	}
	client := s.mount(running.IP)
	s.must(client.WriteFile(t.Context(), pv.Spec.NFS.Path+"/file", []byte("kept"), 0o644))
	running.Kill()
	s.until("the container is started again", func() bool { return running.Restarts() == 1 })
	got, err := client.ReadFile(t.Context(), pv.Spec.NFS.Path+"/file")
	s.must(err)
	if string(got) != "kept" {
		t.Errorf("read %q", got)
	}
	s.deleteClaim("data")
}
