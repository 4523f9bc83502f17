package kube

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/pathpattern"
	"github.com/berth-storage/berth/internal/suggest"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/zfsproperty"
)

// parameters are a StorageClass's, with the pool's defaults for what it leaves out.
type parameters struct {
	pool   *Pool
	owner  volume.Owner
	gids   volume.GIDRange // if not zero, in place of owner.GID
	squash export.Squash
	inodes int64 // 0: no limit
	// onDelete, existing and pattern say what becomes of a deleted claim's volume, of a
	// directory that is there already, and where on a share a volume lies.
	onDelete volume.OnDelete
	existing volume.Existing
	pattern  *pathpattern.Pattern // nil: the default path
	// mountOptions are those of the class's parameter, for classes that have none
	// of their own.
	mountOptions string
	// Of ZFS pools:
	settings   volume.Settings
	volumeType VolumeType
	node       string                           // on which volumes are used that are not mounted by NFS; may be ""
	server     string                           // of NFS; "": as Options say
	hostname   string                           // as the class says; ""
	reclaim    v1.PersistentVolumeReclaimPolicy // that the claim asks for; may be ""
}

// modeOfGroup is the mode of a volume whose class gives it a group and no mode:
// for the group. Kubelet looks at it when it unmounts, for which the x is.
const modeOfGroup = 0o2771

// classParameters are the names that a StorageClass may use. Case does not
// matter, as with the provisioners that Berth takes the place of.
func classParameters() []string {
	names := []string{
		"pool", "mode", "uid", "gid", "rootSquash", "inodes", "mountOptions", "onDelete", "archiveOnDelete", "existing", "pathPattern",
	}
	names = append(names, zfsParameters...)
	for _, property := range zfsproperty.All() {
		names = append(names, property.Name)
	}
	return append(names, scheduleParameters...)
}

// checkParameters gives the parameters of a class under the names that they have here.
// Anything that is not known is an error: a misspelt "rootSquash" must not give an open export.
func checkParameters(given map[string]string) (map[string]string, error) {
	known := classParameters()
	values := make(map[string]string, len(given))
	spelt := make(map[string]string, len(given))
	for _, key := range slices.Sorted(maps.Keys(given)) { // in order, so that the error is always the same
		i := slices.IndexFunc(known, func(name string) bool { return strings.EqualFold(name, key) })
		if i < 0 {
			return nil, fmt.Errorf("%w: unknown StorageClass parameter %q%s", volume.ErrInvalid, key, suggest.Nearest(key, known))
		}
		name := known[i]
		if other, twice := spelt[name]; twice {
			return nil, fmt.Errorf("%w: StorageClass parameters %q and %q are one and the same", volume.ErrInvalid, other, key)
		}
		values[name], spelt[name] = given[key], key
	}
	return values, nil
}

// parseParameters reads the parameters of a class for one of its pools.
func parseParameters(given map[string]string, pool *Pool) (parameters, error) {
	values, err := checkParameters(given)
	if err != nil {
		return parameters{}, err
	}
	p := parameters{pool: pool, owner: pool.Owner, squash: pool.Squash, onDelete: pool.OnDelete}
	if pool.Share != nil {
		p.existing, p.pattern = pool.Share.Existing, pool.Share.Pattern
	}
	if z := pool.ZFS; z != nil {
		p.volumeType, p.node, p.server, p.settings.KeepSnapshots = cmp.Or(z.Type, VolumeNFS), z.Node, z.Server, z.KeepSnapshots
	}
	_, decided := values["onDelete"]
	for _, key := range classParameters() {
		value, found := values[key]
		if !found || key == "archiveOnDelete" && decided { // so says the page of nfs-subdir-external-provisioner
			continue
		}
		if err := p.set(key, value); err != nil {
			return parameters{}, fmt.Errorf("%w: StorageClass parameter %s: %.200q is not %w", volume.ErrInvalid, key, value, err)
		}
	}
	if _, says := values["mode"]; !says && (p.gids != volume.GIDRange{} || values["gid"] != "" && p.owner.GID != 0) {
		p.owner.Mode = modeOfGroup
	}
	return p, p.checkType()
}

