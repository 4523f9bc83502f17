package kube

import (
	"context"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"github.com/berth-storage/berth/internal/volume"
)

// access is how pods get at a volume.
type access struct {
	kind   VolumeType // one of VolumeNFS, VolumeHostPath and VolumeLocal
	server string     // of VolumeNFS
	node   string     // of the others
}

// accessOf says how pods shall get at the volume of a claim. The server is not known yet.
func (p parameters) accessOf(o controller.ProvisionOptions, ownNode string) (access, error) {
	a := access{kind: p.volumeType, node: p.node}
	if a.node == "" {
		a.node = p.hostname
	}
	if a.node == "" {
		a.node = ownNode
	}
	switch {
	case p.pool.ZFS == nil:
		a.kind = VolumeNFS
	case p.volumeType == VolumeAuto:
		a.kind = VolumeNFS
		if a.node != "" && onlyThere(o, a.node) {
			a.kind = VolumeHostPath
		}
	}
	if a.kind != VolumeNFS && !nodeName.MatchString(a.node) {
		return access{}, fmt.Errorf("%w: a PersistentVolume of type %s needs the node that has pool %s, and %q is none: say it by the StorageClass parameter \"node\" or the pool's zfs.node",
			volume.ErrInvalid, a.kind, p.pool.Volumes.Pool(), a.node)
	}
	return a, nil
}

// onlyThere says whether the pods of a claim will be on that node: its first one is, or, if the
// claim does not wait for pods, it lets only one node mount the volume.
func onlyThere(o controller.ProvisionOptions, node string) bool {
	if mode := o.StorageClass.VolumeBindingMode; mode != nil && *mode == storagev1.VolumeBindingWaitForFirstConsumer {
		return o.SelectedNodeName == node
	}
	return !slices.ContainsFunc(o.PVC.Spec.AccessModes, func(m v1.PersistentVolumeAccessMode) bool {
		return m == v1.ReadOnlyMany || m == v1.ReadWriteMany
	})
}

// checkNode refuses to make a volume that the claim's pod, which has a node already, could
// not use there. The scheduler is asked for another node, unless an instance of Berth
// is on that one: then it makes the volume.
func (p *provisioner) checkNode(ctx context.Context, r request, a access) (controller.ProvisioningState, error) {
	chosen := r.SelectedNodeName
	if a.kind == VolumeNFS || chosen == "" || chosen == a.node {
		return "", nil
	}
	// A node's label need not be its name. Roles need not let Berth read nodes.
	if node, err := p.client.CoreV1().Nodes().Get(ctx, chosen, metav1.GetOptions{}); err == nil && node.Labels[v1.LabelHostname] == a.node {
		return "", nil
	}
	for _, other := range p.taker.instances.others() {
		if other.node == chosen && p.taker.giveTo(ctx, r.PVC, other.id) {
			return controller.ProvisioningNoChange, fmt.Errorf("%w: the claim's pod is to run on node %s, whose instance of Berth makes the volume", volume.ErrBusy, chosen)
		}
	}
	return controller.ProvisioningReschedule, fmt.Errorf("%w: the claim's pod is to run on node %s, and only pods on node %s can use a volume of type %s: "+
		"have the StorageClass say so by allowedTopologies", volume.ErrInvalid, chosen, a.node, a.kind)
}

// source is what a PersistentVolume of v says of that.
func (a access) source(v volume.Volume) (v1.PersistentVolumeSource, *v1.VolumeNodeAffinity) {
	switch a.kind {
	case VolumeHostPath:
		return v1.PersistentVolumeSource{HostPath: &v1.HostPathVolumeSource{Path: v.Dir, Type: new(v1.HostPathDirectory)}}, onNode(a.node)
	case VolumeLocal:
		return v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: v.Dir}}, onNode(a.node)
	default:
		return v1.PersistentVolumeSource{NFS: &v1.NFSVolumeSource{Server: a.server, Path: v.Export.Path}}, nil
	}
}

func onNode(name string) *v1.VolumeNodeAffinity {
	return &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
		MatchExpressions: []v1.NodeSelectorRequirement{{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{name}}},
	}}}}
}

// modes are the access modes of a PersistentVolume: the claim's, and, where the pool says
// so, all that it is good for. A claim that wants to be the only one is.
func (a access) modes(asked []v1.PersistentVolumeAccessMode, widen bool) []v1.PersistentVolumeAccessMode {
	if !widen || slices.Contains(asked, v1.ReadWriteOncePod) {
		return asked
	}
	all := []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce, v1.ReadOnlyMany, v1.ReadWriteMany}
	if a.kind != VolumeNFS {
		all = all[:1]
	}
	for _, mode := range asked { // without which the claim could not be bound
		if !slices.Contains(all, mode) {
			all = append(all, mode)
		}
	}
	return all
}
