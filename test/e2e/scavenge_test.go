//go:build system

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A claim is deleted while Berth is down, after its volume was made and before
// the PersistentVolume was saved: nobody will ever ask for that volume again.
func TestVolumeThatWasNeverHandedOutIsScavenged(t *testing.T) {
	s := newSite(t, "scavenge")
	s.options.Config = "kubernetes: {kubeconfig: " + s.kubeconfig + ", scavengeAfter: 1s}\n"
	allow := s.denyVolumes()
	b := s.start()
	s.claim("data")
	s.until("the volume is made", func() bool {
		have := s.contents()
		return len(have.records) == 1 && s.readRecord(have.records[0])["state"] == "ready"
	})
	s.must(killAll(b))
	allow()
	s.deleteClaim("data")
	orphan := s.contents().records[0]
	if saved := s.listVolumes(); len(saved) > 0 {
		t.Fatalf("PersistentVolumes were saved all the same: %v", saved)
	}

	keep, discard := s.writeRecordsLike(s.readRecord(orphan))
	s.start()
	for _, name := range append(discard, orphan) {
		s.untilPurged(name)
	}
	if have := s.contents(); !slices.Equal(have.volumes, keep) || !slices.Equal(have.records, keep) {
		t.Errorf("there are %v; want these left alone: %v", have, keep)
	}
	if exports := s.exports(s.mount()); !slices.Equal(exports, keep) {
		t.Errorf("exported are %v, want %v", exports, keep)
	}
}

// denyVolumes has the API server refuse this site's PersistentVolumes until allow is called.
func (s *site) denyVolumes() (allow func()) {
	s.t.Helper()
	policy := fmt.Appendf(nil, `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: %[1]s}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [persistentvolumes]}
  validations:
  - expression: object.spec.storageClassName != '%[1]s'
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: %[1]s}
spec: {policyName: %[1]s, validationActions: [Deny]}
`, s.name)
	_, err := shared.cluster.KubectlApply(s.t.Context(), policy)
	s.must(err)
	probe := &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: s.name},
		Spec: v1.PersistentVolumeSpec{
			StorageClassName:       s.name,
			AccessModes:            []v1.PersistentVolumeAccessMode{v1.ReadWriteMany},
			Capacity:               v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Mi")},
			PersistentVolumeSource: v1.PersistentVolumeSource{NFS: &v1.NFSVolumeSource{Server: "127.0.0.1", Path: "/"}},
		},
	}
	s.until("PersistentVolumes are refused", func() bool {
		_, err := s.client.CoreV1().PersistentVolumes().Create(s.t.Context(), probe, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return apierrors.IsInvalid(err) || apierrors.IsForbidden(err)
	})
	return func() {
		s.t.Helper()
		_, err := shared.cluster.Kubectl(s.t.Context(), "delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", s.name)
		s.must(err)
	}
}

func (s *site) readRecord(name string) map[string]any {
	s.t.Helper()
	text, err := os.ReadFile(s.record(name))
	s.must(err)
	var record map[string]any
	s.must(json.Unmarshal(text, &record))
	return record
}

// writeRecordsLike writes records, and makes directories, of volumes that are like
// that of the given record but for one thing each: keep must never be discarded,
// discard are orphans too.
func (s *site) writeRecordsLike(orphan map[string]any) (keep, discard []string) {
	s.t.Helper()
	// The orphans' names come last, so that when they are gone all others were
	// looked at.
	for i, volume := range []struct {
		prefix, key string
		value       any
		kept        bool
	}{
		{"pvc-00000001", "reclaim", "retain", true},
		{"pvc-00000002", "published", true, true},
		{"pvc-00000003", "cluster", "12345678-1234-4234-8234-123456789abc", true},
		{"pvc-fffffff1", "state", "creating", false},
		{"pvc-fffffff2", "state", "ready", false},
	} {
		uid := fmt.Sprintf("%s-aaaa-4aaa-8aaa-aaaaaaaaaaaa", volume.prefix[len("pvc-"):])
		name := "pvc-" + uid
		orphan["name"], orphan["path"] = name, name
		orphan["claim"] = map[string]any{"namespace": s.name, "name": "gone", "uid": uid}
		export := orphan["export"].(map[string]any)
		export["id"], export["path"] = 1001+i, exportPath+"/"+name
		export["fsid"] = fmt.Sprintf("%08x-aaaa-4aaa-8aaa-bbbbbbbbbbbb", i)
		before := orphan[volume.key]
		orphan[volume.key] = volume.value
		text, err := json.Marshal(orphan)
		s.must(err)
		orphan[volume.key] = before
		s.must(os.WriteFile(s.record(name), text, 0o600))
		s.must(os.MkdirAll(filepath.Join(s.options.Root, name, "data"), 0o755))
		if volume.kept {
			keep = append(keep, name)
		} else {
			discard = append(discard, name)
		}
	}
	return keep, discard
}
