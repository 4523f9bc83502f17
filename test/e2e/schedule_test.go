//go:build system

package e2e

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"
)

// A claim gets the snapshot that is due, one for all times that were missed, and the one before
// that was made by its schedule goes when the new one is ready. Those made by hand stay.
func TestScheduledSnapshots(t *testing.T) {
	s := newSite(t, "schedule")
	parent := s.dataset("a")
	s.startPools("name: a, zfs: {dataset: " + parent + ", sizing: quota, node: zfs-1}, exporter: none")
	s.snapshots()
	s.claim("data", ofSize("32Mi"))
	data := s.bound("data")
	had := s.fill(s.mountpoint(parent, data))
	s.snapshot("mine", "data", "")
	s.apply(fmt.Sprintf(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata:
  name: data-20200101-0000
  labels: {berth.storage/schedule-of: %s}
  annotations: {berth.storage/scheduled-at: "2020-01-01T00:00:00Z"}
spec: {source: {persistentVolumeClaimName: data}}
`, data.Spec.ClaimRef.UID))
	s.snapshotReady("mine")
	s.snapshotReady("data-20200101-0000")

	s.kubectl("annotate", "pvc", "data", "berth.storage/snapshot-schedule=each night")
	s.untilEvent(s.name, "data", "SnapshotScheduleInvalid", `"0 3 * * *"`)
	s.kubectl("annotate", "--overwrite", "pvc", "data", "berth.storage/snapshot-schedule=0 0 1 * *", "berth.storage/snapshot-keep=1")
	s.kubectl("wait", "--for=delete", "--timeout="+patience.String(), "volumesnapshot/data-20200101-0000")
	names := strings.Fields(s.kubectl("get", "volumesnapshot", "-o", "jsonpath={.items[*].metadata.name}"))
	// At midnight of a month's first day either is right.
	if len(names) != 2 || names[1] != "mine" || !strings.HasPrefix(names[0], "data-") {
		t.Fatalf("on %s there are %v, want one of this month's beginning, and mine", time.Now().UTC(), names)
	}
	s.restore("again", names[0], "32Mi")
	again := s.bound("again")
	if got := s.checksums(s.mountpoint(parent, again)); !maps.Equal(got, had) {
		t.Errorf("restored were %v, want %v", got, had)
	}

	s.whileUnmounted(func() {
		s.deleteClaim("data") // its snapshots stay
		s.volumeGone(data.Name)
	}, parent+"/"+again.Name)
	s.kubectl("get", "volumesnapshot", names[0])
	s.kubectl("delete", "--timeout="+patience.String(), "volumesnapshot", "--all")
	s.deleteClaim("again")
	s.untilNoDatasets(parent)
}
