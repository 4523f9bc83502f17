//go:build system

package deploy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/image"
	"github.com/berth-storage/berth/test/nfs4"
	"github.com/berth-storage/berth/test/pod"
)

// patience is how long anything may take before a test gives up. It is no
// measure of how long it should take.
const patience = 4 * time.Minute

// namespace is that of the manifests.
const namespace = "berth"

// site is what a test has for itself: the cluster, empty, and its nodes.
type site struct {
	t         *testing.T
	nodes     []*node
	namespace string // of Berth
}

// node is one of the cluster.
type node struct {
	*pod.Node
	name string
	host string // folder that stands for its root
}

func newSite(t *testing.T) *site { return &site{t: t, namespace: namespace} }

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// until waits until done says so.
func (s *site) until(what string, done func() bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	s.must(harness.Until(ctx, what, done))
}

var nodes atomic.Int32

// node adds one to the cluster; its pods end with the test.
func (s *site) node() *node {
	s.t.Helper()
	return s.nodeWith(shared.image, nil)
}

// nodeWith is node with another image, and shares by server:path, for which folders stand.
func (s *site) nodeWith(i image.Image, shares map[string]string) *node {
	s.t.Helper()
	n := &node{name: fmt.Sprintf("node-%d", nodes.Add(1)), host: s.t.TempDir()}
	var err error
	n.Node, err = pod.Start(s.t.Context(), pod.Options{
		Client: shared.client, APIServer: shared.cluster.Server(), Name: n.name,
		Rootfs: i.Rootfs, Entrypoint: i.Config.Entrypoint, Env: i.Config.Env,
		Folder: s.t.TempDir(), Host: n.host, Shares: shares, Hosts: map[string]string{zfsHost: zfsAddress},
	})
	s.must(err)
	s.t.Cleanup(func() {
		if err := n.Stop(context.Background()); err != nil {
			s.t.Error(err)
		}
	})
	s.nodes = append(s.nodes, n)
	return n
}

// mkdir makes a folder of the node, as "mkdir -p" on it.
func (n *node) mkdir(t *testing.T, path string) string {
	t.Helper()
	folder := filepath.Join(n.host, path)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	return folder
}

// kubectl runs it as the cluster's administrator in the repository, as the pages say it.
func (s *site) kubectl(args ...string) string {
	s.t.Helper()
	output, err := s.tryKubectl(args...)
	s.must(err)
	return output
}

func (s *site) tryKubectl(args ...string) (string, error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	output, err := shared.cluster.Kubectl(ctx, args...)
	return strings.TrimSpace(string(output)), err
}

// apply applies a folder of the repository with the API server's strict validation, and
// has it deleted at the end of the test. Patches are for kustomize, each with its target.
func (s *site) apply(path string, patches ...string) {
	s.t.Helper()
	s.applyWith("", path, patches...)
}

// applyWith is apply with a component of the repository; "" is none.
func (s *site) applyWith(component, path string, patches ...string) {
	s.t.Helper()
	folder := filepath.Join(shared.repository, path)
	if len(patches) > 0 {
		folder = s.overlay(folder, component, patches)
	}
	s.deleteAfterwards(folder)
	s.t.Cleanup(func() { // before that
		if s.t.Failed() {
			s.showLogs()
		}
	})
	s.kubectl("apply", "--validate=strict", "-k", folder)
}

// deleteAfterwards has what a folder says deleted at the end of the test.
func (s *site) deleteAfterwards(folder string) {
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := shared.cluster.Kubectl(ctx, "delete", "--ignore-not-found", "-k", folder); err != nil {
			s.t.Error(err)
		}
	})
}

// overlay makes a kustomization that changes another one, as people make for their own cluster.
func (s *site) overlay(base, component string, patches []string) string {
	s.t.Helper()
	folder := s.t.TempDir()
	relative := func(path string) string { // kustomize takes no other
		path, err := filepath.Rel(folder, path)
		s.must(err)
		return path
	}
	text := "resources: [" + relative(base) + "]\n"
	if component != "" {
		text += "components: [" + relative(filepath.Join(shared.repository, component)) + "]\n"
	}
	text += "patches:\n" + strings.Join(patches, "")
	s.must(os.WriteFile(filepath.Join(folder, "kustomization.yaml"), []byte(text), 0o600))
	return folder
}

// args adds arguments to the container of a Deployment, StatefulSet or DaemonSet.
func args(kind string, args ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "- target: {kind: %s}\n  patch: |\n", kind)
	for _, arg := range args {
		fmt.Fprintf(&b, "    - {op: add, path: /spec/template/spec/containers/0/args/-, value: %q}\n", arg)
	}
	return b.String()
}

