package kube

import (
	"fmt"
	"strings"

	"github.com/berth-storage/berth/internal/volume"
)

// What Berth writes on PersistentVolumes. The annotations are keys to look up a
// record with, never a path to act on.
const (
	annInstance = "berth.storage/instance" // the identity of the pool that holds the volume
	annVolume   = "berth.storage/volume"   // the volume's handle: pool/name
	labelPool   = "berth.storage/pool"
	// On VolumeSnapshots that Berth makes by a schedule: the uid of the claim, and when it was due.
	labelScheduleOf = "berth.storage/schedule-of"
	annScheduledAt  = "berth.storage/scheduled-at"
	// The label and value that Kubernetes recommends for what a tool made:
	// https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/
	labelManagedBy = "app.kubernetes.io/managed-by"
	managedBy      = "berth"
	// Kubelet adds this group to the processes of pods that use the volume.
	annGID = "pv.beta.kubernetes.io/gid"
)

// AnnotationRestoreFrom is for claims: the name of an archived or retained volume whose
// content the claim shall get.
const AnnotationRestoreFrom = "berth.storage/restore-from"

// handle names a volume in all of a Berth's pools.
type handle struct {
	pool string
	name volume.Name
}

func (h handle) String() string { return h.pool + "/" + h.name.String() }

func parseHandle(s string) (handle, error) {
	pool, rest, found := strings.Cut(s, "/")
	if !found || pool == "" {
		return handle{}, fmt.Errorf("%w: volume handle %q is not pool/name", volume.ErrInvalid, s)
	}
	name, err := volume.ParseName(rest)
	return handle{pool, name}, err
}
