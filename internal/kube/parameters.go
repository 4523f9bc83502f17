package kube

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/suggest"
	"github.com/berth-storage/berth/internal/volume"
)

// parameters are a StorageClass's, with the pool's defaults for what it leaves out.
type parameters struct {
	pool   *Pool
	owner  volume.Owner
	gids   volume.GIDRange // if not zero, in place of owner.GID
	squash export.Squash
	inodes int64 // 0: no limit
	// mountOptions are those of the class's parameter, for classes that have none
	// of their own.
	mountOptions string
}

// modeOfGroup is the mode of a volume whose class gives it a group and no mode:
// for the group. Kubelet looks at it when it unmounts, for which the x is.
const modeOfGroup = 0o2771

// classParameters are the names that a StorageClass may use. Case does not
// matter, as with the provisioners that Berth takes the place of.
var classParameters = []string{"pool", "mode", "uid", "gid", "rootSquash", "inodes", "mountOptions"}

// parseParameters reads the parameters of a class for one of pools. Anything that
// is not known is an error: a misspelt "rootSquash" must not give an open export.
func parseParameters(given map[string]string, pools []*Pool) (parameters, error) {
	values := make(map[string]string, len(given))
	spelt := make(map[string]string, len(given))
	for _, key := range slices.Sorted(maps.Keys(given)) { // in order, so that the error is always the same
		i := slices.IndexFunc(classParameters, func(name string) bool { return strings.EqualFold(name, key) })
		if i < 0 {
			return parameters{}, fmt.Errorf("%w: unknown StorageClass parameter %q%s", volume.ErrInvalid, key, suggest.Nearest(key, classParameters))
		}
		name := classParameters[i]
		if other, twice := spelt[name]; twice {
			return parameters{}, fmt.Errorf("%w: StorageClass parameters %q and %q are one and the same", volume.ErrInvalid, other, key)
		}
		values[name], spelt[name] = given[key], key
	}
	pool, err := choosePool(values["pool"], pools)
	if err != nil {
		return parameters{}, err
	}
	p := parameters{pool: pool, owner: pool.Owner, squash: pool.Squash}
	for _, key := range classParameters {
		value, found := values[key]
		if !found {
			continue
		}
		if err := p.set(key, value); err != nil {
			return parameters{}, fmt.Errorf("%w: StorageClass parameter %s: %q is not %w", volume.ErrInvalid, key, value, err)
		}
	}
	if _, says := values["mode"]; !says && (p.gids != volume.GIDRange{} || values["gid"] != "" && p.owner.GID != 0) {
		p.owner.Mode = modeOfGroup
	}
	return p, nil
}

// poolParameter is the pool that a class names; "" if it names none.
func poolParameter(given map[string]string) string {
	for key, value := range given {
		if strings.EqualFold(key, "pool") {
			return value
		}
	}
	return ""
}

func choosePool(name string, pools []*Pool) (*Pool, error) {
	if name == "" && len(pools) == 1 {
		return pools[0], nil
	}
	var names []string
	for _, p := range pools {
		if p.Volumes.Pool() == name {
			return p, nil
		}
		names = append(names, p.Volumes.Pool())
	}
	if name == "" {
		return nil, fmt.Errorf("%w: the StorageClass has to say which pool, by the parameter \"pool\": %s", volume.ErrInvalid, strings.Join(names, ", "))
	}
	return nil, fmt.Errorf("%w: StorageClass parameter pool: there is no pool %q%s", volume.ErrInvalid, name, suggest.Nearest(name, names))
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
	}
	return nil
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
