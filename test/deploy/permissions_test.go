//go:build system

package deploy

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/test/harness"
)

// permission is a verb on a resource. Where is "cluster" or "own", the namespace of
// the service account.
type permission struct{ where, verb, group, resource string }

func (p permission) String() string {
	resource := p.resource
	if p.group != "" {
		resource += "." + p.group
	}
	return p.verb + " " + resource + " (" + p.where + ")"
}

// asked adds to used what the service account of the manifests asked the API server for
// after the first requests. Nothing of that may have been refused.
func (s *site) asked(after int, used map[permission]bool) {
	s.t.Helper()
	requests, err := shared.cluster.Requests()
	s.must(err)
	granted := s.granted()
	for _, r := range requests[after:] {
		if r.User != "system:serviceaccount:"+namespace+":berth" || r.Group == "authorization.k8s.io" {
			continue // who asks what he may do needs no rule for that
		}
		resource := r.Resource
		if r.Subresource != "" {
			resource += "/" + r.Subresource
		}
		p := permission{"cluster", r.Verb, r.Group, resource}
		if own := (permission{"own", r.Verb, r.Group, resource}); r.Namespace == namespace && granted[own] {
			p = own
		}
		used[p] = true
		if r.Code == http.StatusForbidden {
			s.t.Errorf("refused: %s, namespace %q, name %q", p, r.Namespace, r.Name)
		}
	}
}

// granted are the permissions that the manifests give.
func (s *site) granted() map[permission]bool {
	s.t.Helper()
	cluster, err := shared.client.RbacV1().ClusterRoles().Get(s.t.Context(), "berth", metav1.GetOptions{})
	s.must(err)
	own, err := shared.client.RbacV1().Roles(namespace).Get(s.t.Context(), "berth", metav1.GetOptions{})
	s.must(err)
	granted := map[permission]bool{}
	add := func(where string, rules []rbacv1.PolicyRule) {
		for _, rule := range rules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						granted[permission{where, verb, group, resource}] = true
					}
				}
			}
		}
	}
	add("cluster", cluster.Rules)
	add("own", own.Rules)
	return granted
}

// The API server's own account of who asked for what is compared with the roles: Berth
// may ask for nothing that is refused, and nothing may be granted that it never needs.
func TestPermissionsAreThoseThatBerthUses(t *testing.T) {
	used, granted := map[permission]bool{}, map[permission]bool{}
	t.Run("deployment", func(t *testing.T) { usedByDeployment(t, used) })
	t.Run("daemonset", func(t *testing.T) {
		s := usedByDaemonSet(t, used)
		maps.Copy(granted, s.granted())
	})
	for p := range granted {
		if !used[p] {
			t.Errorf("granted and never used: %s", p)
		}
	}
}

// usedByDeployment has a Berth behind a Service do all that it ever does.
func usedByDeployment(t *testing.T, used map[permission]bool) {
	before, err := shared.cluster.Requests()
	s := newSite(t)
	s.must(err)
	n := s.node()
	folder := n.mkdir(t, "/srv/berth")
	s.kubectl("label", "node", n.name, "berth.storage/pool=true")
	s.apply("deploy/deployment", args("Deployment", noGrace))
	s.ready(n)
	pv := s.claim("data")
	s.useSnapshots("data", pv)
	s.grow("data", "2Mi")
	s.deleteClaim("data")

	// An event that repeats itself is patched.
	refusal := harness.NewClaim("default", "selective", "berth")
	refusal.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"no": "volume"}}
	_, err = shared.client.CoreV1().PersistentVolumeClaims("default").Create(t.Context(), refusal, metav1.CreateOptions{})
	s.must(err)
	s.until("the refusal is told twice", func() bool {
		events, err := shared.client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "reason=ProvisioningFailed"})
		s.must(err)
		return slices.ContainsFunc(events.Items, func(e v1.Event) bool { return e.InvolvedObject.Name == "selective" && e.Count > 1 })
	})
	s.must(shared.client.CoreV1().PersistentVolumeClaims("default").Delete(t.Context(), "selective", metav1.DeleteOptions{}))

	s.leaveVolume(n, folder)
	s.asked(len(before), used)
}

// grow raises the size of a claim, and waits until it has that.
func (s *site) grow(name, size string) {
	s.t.Helper()
	s.kubectl("patch", "pvc", name, "-p", `{"spec":{"resources":{"requests":{"storage":"`+size+`"}}}}`)
	s.kubectl("wait", "--for=jsonpath={.status.capacity.storage}="+size, "--timeout=1m", "pvc/"+name)
}

