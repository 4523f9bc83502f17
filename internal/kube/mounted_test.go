package kube

import (
	"errors"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"github.com/berth-storage/berth/internal/volume"
)

// listerOf is a cache with these PersistentVolumes.
func listerOf(pvs ...*v1.PersistentVolume) corelisters.PersistentVolumeLister {
	store := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	for _, pv := range pvs {
		if err := store.Add(pv); err != nil {
			panic(err)
		}
	}
	return corelisters.NewPersistentVolumeLister(store)
}

// mountedPV is a PersistentVolume that Berth did not make.
func mountedPV(server, path, namespace string) *v1.PersistentVolume {
	pv := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "other"}, Status: v1.PersistentVolumeStatus{Phase: v1.VolumeBound}}
	pv.Spec.NFS = &v1.NFSVolumeSource{Server: server, Path: path}
	if namespace != "" {
		pv.Spec.ClaimRef = &v1.ObjectReference{Namespace: namespace}
	}
	return pv
}

// A new volume gets nothing that a PersistentVolume in use mounts, though no record names it.
func TestDirectoriesThatOthersMount(t *testing.T) {
	const nas, team = "nas.example.com", "team"
	for what, c := range map[string]struct {
		pv      *v1.PersistentVolume
		refused bool
	}{
		"the same":                    {mountedPV(nas, "/vol/team/app/data", team), true},
		"the same, of nobody":         {mountedPV(nas, "/vol/team/app/data", ""), true},
		"the same, spelt otherwise":   {mountedPV("NAS.example.com", "/vol/x/../team/app//data/", team), true},
		"in it":                       {mountedPV(nas, "/vol/team/app/data/deep/er", team), true},
		"around it":                   {mountedPV(nas, "/vol/team", "other"), true},
		"around it, of nobody":        {mountedPV(nas, "/vol/team", ""), true},
		"around it, of its namespace": {mountedPV(nas, "/vol/team", team), false},
		"the whole share":             {mountedPV(nas, "/vol", "other"), false},
		"more than the share":         {mountedPV(nas, "/", "other"), false},
		"beside it":                   {mountedPV(nas, "/vol/team/app/data-2", team), false},
		"another server":              {mountedPV("other", "/vol/team/app/data", team), false},
		"another share":               {mountedPV(nas, "/volume/team/app/data", team), false},
		"not by NFS":                  {&v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "local"}}, false},
		"released": {func() *v1.PersistentVolume {
			pv := mountedPV(nas, "/vol/team/app/data", team)
			pv.Status.Phase = v1.VolumeReleased
			return pv
		}(), false},
		"its own, and not known as such": {func() *v1.PersistentVolume {
			pv := mountedPV(nas, "/vol/team/app/data", team)
			pv.Name = volumeName
			return pv
		}(), false},
		"of this pool": {func() *v1.PersistentVolume {
			pv := mountedPV(nas, "/vol/team/app/data", team)
			pv.Annotations = map[string]string{annInstance: "nas-instance"}
			return pv
		}(), false},
	} {
		t.Run(what, func(t *testing.T) {
			pool := newSharePool(t, "team/app/data")
			pool.Share.Path = "/vol"
			class, claim := newClass(), newClaim()
			p := newProvisioner(newClient(claim), pool)
			p.volumes = listerOf(c.pv)
			_, state, err := p.Provision(t.Context(), controller.ProvisionOptions{StorageClass: class, PVName: volumeName, PVC: claim})
			if refused := errors.Is(err, volume.ErrForeign); refused != c.refused || !refused && err != nil || refused && state != controller.ProvisioningFinished {
				t.Errorf("got error %v, state %s; want it refused: %t", err, state, c.refused)
			}
		})
	}
}
