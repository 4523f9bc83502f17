package kube

import (
	"context"
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/internal/volume"
)

// sourceSnapshot gives the snapshot of a VolumeSnapshot that a claim is to be restored from.
// Everything is read from the API server and not from our cache. The Manager looks once
// more at whose the snapshot is.
func (p *provisioner) sourceSnapshot(ctx context.Context, claim *v1.PersistentVolumeClaim, o original) (source, error) {
	refuse := func(kind error, format string, args ...any) (source, error) {
		return source{}, fmt.Errorf("%w: %s: %s of namespace %s %w", kind, o.how, o, claim.Namespace, fmt.Errorf(format, args...))
	}
	object, err := p.objects.Resource(snapshotResource(snapshotsPlural)).Namespace(claim.Namespace).Get(ctx, o.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return refuse(volume.ErrInvalid, "does not exist")
	}
	if err != nil {
		return refuse(volume.ErrUnknown, "cannot be read: %w", err)
	}
	snapshot, err := parseObject[volumeSnapshot](object)
	switch {
	case err != nil:
		return refuse(volume.ErrInvalid, "cannot be understood: %w", err)
	case snapshot.DeletionTimestamp != nil:
		return refuse(volume.ErrInvalid, "is being deleted")
	case !snapshot.Status.Ready || snapshot.Status.Content == "":
		return refuse(volume.ErrBusy, "is not ready to use yet")
	}
	object, err = p.objects.Resource(snapshotResource(contentsPlural)).Get(ctx, snapshot.Status.Content, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return refuse(volume.ErrInvalid, "has lost its VolumeSnapshotContent %s", snapshot.Status.Content)
	}
	if err != nil {
		return refuse(volume.ErrUnknown, "cannot be restored: reading VolumeSnapshotContent %s: %w", snapshot.Status.Content, err)
	}
	content, err := parseObject[snapshotContent](object)
	switch {
	case err != nil:
		return refuse(volume.ErrInvalid, "cannot be restored: %w", err)
	case content.Spec.Driver != p.name:
		return refuse(volume.ErrInvalid, "is of driver %s, and the claim's class of provisioner %s", content.Spec.Driver, p.name)
	case content.Spec.Snapshot.UID != snapshot.UID: // who may write a VolumeSnapshot could name any content
		return refuse(volume.ErrForeign, "is not the one that VolumeSnapshotContent %s is bound to", content.Name)
	case content.DeletionTimestamp != nil || !content.Status.Ready || content.Status.Snapshot == nil:
		return refuse(volume.ErrBusy, "is not ready to use: its VolumeSnapshotContent %s is not", content.Name)
	}
	pool := p.poolWith(content)
	if pool == nil {
		if p.taker.giveTo(ctx, claim, content.Annotations[annInstance]) {
			return refuse(volume.ErrBusy, "is in another instance of Berth, which makes the volume")
		}
		return refuse(volume.ErrInvalid, "is in no pool of this Berth, so that it cannot be restored: use a class of its own pool")
	}
	h, err := parseHandle(*content.Status.Snapshot)
	if err != nil {
		return refuse(volume.ErrInvalid, "cannot be restored: VolumeSnapshotContent %s: %w", content.Name, err)
	}
	v, err := pool.Volumes.Get(ctx, h.name)
	switch {
	case errors.Is(err, volume.ErrNotFound):
		return refuse(volume.ErrInvalid, "has lost its snapshot %s in pool %s", h.name, pool.Volumes.Pool())
	case err != nil:
		return refuse(volume.ErrUnknown, "cannot be restored: %w", err)
	case v.SnapshotOf == volume.Name{}:
		return refuse(volume.ErrForeign, "is none: %s in pool %s is a volume", h.name, pool.Volumes.Pool())
	}
	return source{pool, volume.Source{Volume: v.SnapshotOf, Snapshot: v.Name}, v.Size}, nil
}