// useSnapshots has Berth take a snapshot of a claim, restore another one from it, delete it, and
// find the content of a VolumeSnapshot that is gone.
func (s *site) useSnapshots(claim string, pv *v1.PersistentVolume) {
	s.t.Helper()
	s.must(shared.cluster.StartSnapshots(s.t.Context()))
	apply := func(manifest string) {
		s.t.Helper()
		_, err := shared.cluster.KubectlApply(s.t.Context(), []byte(manifest))
		s.must(err)
	}
	apply(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotClass
metadata: {name: berth, annotations: {snapshot.storage.kubernetes.io/is-default-class: "true"}}
driver: example.com/nfs
deletionPolicy: Delete
---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: shot, namespace: default}
spec: {source: {persistentVolumeClaimName: ` + claim + `}}
`)
	s.kubectl("wait", "--for=jsonpath={.status.readyToUse}=true", "--timeout=5m", "volumesnapshot/shot")
	s.useSchedule(claim, pv)
	restored := harness.NewClaim("default", "restored", "berth")
	restored.Spec.DataSource = &v1.TypedLocalObjectReference{APIGroup: new("snapshot.storage.k8s.io"), Kind: "VolumeSnapshot", Name: "shot"}
	s.claimOf(restored)
	s.deleteClaim("restored")
	s.kubectl("delete", "--timeout=5m", "volumesnapshot", "shot")
	apply(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotContent
metadata: {name: snapcontent-gone, annotations: {berth.storage/instance: ` + pv.Annotations["berth.storage/instance"] + `}}
spec:
  driver: example.com/nfs
  deletionPolicy: Delete
  source: {volumeHandle: ` + pv.Annotations["berth.storage/volume"] + `}
  volumeSnapshotRef: {namespace: default, name: gone, uid: gone}
`)
	s.kubectl("wait", "--for=delete", "--timeout=5m", "volumesnapshotcontent/snapcontent-gone")
	s.kubectl("delete", "volumesnapshotclass", "berth")
}

// useSchedule has Berth take a snapshot that is due, and delete an older one.
func (s *site) useSchedule(claim string, pv *v1.PersistentVolume) {
	s.t.Helper()
	old := claim + "-20200101-0000"
	_, err := shared.cluster.KubectlApply(s.t.Context(), []byte(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata:
  name: `+old+`
  namespace: default
  labels: {berth.storage/schedule-of: `+string(pv.Spec.ClaimRef.UID)+`}
  annotations: {berth.storage/scheduled-at: "2020-01-01T00:00:00Z"}
spec: {source: {persistentVolumeClaimName: `+claim+`}}
`))
	s.must(err)
	s.kubectl("wait", "--for=jsonpath={.status.readyToUse}=true", "--timeout=5m", "volumesnapshot/"+old)
	s.kubectl("annotate", "pvc", claim, "berth.storage/snapshot-schedule=@yearly", "berth.storage/snapshot-keep=1")
	s.kubectl("wait", "--for=delete", "--timeout=5m", "volumesnapshot/"+old)
	s.kubectl("annotate", "pvc", claim, "berth.storage/snapshot-schedule-")
	s.kubectl("delete", "--timeout=5m", "volumesnapshot", "-l", "berth.storage/schedule-of")
}

// usedByDaemonSet has two Berths agree who makes a volume.
func usedByDaemonSet(t *testing.T, used map[permission]bool) *site {
	before, err := shared.cluster.Requests()
	s := newSite(t)
	s.must(err)
	pool := []*node{s.node(), s.node()}
	s.apply("deploy/daemonset", args("DaemonSet", noGrace))
	for _, n := range pool {
		n.mkdir(t, "/srv/berth")
		s.kubectl("label", "node", n.name, "berth.storage/pool=true")
		s.ready(n)
	}
	s.claim("data")
	s.deleteClaim("data")
	s.asked(len(before), used)
	return s
}

// leaveVolume has Berth find what a crash between a volume and its PersistentVolume
// leaves, with the claim deleted meanwhile, and waits until Berth has discarded it.
func (s *site) leaveVolume(n *node, folder string) {
	s.t.Helper()
	pv := s.claim("left")
	s.kubectl("scale", "-n", namespace, "deployment/berth", "--replicas=0")
	s.kubectl("wait", "-n", namespace, "--for=delete", "--timeout=1m", "pods", "--all")
	s.kubectl("delete", "pvc", "left")
	s.kubectl("patch", "pv", pv.Name, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	s.kubectl("delete", "pv", pv.Name)
	file := filepath.Join(folder, ".berth", "volumes", pv.Name+".json")
	text, err := os.ReadFile(file)
	s.must(err)
	record := map[string]any{}
	s.must(json.Unmarshal(text, &record))
	record["published"], record["created"] = false, "2020-01-01T00:00:00Z"
	text, err = json.Marshal(record)
	s.must(err)
	s.must(os.WriteFile(file, text, 0o600))
	s.kubectl("scale", "-n", namespace, "deployment/berth", "--replicas=1")
	s.ready(n)
	s.until("the volume that was left is discarded", func() bool {
		_, err := os.Stat(filepath.Join(folder, pv.Name))
		return errors.Is(err, os.ErrNotExist)
	})
}
