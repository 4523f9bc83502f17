package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-storage/berth/internal/adopt"
	"github.com/berth-storage/berth/internal/volume"
)

// What nfs-provisioner writes on PersistentVolumes.
const (
	annProvisionerID = "Provisioner_Id"
	annExportID      = "Export_Id"
	annExportBlock   = "EXPORT_block"
	// The provisioning library's: the provisioner's name.
	annProvisionedBy = "pv.kubernetes.io/provisioned-by"
)

// Adoptable gives the PersistentVolumes of a provisioner's name that no Berth made, and
// all others.
func (c Client) Adoptable(ctx context.Context, provisioner string) (adoptable, others []adopt.PV, err error) {
	return c.AdoptableBy(ctx, annProvisionedBy, provisioner)
}

// AdoptableBy is Adoptable for a program whose PersistentVolumes have an annotation of its own.
func (c Client) AdoptableBy(ctx context.Context, annotation, value string) (adoptable, others []adopt.PV, err error) {
	list, err := c.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("listing PersistentVolumes: %w", err)
	}
	for i := range list.Items {
		pv := &list.Items[i]
		if pv.Annotations[annotation] == value && pv.Annotations[annInstance] == "" {
			adoptable = append(adoptable, adoptablePV(pv))
		} else {
			others = append(others, adoptablePV(pv))
		}
	}
	return adoptable, others, nil
}

func adoptablePV(pv *v1.PersistentVolume) adopt.PV {
	a := adopt.PV{
		Name: pv.Name, Created: pv.CreationTimestamp.Time, Reclaim: volume.ReclaimRetain, Class: pv.Spec.StorageClassName,
		Identity: pv.Annotations[annProvisionerID], ExportID: pv.Annotations[annExportID], ExportBlock: pv.Annotations[annExportBlock],
		NodePath: nodePath(pv), Node: nodeOf(pv), Annotations: pv.Annotations,
	}
	if class := pv.Annotations[v1.BetaStorageClassAnnotation]; class != "" { // which goes before the field
		a.Class = class
	}
	if pv.Spec.NFS != nil {
		a.Server, a.Path = pv.Spec.NFS.Server, pv.Spec.NFS.Path
	}
	if size, err := sizeOf(pv.Spec.Capacity[v1.ResourceStorage]); err == nil {
		a.Size = size
	}
	if c := pv.Spec.ClaimRef; c != nil {
		a.Claim = volume.Claim{Namespace: c.Namespace, Name: c.Name, UID: string(c.UID)}
	}
	if pv.Spec.PersistentVolumeReclaimPolicy == v1.PersistentVolumeReclaimDelete {
		a.Reclaim = volume.ReclaimDelete
	}
	return a
}

// TakeCharge has the provisioner of a name delete those of pvs that reclaim names when their
// claims are gone, or keep them, as it says: of a program that did without Kubernetes' own
// policy, and without the annotation that tells whose they are. Those that have it are left as they are.
func (c Client) TakeCharge(ctx context.Context, provisioner string, pvs []adopt.PV, reclaim map[string]volume.Reclaim) error {
	for _, pv := range pvs {
		how, ours := reclaim[pv.Name]
		if !ours || pv.Annotations[annProvisionedBy] == provisioner {
			continue
		}
		policy := v1.PersistentVolumeReclaimRetain
		if how == volume.ReclaimDelete {
			policy = v1.PersistentVolumeReclaimDelete
		}
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"annotations": map[string]string{annProvisionedBy: provisioner}},
			"spec":     map[string]any{"persistentVolumeReclaimPolicy": policy},
		})
		if err != nil {
			return err
		}
		_, err = c.CoreV1().PersistentVolumes().Patch(ctx, pv.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("saying on PersistentVolume %s that provisioner %s reclaims it: %w", pv.Name, provisioner, err)
		}
	}
	return nil
}

// nodePath is where on its node a PersistentVolume lies; "" if it is not there.
func nodePath(pv *v1.PersistentVolume) string {
	switch s := pv.Spec.PersistentVolumeSource; {
	case s.HostPath != nil:
		return s.HostPath.Path
	case s.Local != nil:
		return s.Local.Path
	}
	return ""
}

// nodeOf is the one node on which a PersistentVolume can be used; "" if there are others too.
func nodeOf(pv *v1.PersistentVolume) string {
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil || len(pv.Spec.NodeAffinity.Required.NodeSelectorTerms) != 1 {
		return ""
	}
	for _, e := range pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions {
		if e.Key == v1.LabelHostname && e.Operator == v1.NodeSelectorOpIn && len(e.Values) == 1 {
			return e.Values[0]
		}
	}
	return ""
}

