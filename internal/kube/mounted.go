package kube

import (
	"fmt"
	"path"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-storage/berth/internal/volume"
)

// checkMounted refuses to make a volume on a share where a PersistentVolume in use lies
// that no record tells of: one that was left alone when volumes were adopted, or an
// administrator's own. Its data would be the new claim's, and would go with that.
func (p *provisioner) checkMounted(pool *Pool, s volume.Spec) error {
	if pool.Share == nil {
		return nil
	}
	all, err := p.volumes.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("PersistentVolumes: %w", err)
	}
	at := path.Join(pool.Share.Path, s.Path.String())
	for _, pv := range all {
		if pv.Spec.NFS == nil || !strings.EqualFold(pv.Spec.NFS.Server, pool.Share.Server) || pv.Name == s.Name.String() {
			continue
		}
		theirs := path.Clean(pv.Spec.NFS.Path)
		within := at == theirs || strings.HasPrefix(theirs, at+"/")
		// A claim may lie in what another one of its namespace has, and whoever mounts the
		// whole share has a view of it.
		around := strings.HasPrefix(at, theirs+"/") && len(theirs) > len(pool.Share.Path) &&
			(pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.Namespace != s.Claim.Namespace)
		if !within && !around || !inUse(pv) || p.poolOf(pv) != nil { // records are compared by the Manager
			continue
		}
		return fmt.Errorf("%w: volume %s: its path %s overlaps %s, which PersistentVolume %s mounts and no volume of Berth's is: "+
			"choose another path, or adopt or delete that PersistentVolume", volume.ErrForeign, s.Name, at, theirs, pv.Name)
	}
	return nil
}

// inUse says whether a PersistentVolume has a claim, or may get one.
func inUse(pv *v1.PersistentVolume) bool {
	return pv.Status.Phase != v1.VolumeReleased && pv.Status.Phase != v1.VolumeFailed
}
