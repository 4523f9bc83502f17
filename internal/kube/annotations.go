package kube

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/berth-storage/berth/internal/suggest"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/zfsproperty"
)

// The prefixes of annotations by which a claim says what its volume shall be like: ours,
// and openshift-pvmanager's.
const (
	prefixOwn       = "berth.storage/"
	prefixPVManager = "pvmanager.wimsey.us/"
)

// otherAnnotations are those with one of the prefixes that ask for nothing here: our own,
// and what pvmanager writes itself.
var otherAnnotations = []string{
	annInstance, AnnotationRestoreFrom,
	prefixPVManager + "volume-uuid", prefixPVManager + "managed-provider", prefixPVManager + "nfs-host", prefixPVManager + "nfs-path",
	prefixPVManager + "nfs-export", prefixPVManager + "pvc-namespace", prefixPVManager + "pvc-name", prefixPVManager + "clone-snapshot",
	prefixPVManager + "clone-ref", prefixPVManager + "released-at", prefixPVManager + "freenas-nfs-id",
}

// onlyValues are the annotations of pvmanager that have one value which can be had.
var onlyValues = map[string]string{
	prefixPVManager + "volume-mode":    string(v1.PersistentVolumeFilesystem),
	prefixPVManager + "mount-protocol": "nfs",
}

// wish is what a claim's annotation asks for.
type wish struct {
	annotation string // as it stands on the claim
	value      string
}

// wishes are what a claim asks for by annotations, by their names without prefix.
// Anything that is not known is an error: what is passed over gives a volume that is not
// as its owner believes.
func wishes(claim *v1.PersistentVolumeClaim) (map[string]wish, error) {
	known, all := zfsproperty.Annotations(), map[string]wish{}
	for _, annotation := range slices.Sorted(maps.Keys(claim.Annotations)) {
		value := claim.Annotations[annotation]
		name, found := strings.CutPrefix(annotation, prefixOwn)
		if !found {
			name, found = strings.CutPrefix(annotation, prefixPVManager)
		}
		only, fixed := onlyValues[annotation]
		switch {
		case !found || slices.Contains(otherAnnotations, annotation) || isOfSchedule(annotation):
		case fixed && !strings.EqualFold(value, only):
			return nil, fmt.Errorf("%w: annotation %s: %.64q cannot be had, only %s", volume.ErrUnsupported, annotation, value, only)
		case fixed:
		case !slices.Contains(known, name):
			return nil, fmt.Errorf("%w: annotation %.200s is unknown%s", volume.ErrInvalid, annotation, suggest.Nearest(name, slices.Concat(known, scheduleAnnotations)))
		case all[name].annotation != "" && all[name].value != value:
			return nil, fmt.Errorf("%w: annotations %s and %s say different things", volume.ErrInvalid, all[name].annotation, annotation)
		default:
			all[name] = wish{annotation, value}
		}
	}
	return all, nil
}

// apply has p do what a claim of its pool wishes.
func (p *parameters) apply(all map[string]wish) error {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		w := all[name]
		var err error
		switch {
		case p.pool.ZFS == nil && name == zfsproperty.CloneFrom: // says why it cannot, if so
		case p.pool.ZFS == nil:
			return fmt.Errorf("%w: annotation %s: the volumes of pool %s are not ZFS datasets; remove it", volume.ErrUnsupported, w.annotation, p.pool.Volumes.Pool())
		case !slices.Contains(p.pool.ZFS.ClaimAnnotations, name):
			return fmt.Errorf("%w: annotation %s: pool %s does not let claims use it; what they may use: %s", volume.ErrInvalid,
				w.annotation, p.pool.Volumes.Pool(), strings.Join(p.pool.ZFS.ClaimAnnotations, ", "))
		case name == zfsproperty.ReclaimPolicy:
			p.reclaim, err = parseReclaimPolicy(w.value)
		default:
			err = p.setProperty(name, w.value)
		}
		if err != nil {
			return fmt.Errorf("%w: annotation %s: %.100q is not %w", volume.ErrInvalid, w.annotation, w.value, err)
		}
	}
	return nil
}

// parseReclaimPolicy reads what a claim may ask for.
func parseReclaimPolicy(text string) (v1.PersistentVolumeReclaimPolicy, error) {
	for _, policy := range []v1.PersistentVolumeReclaimPolicy{v1.PersistentVolumeReclaimDelete, v1.PersistentVolumeReclaimRetain} {
		if strings.EqualFold(text, string(policy)) {
			return policy, nil
		}
	}
	if strings.EqualFold(text, string(v1.PersistentVolumeReclaimRecycle)) {
		return "", fmt.Errorf("possible: a volume is never emptied for the next claim. Say %s, which is as quick, or %s",
			v1.PersistentVolumeReclaimDelete, v1.PersistentVolumeReclaimRetain)
	}
	return "", fmt.Errorf("%s or %s", v1.PersistentVolumeReclaimDelete, v1.PersistentVolumeReclaimRetain)
}

// reclaimPolicy is that of a PersistentVolume: what the claim's annotation says, else the
// pool, else the class, whose own is Delete if it does not say; see
// https://kubernetes.io/docs/concepts/storage/storage-classes/#reclaim-policy
func reclaimPolicy(class *storagev1.StorageClass, p parameters) v1.PersistentVolumeReclaimPolicy {
	switch {
	case p.reclaim != "":
		return p.reclaim
	case p.pool.ReclaimPolicy != "":
		return v1.PersistentVolumeReclaimPolicy(p.pool.ReclaimPolicy)
	case class.ReclaimPolicy == nil:
		return v1.PersistentVolumeReclaimDelete
	}
	return *class.ReclaimPolicy
}
