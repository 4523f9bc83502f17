//go:build system

package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// snapshotted is a claim with a PersistentVolume of NFS, and the classes of its snapshots.
const snapshotted = `
apiVersion: v1
kind: PersistentVolume
metadata: {name: hold}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteMany]
  nfs: {server: nfs.example.com, path: /exports/hold}
  claimRef: {namespace: default, name: cargo}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: cargo, namespace: default}
spec: {accessModes: [ReadWriteMany], storageClassName: "", volumeName: hold, resources: {requests: {storage: 1Gi}}}
---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotClass
metadata: {name: delete}
driver: example.com/nfs
deletionPolicy: Delete
---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotClass
metadata: {name: retain}
driver: example.com/nfs
deletionPolicy: Retain
`

// The snapshot-controller makes no snapshots of PersistentVolumes of NFS, but serves those whose
// VolumeSnapshotContent somebody else makes. What a driver does is done by hand here.
func TestSnapshotsOfNFS(t *testing.T) {
	c, err := Start(t.Context(), Options{Snapshots: true, Log: testLog{t}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	apply(t, c, snapshotted)
	kubectl(t, c, "wait", "--for=jsonpath={.status.phase}=Bound", "--timeout=2m", "pvc/cargo")

	deleted := takeSnapshot(t, c, "first", "delete", "Delete")
	if got := kubectl(t, c, "get", "volumesnapshot", "first", "-o", "jsonpath={.status.restoreSize} {.status.boundVolumeSnapshotContentName} {.status.error}"); got != "1Gi "+deleted+" " {
		t.Errorf("the status of the snapshot is %q", got)
	}
	kubectl(t, c, "delete", "--wait=false", "volumesnapshot", "first")
	kubectl(t, c, "wait", "--for=jsonpath={.metadata.deletionTimestamp}", "--timeout=2m", "volumesnapshotcontent/"+deleted)
	if got := kubectl(t, c, "get", "volumesnapshotcontent", deleted, "-o", `jsonpath={.metadata.annotations.snapshot\.storage\.kubernetes\.io/volumesnapshot-being-deleted} {.metadata.finalizers}`); got != `yes ["snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"]` {
		t.Errorf("the content that shall be deleted has %s", got)
	}
	kubectl(t, c, "patch", "volumesnapshotcontent", deleted, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	kubectl(t, c, "wait", "--for=delete", "--timeout=2m", "volumesnapshot/first", "volumesnapshotcontent/"+deleted)

	retained := takeSnapshot(t, c, "second", "retain", "Retain")
	kubectl(t, c, "delete", "--timeout=2m", "volumesnapshot", "second")
	if got := kubectl(t, c, "get", "volumesnapshotcontent", retained, "-o", "jsonpath={.metadata.deletionTimestamp}{.status.readyToUse}"); got != "true" {
		t.Errorf("the content that shall be retained has %q, want that it is still ready", got)
	}
}

// takeSnapshot makes a VolumeSnapshot of the claim and its content, and waits until it is ready.
func takeSnapshot(t *testing.T, c *Cluster, name, class, policy string) (content string) {
	t.Helper()
	apply(t, c, fmt.Sprintf(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: %s, namespace: default}
spec: {volumeSnapshotClassName: %s, source: {persistentVolumeClaimName: cargo}}
`, name, class))
	uid := strings.TrimSpace(kubectl(t, c, "get", "volumesnapshot", name, "-o", "jsonpath={.metadata.uid}"))
	content = "snapcontent-" + uid
	apply(t, c, fmt.Sprintf(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotContent
metadata: {name: %s}
spec:
  driver: example.com/nfs
  deletionPolicy: %s
  volumeSnapshotClassName: %s
  source: {volumeHandle: pool/hold}
  volumeSnapshotRef: {kind: VolumeSnapshot, apiVersion: snapshot.storage.k8s.io/v1, namespace: default, name: %s, uid: %s}
`, content, policy, class, name, uid))
	kubectl(t, c, "patch", "volumesnapshotcontent", content, "--subresource=status", "--type=merge", "-p",
		fmt.Sprintf(`{"status":{"snapshotHandle":"pool/%s","readyToUse":true,"restoreSize":%d,"creationTime":%d}}`, name, 1<<30, time.Now().UnixNano()))
	kubectl(t, c, "wait", "--for=jsonpath={.status.readyToUse}=true", "--timeout=5m", "volumesnapshot/"+name)
	return content
}

// apply applies a manifest and fails the test if that fails.
func apply(t *testing.T, c *Cluster, manifest string) {
	t.Helper()
	if _, err := c.KubectlApply(t.Context(), []byte(manifest)); err != nil {
		t.Fatal(err)
	}
}
