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

// original is the claim that another one wants a copy of.
type original struct {
	how  string // what says so
	name string
	// larger: the copy may not be smaller, as Kubernetes has it for data sources.
	larger bool
}

// originalOf gives the claim of which this one shall be a copy; nil if of none.
func originalOf(claim *v1.PersistentVolumeClaim, wished map[string]wish) (*original, error) {
	o, err := dataSource(claim)
	if err != nil {
		return nil, err
	}
	w, found := wished[zfsproperty.CloneFrom]
	switch {
	case !found:
	case o != nil && o.name != w.value:
		return nil, fmt.Errorf("%w: %s and annotation %s name different claims", volume.ErrInvalid, o.how, w.annotation)
	case o == nil:
		o = &original{how: "annotation " + w.annotation, name: w.value}
	}
	if _, restored := claim.Annotations[AnnotationRestoreFrom]; o != nil && restored {
		return nil, fmt.Errorf("%w: %s and annotation %s: a volume is either a copy or restored", volume.ErrInvalid, o.how, AnnotationRestoreFrom)
	}
	if o != nil && (o.name == "" || o.name == claim.Name) {
		return nil, fmt.Errorf("%w: %s: %q is not another claim", volume.ErrInvalid, o.how, o.name)
	}
	return o, nil
}

// dataSource is the claim that is this one's data source; nil if it has none. See
// https://kubernetes.io/docs/concepts/storage/volume-pvc-datasource/
func dataSource(claim *v1.PersistentVolumeClaim) (*original, error) {
	const kind = "PersistentVolumeClaim"
	var found *original
	if s := claim.Spec.DataSource; s != nil {
		if s.Kind != kind || s.APIGroup != nil && *s.APIGroup != "" {
			return nil, cannotCopy("dataSource", s.Kind, s.Name)
		}
		found = &original{"dataSource", s.Name, true}
	}
	if s := claim.Spec.DataSourceRef; s != nil {
		if s.Kind != kind || s.APIGroup != nil && *s.APIGroup != "" || s.Namespace != nil && *s.Namespace != "" && *s.Namespace != claim.Namespace {
			return nil, cannotCopy("dataSourceRef", s.Kind, s.Name)
		}
		found = &original{"dataSourceRef", s.Name, true}
	}
	return found, nil
}

func cannotCopy(field, kind, name string) error {
	return fmt.Errorf("%w: %s %s %q cannot be copied, only a PersistentVolumeClaim of the same namespace; an empty volume in its place would be wrong",
		volume.ErrUnsupported, field, kind, name)
}

// source is a volume that is to be copied.
type source struct {
	pool     *Pool
	name     volume.Name
	capacity int64
}

// sourceVolume gives the volume of a claim that is to be copied. Everything is read from
// the API server and not from our cache. The Manager looks once more at whose the volume is.
func (p *provisioner) sourceVolume(ctx context.Context, claim *v1.PersistentVolumeClaim, o original) (source, error) {
	refuse := func(kind error, format string, args ...any) (source, error) {
		return source{}, fmt.Errorf("%w: %s: claim %.253q of namespace %s %w", kind, o.how, o.name, claim.Namespace, fmt.Errorf(format, args...))
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
		return refuse(volume.ErrInvalid, "has a volume that is in no pool of this Berth, so that it cannot be cloned")
	}
	name, err := p.volumeOf(pv)
	if err != nil {
		return refuse(volume.ErrForeign, "cannot be copied: %w", err)
	}
	capacity, err := sizeOf(pv.Spec.Capacity[v1.ResourceStorage])
	if err != nil {
		return refuse(volume.ErrInvalid, "cannot be copied: the capacity of PersistentVolume %s: %w", pv.Name, err)
	}
	return source{pool, name, capacity}, nil
}

// copies has the volume of s be a copy of what o says, in the one of pools that has that.
func (p *provisioner) copies(ctx context.Context, claim *v1.PersistentVolumeClaim, o original, name volume.Name, pools []*Pool) (*Pool, volume.Name, error) {
	// What was begun is finished, also if its original has been deleted since.
	for _, pool := range pools {
		v, err := pool.Volumes.Get(ctx, name)
		switch {
		case err == nil && v.ClonedFrom != volume.Name{}:
			return pool, v.ClonedFrom, nil
		case err != nil && !errors.Is(err, volume.ErrNotFound):
			return nil, volume.Name{}, err
		}
	}
	from, err := p.sourceVolume(ctx, claim, o)
	if err != nil {
		return nil, volume.Name{}, err
	}
	size, err := sizeOf(claim.Spec.Resources.Requests[v1.ResourceStorage])
	switch {
	case err != nil:
		return nil, volume.Name{}, err
	case !slices.Contains(pools, from.pool):
		return nil, volume.Name{}, fmt.Errorf("%w: %s: claim %q has its volume in pool %s, and this claim's class makes volumes in %v: only in the same pool it can be cloned",
			volume.ErrInvalid, o.how, o.name, from.pool.Volumes.Pool(), namesOf(pools))
	case o.larger && size < from.capacity:
		return nil, volume.Name{}, fmt.Errorf("%w: %s: claim %q has %d bytes, and this one asks for %d: a copy cannot be smaller",
			volume.ErrInvalid, o.how, o.name, from.capacity, size)
	}
	return from.pool, from.name, nil
}
