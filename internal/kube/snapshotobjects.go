package kube

import (
	"encoding/json"
	"fmt"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-storage/berth/internal/volume"
)

// The API of snapshots, which are custom resources. See
// https://kubernetes.io/docs/concepts/storage/volume-snapshots/
const (
	snapshotGroup    = "snapshot.storage.k8s.io"
	snapshotVersion  = "v1"
	snapshotKind     = "VolumeSnapshot"
	contentKind      = "VolumeSnapshotContent"
	snapshotsPlural  = "volumesnapshots"
	contentsPlural   = "volumesnapshotcontents"
	snapshotClasses  = "volumesnapshotclasses"
	deletionIsDelete = "Delete" // a deletionPolicy; the other one is Retain

	contentPrefix  = "snapcontent-" // of names, before the uid of the VolumeSnapshot
	snapshotPrefix = "snapshot-"    // likewise, in the pool

	annDefaultClass = "snapshot.storage.kubernetes.io/is-default-class"
	// The snapshot-controller puts it on a content whose VolumeSnapshot is deleted.
	annBeingDeleted = "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted"
	// It puts this one on each content, for the driver to take off when the snapshot is gone.
	contentFinalizer = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"
	// annTold is when Berth last had the snapshot-controller look at a content again.
	annTold = "berth.storage/told"
)

// volumeSnapshot is what Berth reads of a VolumeSnapshot.
type volumeSnapshot struct {
	metav1.ObjectMeta `json:"metadata"`

	Spec struct {
		Class  *string `json:"volumeSnapshotClassName"`
		Source struct {
			Claim *string `json:"persistentVolumeClaimName"` // nil: a content that is there already
		} `json:"source"`
	} `json:"spec"`
	Status struct {
		Content string `json:"boundVolumeSnapshotContentName"`
		Ready   bool   `json:"readyToUse"`
	} `json:"status"`
}

// snapshotContent is a VolumeSnapshotContent, as far as Berth reads or writes it.
type snapshotContent struct {
	metav1.ObjectMeta `json:"metadata"`

	Spec   contentSpec   `json:"spec"`
	Status contentStatus `json:"status"`
}

type contentSpec struct {
	Driver         string             `json:"driver"`
	DeletionPolicy string             `json:"deletionPolicy"`
	Class          *string            `json:"volumeSnapshotClassName,omitempty"`
	Snapshot       v1.ObjectReference `json:"volumeSnapshotRef"`
	Source         contentSource      `json:"source"`
}

// contentSource has one of both: a volume of which a snapshot is to be taken, or a snapshot
// that there is.
type contentSource struct {
	Volume   *string `json:"volumeHandle,omitempty"`
	Snapshot *string `json:"snapshotHandle,omitempty"`
}

type contentStatus struct {
	Snapshot    *string        `json:"snapshotHandle,omitempty"`
	Ready       bool           `json:"readyToUse"`
	RestoreSize *int64         `json:"restoreSize,omitempty"`  // bytes
	Created     *int64         `json:"creationTime,omitempty"` // nanoseconds since 1970
	Error       *snapshotError `json:"error"`                  // nil takes one away that is there
}

type snapshotError struct {
	Message string      `json:"message"`
	Time    metav1.Time `json:"time"`
}

// snapshotClass is what Berth reads of a VolumeSnapshotClass.
type snapshotClass struct {
	metav1.ObjectMeta `json:"metadata"`

	Driver         string            `json:"driver"`
	DeletionPolicy string            `json:"deletionPolicy"`
	Parameters     map[string]string `json:"parameters"`
}

func snapshotResource(plural string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: snapshotGroup, Version: snapshotVersion, Resource: plural}
}

// parseObject reads a custom resource.
func parseObject[T any](object any) (*T, error) {
	u, ok := object.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("%w: %T is no custom resource", volume.ErrInvalid, object)
	}
	into := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, into); err != nil {
		return nil, fmt.Errorf("%w: %s %s: %w", volume.ErrInvalid, u.GetKind(), u.GetName(), err)
	}
	return into, nil
}

// newContent is one that can be made.
func newContent(meta metav1.ObjectMeta, spec contentSpec) (*unstructured.Unstructured, error) {
	text, err := json.Marshal(map[string]any{
		"apiVersion": snapshotGroup + "/" + snapshotVersion, "kind": contentKind, "metadata": meta, "spec": spec,
	})
	if err != nil {
		return nil, err
	}
	content := new(unstructured.Unstructured)
	return content, content.UnmarshalJSON(text)
}

// contentOf is the name of the content of a VolumeSnapshot that is not there already; so
// the snapshot-controller has it.
func contentOf(snapshot types.UID) string { return contentPrefix + string(snapshot) }

// snapshotNameOf is what the snapshot of a VolumeSnapshot is called in its pool.
func snapshotNameOf(snapshot types.UID) (volume.Name, error) {
	return volume.ParseName(snapshotPrefix + string(snapshot))
}

// reference is what events about a VolumeSnapshot are given to.
func (s *volumeSnapshot) reference() *v1.ObjectReference {
	return &v1.ObjectReference{
		APIVersion: snapshotGroup + "/" + snapshotVersion, Kind: snapshotKind,
		Namespace: s.Namespace, Name: s.Name, UID: s.UID,
	}
}