// AddPolicies adds to pvs, of one provisioner's name, what their classes say now of data
// whose claim is deleted.
func (c Client) AddPolicies(ctx context.Context, provisioner string, pvs []adopt.PV) error {
	list, err := c.StorageV1().StorageClasses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing StorageClasses: %w", err)
	}
	classes := map[string]*storagev1.StorageClass{}
	for i := range list.Items {
		classes[list.Items[i].Name] = &list.Items[i]
	}
	for i := range pvs {
		pv := &pvs[i]
		switch class := classes[pv.Class]; {
		case pv.Class == "":
			pv.OnDeleteErr = errors.New("it has no StorageClass")
		case class == nil:
			pv.OnDeleteErr = fmt.Errorf("its StorageClass %s is gone", pv.Class)
		case class.Provisioner != provisioner:
			pv.OnDeleteErr = fmt.Errorf("its StorageClass %s is now of provisioner %s", pv.Class, class.Provisioner)
		default:
			if pv.OnDelete, err = oldPolicy(class.Parameters); err != nil {
				pv.OnDeleteErr = fmt.Errorf("its StorageClass %s: %w", pv.Class, err)
			}
		}
	}
	return nil
}

// oldPolicy reads a class's parameters as nfs-subdir-external-provisioner does, but for
// an onDelete that it does not know, which it passes over.
func oldPolicy(parameters map[string]string) (volume.OnDelete, error) {
	if value := parameters["onDelete"]; value != "" {
		return volume.ParseOnDelete(value)
	}
	value, found := parameters["archiveOnDelete"]
	if !found {
		return volume.OnDeleteArchive, nil
	}
	archive, err := strconv.ParseBool(value)
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: parameter archiveOnDelete: %q is neither true nor false", volume.ErrInvalid, value)
	case archive:
		return volume.OnDeleteArchive, nil
	}
	return volume.OnDeleteDelete, nil
}

// ClusterID is the uid of the namespace kube-system, which is as old as its cluster and
// never made again; "" if Berth may not read it.
func (c Client) ClusterID(ctx context.Context) (string, error) {
	ns, err := c.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	switch {
	case err == nil:
		return string(ns.UID), nil
	case apierrors.IsForbidden(err):
		return "", nil
	default:
		return "", fmt.Errorf("reading the namespace %s: %w", metav1.NamespaceSystem, err)
	}
}

// PersistentVolumes gives the names of all that there are.
func (c Client) PersistentVolumes(ctx context.Context) (map[string]bool, error) {
	list, err := c.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing PersistentVolumes: %w", err)
	}
	names := make(map[string]bool, len(list.Items))
	for i := range list.Items {
		names[list.Items[i].Name] = true
	}
	return names, nil
}

// adopted gives the pool and the volume that a PersistentVolume of another program
// stands for, if Berth has adopted it. It goes by the name of the PersistentVolume,
// which nobody can edit, and by the path that pods mount.
func (p *provisioner) adopted(pv *v1.PersistentVolume) (*Pool, volume.Volume) {
	name, err := volume.ParseName(pv.Name)
	at := nodePath(pv)
	if pv.Spec.NFS != nil {
		at = pv.Spec.NFS.Path
	}
	if err != nil || pv.Annotations[annInstance] != "" || at == "" {
		return nil, volume.Volume{}
	}
	for _, pool := range p.pools {
		if v, ok := pool.Volumes.Adopted(name); ok && v.Export.Path == at {
			return pool, v
		}
	}
	return nil, volume.Volume{}
}

// checkAdopted refuses to act for a PersistentVolume that has another claim than when
// its volume was adopted: an administrator gave it to somebody else, or made it again.
func (p *provisioner) checkAdopted(pool *Pool, v volume.Volume, pv *v1.PersistentVolume) error {
	if c := pv.Spec.ClaimRef; c == nil || string(c.UID) == v.Claim.UID {
		return nil
	}
	return fmt.Errorf("%w: PersistentVolume %s is of another claim than %s, whose volume was adopted: nothing is deleted until its annotations say that it is that volume's: "+
		"kubectl annotate pv %s %s=%s %s=%s", volume.ErrForeign, pv.Name, v.Claim, pv.Name, annInstance, pool.Instance, annVolume, handle{pool.Volumes.Pool(), v.Name})
}