// set sets one parameter. Its error says what the value should have been.
func (p *parameters) set(key, value string) error {
	switch key {
	case "mode":
		mode, err := strconv.ParseUint(value, 8, 32)
		if err != nil || mode > 0o7777 {
			return fmt.Errorf("an octal mode like 0770")
		}
		p.owner.Mode = uint32(mode)
	case "gid":
		return p.setGroup(value)
	case "uid":
		id, err := strconv.ParseUint(value, 10, 32)
		// chown(2) takes the greatest number for "as it is".
		if err != nil || id == math.MaxUint32 {
			return fmt.Errorf("a number from 0 to %d", uint32(math.MaxUint32-1))
		}
		p.owner.UID = uint32(id)
	case "rootSquash":
		if p.pool.Share != nil {
			return fmt.Errorf("possible, because the server of pool %s's share decides that; remove it", p.pool.Volumes.Pool())
		}
		squash, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("true or false")
		}
		p.squash = export.SquashNone
		if squash {
			p.squash = export.SquashRoot
		}
	case "inodes":
		inodes, err := strconv.ParseInt(value, 10, 64)
		if err != nil || inodes <= 0 {
			return fmt.Errorf("a number of files and folders above 0")
		}
		p.inodes = inodes
	case "mountOptions":
		p.mountOptions = value
	case "pool": // it was chosen
	case "onDelete", "archiveOnDelete", "existing", "pathPattern":
		return p.setPolicy(key, value)
	case parameterSchedule, parameterKeep, parameterMaxAge, parameterClass: // kept to when the claim is bound
		return new(schedule).set(key, value)
	default:
		return p.setZFS(key, value)
	}
	return nil
}

// setPolicy sets one of the parameters that came with nfs-subdir-external-provisioner.
func (p *parameters) setPolicy(key, value string) (err error) {
	if p.pool.Share == nil && (key == "existing" || key == "pathPattern") {
		return fmt.Errorf("possible, because the volumes of pool %s are not on a share; remove it", p.pool.Volumes.Pool())
	}
	switch key {
	case "onDelete":
		if p.onDelete, err = volume.ParseOnDelete(value); err != nil || value == "" {
			return fmt.Errorf("%s, %s or %s", volume.OnDeleteDelete, volume.OnDeleteRetain, volume.OnDeleteArchive)
		}
	case "archiveOnDelete":
		archive, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("true or false")
		}
		p.onDelete = volume.OnDeleteDelete
		if archive {
			p.onDelete = volume.OnDeleteArchive
		}
	case "existing":
		if p.existing, err = volume.ParseExisting(value); err != nil || value == "" {
			return fmt.Errorf("%s, %s or %s", volume.ExistingRefuse, volume.ExistingReuse, volume.ExistingShare)
		}
	case "pathPattern":
		p.pattern = nil
		if value == "" { // as with nfs-subdir-external-provisioner
			return nil
		}
		pattern, err := pathpattern.Parse(value)
		if err != nil {
			return fmt.Errorf("one that can be used: %w", err)
		}
		p.pattern = &pattern
	}
	return nil
}

// path is where the volume called name of a claim lies below its pool's root.
func (p parameters) path(claim *v1.PersistentVolumeClaim, name volume.Name) (volume.RelPath, error) {
	if p.pool.Share == nil {
		return name.RelPath(), nil
	}
	if p.pattern != nil {
		path, ok, err := p.pattern.Path(pathpattern.Values{
			Namespace: claim.Namespace, Name: claim.Name, Labels: claim.Labels, Annotations: claim.Annotations, Volume: name.String(),
		})
		if ok || err != nil {
			return path, err
		}
	}
	path, err := volume.ParseRelPath(claim.Namespace + "-" + claim.Name + "-" + name.String())
	if err != nil {
		return volume.RelPath{}, fmt.Errorf("the default path of this claim's volume; a pathPattern can give another: %w", err)
	}
	return path, nil
}

func (p *parameters) setGroup(value string) error {
	switch strings.ToLower(value) {
	case "none":
		p.owner.GID = 0
		return nil
	case "auto":
		if p.gids = p.pool.GIDs; p.gids == (volume.GIDRange{}) {
			return fmt.Errorf("possible, because pool %s has no gidRange", p.pool.Volumes.Pool())
		}
		return nil
	}
	gid, err := strconv.ParseUint(value, 10, 32)
	if err != nil || gid == math.MaxUint32 {
		return fmt.Errorf("none, auto, or a number from 0 to %d", uint32(math.MaxUint32-1))
	}
	p.owner.GID = uint32(gid)
	return nil
}
