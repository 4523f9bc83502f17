package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/zfsproperty"
)

// original is the claim or VolumeSnapshot that a claim wants a copy of.
type original struct {
	how      string // what says so
	snapshot bool   // a VolumeSnapshot
	name     string
	// larger: the copy may not be smaller, as Kubernetes has it for data sources.
	larger bool
}

func (o original) String() string {
	kind := "claim"
	if o.snapshot {
		kind = snapshotKind
	}
	return fmt.Sprintf("%s %.253q", kind, o.name)
}

// originalOf gives what this claim shall be a copy of; nil if of nothing.
func originalOf(claim *v1.PersistentVolumeClaim, wished map[string]wish) (*original, error) {
	o, err := dataSource(claim)
	if err != nil {
		return nil, err
	}
	w, found := wished[zfsproperty.CloneFrom]
	switch {
	case !found:
	case o != nil && (o.snapshot || o.name != w.value):
		return nil, fmt.Errorf("%w: %s and annotation %s name different things", volume.ErrInvalid, o.how, w.annotation)
	case o == nil:
		o = &original{how: "annotation " + w.annotation, name: w.value}
	}
	if _, restored := claim.Annotations[AnnotationRestoreFrom]; o != nil && restored {
		return nil, fmt.Errorf("%w: %s and annotation %s: a volume is either a copy or restored", volume.ErrInvalid, o.how, AnnotationRestoreFrom)
	}
	if o != nil && (o.name == "" || o.name == claim.Name && !o.snapshot) {
		return nil, fmt.Errorf("%w: %s: %q is not another claim", volume.ErrInvalid, o.how, o.name)
	}
	return o, nil
}

// dataSource is the claim or VolumeSnapshot that is a claim's data source; nil if it has
// none. See https://kubernetes.io/docs/concepts/storage/volume-pvc-datasource/
func dataSource(claim *v1.PersistentVolumeClaim) (found *original, err error) {
	if s := claim.Spec.DataSource; s != nil {
		if found, err = copyable("dataSource", s.APIGroup, s.Kind, s.Name); err != nil {
			return nil, err
		}
	}
	if s := claim.Spec.DataSourceRef; s != nil {
		if s.Namespace != nil && *s.Namespace != "" && *s.Namespace != claim.Namespace {
			return nil, cannotCopy("dataSourceRef", s.Kind, s.Name)
		}
		return copyable("dataSourceRef", s.APIGroup, s.Kind, s.Name)
	}
	return found, nil
}

func copyable(field string, group *string, kind, name string) (*original, error) {
	o := &original{how: field, name: name, larger: true}
	switch {
	case kind == "PersistentVolumeClaim" && (group == nil || *group == ""):
		return o, nil
	case kind == snapshotKind && group != nil && *group == snapshotGroup:
		o.snapshot = true
		return o, nil
	}
	return nil, cannotCopy(field, kind, name)
}

func cannotCopy(field, kind, name string) error {
	return fmt.Errorf("%w: %s %s %q cannot be copied, only a PersistentVolumeClaim or VolumeSnapshot of the same namespace; an empty volume in its place would be wrong",
		volume.ErrUnsupported, field, kind, name)
}

// source is a volume, or a snapshot of one, that is to be copied.
type source struct {
	pool     *Pool
	from     volume.Source
	capacity int64
}

// sourceVolume gives the volume of a claim that is to be copied. Everything is read from
// the API server and not from our cache. The Manager looks once more at whose the volume is.
func (p *provisioner) sourceVolume(ctx context.Context, claim *v1.PersistentVolumeClaim, o original) (source, error) {
	refuse := func(kind error, format string, args ...any) (source, error) {
		return source{}, fmt.Errorf("%w: %s: %s of namespace %s %w", kind, o.how, o, claim.Namespace, fmt.Errorf(format, args...))
	}
	from, err := p.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Get(ctx, o.name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return refuse(volume.ErrInvalid, "does not exist")
	case err != nil:
		return refuse(volume.ErrUnknown, "cannot be read: %w", err)
	case from.DeletionTimestamp != nil:
		return refuse(volume.ErrInvalid, "is being deleted")
	case from.Spec.VolumeName == "" || from.Status.Phase != v1.ClaimBound:
		return refuse(volume.ErrBusy, "is not bound to a volume yet")
	}
	pv, err := p.client.CoreV1().PersistentVolumes().Get(ctx, from.Spec.VolumeName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return refuse(volume.ErrInvalid, "has lost its PersistentVolume %s", from.Spec.VolumeName)
	case err != nil:
		return refuse(volume.ErrUnknown, "cannot be copied: reading PersistentVolume %s: %w", from.Spec.VolumeName, err)
	// A claim can be made that names any PersistentVolume; that one says whose it is.
	case pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != from.UID:
		return refuse(volume.ErrForeign, "is not the one that PersistentVolume %s is bound to", pv.Name)
	}
	pool := p.poolOf(pv)
	if pool == nil {
		if p.taker.giveTo(ctx, claim, pv.Annotations[annInstance]) {
			return refuse(volume.ErrBusy, "has its volume in another instance of Berth, which makes the copy")
		}
		return refuse(volume.ErrInvalid, "has a volume that is in no pool of this Berth, so that it cannot be copied: use a class of its own pool")
	}
	name, err := p.volumeOf(pv)
	if err != nil {
		return refuse(volume.ErrForeign, "cannot be copied: %w", err)
	}
	capacity, err := sizeOf(pv.Spec.Capacity[v1.ResourceStorage])
	if err != nil {
		return refuse(volume.ErrInvalid, "cannot be copied: the capacity of PersistentVolume %s: %w", pv.Name, err)
	}
	return source{pool, volume.Source{Volume: name}, capacity}, nil
}

// copies has the volume called name be a copy of what o says: in the one of pools that has that, where it
// may be a clone, and else in one of pools, which are tried in order.
func (p *provisioner) copies(ctx context.Context, claim *v1.PersistentVolumeClaim, o original, name volume.Name, pools []*Pool) ([]*Pool, *volume.Source, error) {
	// What was begun is finished, also if its original has been deleted since.
	for _, pool := range pools {
		v, err := pool.Volumes.Get(ctx, name)
		switch {
		case err == nil && v.ClonedFrom != volume.Name{}:
			return []*Pool{pool}, &volume.Source{Volume: v.ClonedFrom, Snapshot: v.FromSnapshot}, nil
		case err == nil && v.CopiedFrom != volume.Origin{}:
			return []*Pool{pool}, v.CopiedFrom.Source(), nil
		case err != nil && !errors.Is(err, volume.ErrNotFound):
			return nil, nil, err
		}
	}
	find := p.sourceVolume
	if o.snapshot {
		find = p.sourceSnapshot
	}
	from, err := find(ctx, claim, o)
	if err != nil {
		return nil, nil, err
	}
	size, err := sizeOf(claim.Spec.Resources.Requests[v1.ResourceStorage])
	switch {
	case err != nil:
		return nil, nil, err
	case o.larger && size < from.capacity:
		return nil, nil, fmt.Errorf("%w: %s: %s has %d bytes, and this claim asks for %d: a copy cannot be smaller",
			volume.ErrInvalid, o.how, o, from.capacity, size)
	case slices.Contains(pools, from.pool):
		return []*Pool{from.pool}, &from.from, nil
	}
	from.from.Pool = from.pool.Volumes.Pool()
	return pools, &from.from, nil
}
