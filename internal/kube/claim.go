package kube

import (
	"context"
	"fmt"
	"math"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/berth-storage/berth/internal/volume"
)

// specOf is the volume called name that a claim asks for. Whatever cannot be given is
// refused here: a request that is passed over gives an empty or a wrong volume.
func specOf(claim *v1.PersistentVolumeClaim, class *storagev1.StorageClass, cluster string, name volume.Name, p parameters) (volume.Spec, error) {
	if err := refuseUnsupported(claim); err != nil {
		return volume.Spec{}, err
	}
	size, err := sizeOf(claim.Spec.Resources.Requests[v1.ResourceStorage])
	if err != nil {
		return volume.Spec{}, err
	}
	path, err := p.path(claim, name)
	if err != nil {
		return volume.Spec{}, err
	}
	from, err := sourceOf(claim)
	if err != nil {
		return volume.Spec{}, err
	}
	s := volume.Spec{
		Name: name, Path: path, Size: size, Cluster: cluster, Inodes: p.inodes, Owner: p.owner, GIDs: p.gids,
		Claim:   volume.Claim{Namespace: claim.Namespace, Name: claim.Name, UID: string(claim.UID)},
		Reclaim: volume.ReclaimDelete, OnDelete: p.onDelete, Existing: p.existing, From: from, Settings: p.settings,
	}
	s.Export.Squash = p.squash
	if reclaimPolicy(class, p) == v1.PersistentVolumeReclaimRetain {
		s.Reclaim = volume.ReclaimRetain
	}
	return s, nil
}

// sourceOf is what the claim's annotation says that its volume shall be restored from;
// nil if it says nothing.
func sourceOf(claim *v1.PersistentVolumeClaim) (*volume.Source, error) {
	text, found := claim.Annotations[AnnotationRestoreFrom]
	if !found {
		return nil, nil
	}
	name, err := volume.ParseName(text)
	if err != nil {
		return nil, fmt.Errorf("the annotation %s: %w", AnnotationRestoreFrom, err)
	}
	return &volume.Source{Archive: name}, nil
}

func refuseUnsupported(claim *v1.PersistentVolumeClaim) error {
	switch {
	case claim.Spec.Selector != nil:
		return fmt.Errorf("%w: claim.spec.selector is not supported: a volume that is made for a claim has no labels to select by; remove it", volume.ErrInvalid)
	case claim.Spec.VolumeMode != nil && *claim.Spec.VolumeMode == v1.PersistentVolumeBlock:
		return fmt.Errorf("%w: volumeMode Block: an NFS volume is a file system; use volumeMode Filesystem", volume.ErrUnsupported)
	case claim.Spec.VolumeAttributesClassName != nil && *claim.Spec.VolumeAttributesClassName != "":
		return fmt.Errorf("%w: volumeAttributesClassName %q: Berth's volumes have no attributes to change; remove it", volume.ErrUnsupported,
			*claim.Spec.VolumeAttributesClassName)
	}
	return nil
}

// sizeOf gives a request in bytes, rounded up.
func sizeOf(request resource.Quantity) (int64, error) {
	if request.Sign() <= 0 {
		return 0, fmt.Errorf("%w: a request of %s bytes is not above 0", volume.ErrInvalid, request.String())
	}
	if request.Cmp(*resource.NewQuantity(math.MaxInt64, resource.BinarySI)) > 0 {
		return 0, fmt.Errorf("%w: a request of %s is more than 2^63-1 bytes", volume.ErrInvalid, request.String())
	}
	return request.Value(), nil
}

// claimWantsNow is claimWants for a claim that most likely does. That is answered
// from the API server's memory, which costs it a fraction of a read of etcd; only a
// "no" has to be certain, since that memory may also be older than our cache.
func claimWantsNow(ctx context.Context, client kubernetes.Interface, c volume.Claim, volumeName string, mine ownership) (bool, error) {
	if wants, err := claimWants(ctx, client, c, volumeName, mine, metav1.GetOptions{ResourceVersion: "0"}); wants && err == nil {
		return true, nil
	}
	return claimWants(ctx, client, c, volumeName, mine, metav1.GetOptions{})
}

// ownership says whether a claim is this instance's to serve.
type ownership func(*v1.PersistentVolumeClaim) bool

// claimWants says whether the claim, read from the API server and not from our
// cache, still wants the volume that was or would be made for it by us.
func claimWants(ctx context.Context, client kubernetes.Interface, c volume.Claim, volumeName string, mine ownership, how metav1.GetOptions) (bool, error) {
	claim, err := client.CoreV1().PersistentVolumeClaims(c.Namespace).Get(ctx, c.Name, how)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading claim %s: %w", c, err)
	}
	bound := claim.Spec.VolumeName
	return string(claim.UID) == c.UID && claim.DeletionTimestamp == nil && (bound == "" || bound == volumeName) && mine(claim), nil
}
