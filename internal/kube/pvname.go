package kube

import (
	v1 "k8s.io/api/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"

	"github.com/berth-storage/berth/internal/nameformat"
)

// namer names PersistentVolumes before they are made; the library asks it.
type namer struct {
	classes storagelisters.StorageClassLister
	pools   []*Pool
}

// name is always the same for a claim, as long as its class and the pools are. A claim
// that cannot have the name that its pool wants has one that Provision refuses.
func (n namer) name(claim *v1.PersistentVolumeClaim) string {
	usual := "pvc-" + string(claim.UID)
	class, err := n.classes.Get(classOf(claim))
	if err != nil {
		return usual
	}
	pools, err := poolsFor(class, n.pools)
	if err != nil || pools[0].PVNames == nil {
		return usual
	}
	name, err := pools[0].PVNames.Name(partsOf(class.Name, claim))
	if err != nil {
		return usual
	}
	return name.String()
}

// partsOf are what names of PersistentVolumes can be made of.
func partsOf(class string, claim *v1.PersistentVolumeClaim) nameformat.Claim {
	return nameformat.Claim{Class: class, Namespace: claim.Namespace, Name: claim.Name, UID: string(claim.UID)}
}