// showLogs shows the ends of the logs of all pods.
func (s *site) showLogs() {
	pods, err := shared.client.CoreV1().Pods(metav1.NamespaceAll).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		s.t.Log(err)
		return
	}
	for _, p := range pods.Items {
		s.t.Logf("pod %s/%s on %q: %s %+v", p.Namespace, p.Name, p.Spec.NodeName, p.Status.Phase, p.Status.Conditions)
		for _, n := range s.nodes {
			if running := n.Pod(p.Namespace, p.Name); running != nil {
				lines := strings.Split(running.Log(), "\n")
				s.t.Logf("waiting: %v, restarts: %d, log:\n%s", running.Waiting(), running.Restarts(), strings.Join(lines[max(0, len(lines)-40):], "\n"))
			}
		}
	}
}

// ready waits until a node has a pod of Berth that is ready, and gives it.
func (s *site) ready(n *node) *pod.Pod {
	s.t.Helper()
	var found *pod.Pod
	s.until("a pod of Berth is ready on "+n.name, func() bool {
		list, err := shared.client.CoreV1().Pods(s.namespace).List(s.t.Context(), metav1.ListOptions{})
		s.must(err)
		for _, p := range list.Items {
			for _, c := range p.Status.Conditions {
				if p.Spec.NodeName == n.name && p.DeletionTimestamp == nil && c.Type == v1.PodReady && c.Status == v1.ConditionTrue {
					found = n.Pod(s.namespace, p.Name)
				}
			}
		}
		return found != nil
	})
	return found
}

// claim makes a claim and gives its PersistentVolume when it is Bound.
func (s *site) claim(name string) *v1.PersistentVolume {
	s.t.Helper()
	return s.claimOf(harness.NewClaim("default", name, "berth"))
}

// claimOf is claim for any claim in the namespace default.
func (s *site) claimOf(claim *v1.PersistentVolumeClaim) *v1.PersistentVolume {
	s.t.Helper()
	name := claim.Name
	_, err := shared.client.CoreV1().PersistentVolumeClaims("default").Create(s.t.Context(), claim, metav1.CreateOptions{})
	s.must(err)
	s.t.Cleanup(func() { // for a test that fails before it does that itself
		err := shared.client.CoreV1().PersistentVolumeClaims("default").Delete(context.Background(), name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			s.t.Error(err)
		}
	})
	return s.bound(name)
}

// bound waits until a claim is Bound.
func (s *site) bound(name string) *v1.PersistentVolume {
	s.t.Helper()
	var volume string
	s.until("claim "+name+" is Bound", func() bool {
		c, err := shared.client.CoreV1().PersistentVolumeClaims("default").Get(s.t.Context(), name, metav1.GetOptions{})
		s.must(err)
		volume = c.Spec.VolumeName
		return c.Status.Phase == v1.ClaimBound
	})
	pv, err := shared.client.CoreV1().PersistentVolumes().Get(s.t.Context(), volume, metav1.GetOptions{})
	s.must(err)
	return pv
}

// deleteClaim deletes a claim and waits until its volume is gone.
func (s *site) deleteClaim(name string) {
	s.t.Helper()
	c, err := shared.client.CoreV1().PersistentVolumeClaims("default").Get(s.t.Context(), name, metav1.GetOptions{})
	s.must(err)
	s.must(shared.client.CoreV1().PersistentVolumeClaims("default").Delete(s.t.Context(), name, metav1.DeleteOptions{}))
	s.until("PersistentVolume "+c.Spec.VolumeName+" is gone", func() bool {
		_, err := shared.client.CoreV1().PersistentVolumes().Get(s.t.Context(), c.Spec.VolumeName, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// mount gives a client of the NFS server at that address.
func (s *site) mount(server string) *nfs4.Client {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	c, err := nfs4.Dial(ctx, server+":2049", nfs4.Options{})
	s.must(err)
	s.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return c
}

// roundTrip writes a file to a volume, and reads it by another client and on the disk.
func (s *site) roundTrip(server string, pv *v1.PersistentVolume, folder string) {
	s.t.Helper()
	data := bytes.Repeat([]byte("berth\n"), 100_000)
	file := pv.Spec.NFS.Path + "/file"
	s.must(s.mount(server).WriteFile(s.t.Context(), file, data, 0o644))
	got, err := s.mount(server).ReadFile(s.t.Context(), file)
	s.must(err)
	if !bytes.Equal(got, data) {
		s.t.Errorf("another client reads %d bytes, not the %d that were written", len(got), len(data))
	}
	got, err = os.ReadFile(filepath.Join(folder, pv.Name, "file"))
	s.must(err)
	if !bytes.Equal(got, data) {
		s.t.Errorf("on the disk are %d bytes, not the %d that were written", len(got), len(data))
	}
}

// get asks a pod's HTTP server; the status is 0 if it does not answer.
func get(url string) (status int, text string) {
	response, err := http.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(body)
}
