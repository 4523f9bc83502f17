package kube

import (
	"fmt"
	"slices"
	"strings"

	storagev1 "k8s.io/api/storage/v1"

	"github.com/berth-storage/berth/internal/suggest"
	"github.com/berth-storage/berth/internal/volume"
)

// poolsFor gives the pools for claims of a class, in the order in which they are tried:
// those that it names, else those that name it, else the only one that names no class.
func poolsFor(class *storagev1.StorageClass, pools []*Pool) ([]*Pool, error) {
	chosen, err := narrow(class.Parameters, pools)
	if err != nil {
		return nil, err
	}
	if names := poolNames(parameter(class.Parameters, "pool")); len(names) > 0 {
		return named(names, chosen)
	}
	byClass := func(p *Pool) bool { return slices.Contains(p.Classes, class.Name) }
	if slices.ContainsFunc(chosen, byClass) {
		return slices.DeleteFunc(slices.Clone(chosen), func(p *Pool) bool { return !byClass(p) }), nil
	}
	open := slices.DeleteFunc(slices.Clone(chosen), func(p *Pool) bool { return len(p.Classes) > 0 })
	switch {
	case len(open) == 1:
		return open, nil
	case len(open) == 0 && len(chosen) > 0:
		return nil, fmt.Errorf("%w: no pool serves StorageClass %s: the pools %s name the classes that they serve, and the class has no parameter \"pool\"",
			volume.ErrInvalid, class.Name, strings.Join(namesOf(chosen), ", "))
	}
	return nil, fmt.Errorf("%w: the StorageClass has to say which pool, by the parameter \"pool\": %s", volume.ErrInvalid, strings.Join(namesOf(open), ", "))
}

// narrow leaves those of pools whose datasets lie where the class says, as classes of
// kubernetes-zfs-provisioner do.
func narrow(given map[string]string, pools []*Pool) ([]*Pool, error) {
	dataset, host := parameter(given, "parentDataset"), parameter(given, "hostname")
	if dataset == "" {
		return pools, nil
	}
	var there []string
	var chosen []*Pool
	for _, p := range pools {
		if p.ZFS == nil {
			continue
		}
		there = append(there, p.ZFS.Dataset)
		knows := func(name string) bool { return strings.EqualFold(name, host) }
		if p.ZFS.Dataset == dataset && (host == "" || len(p.ZFS.Hosts) == 0 || slices.ContainsFunc(p.ZFS.Hosts, knows)) {
			chosen = append(chosen, p)
		}
	}
	switch {
	case len(chosen) > 0:
		return chosen, nil
	case len(there) == 0:
		return nil, fmt.Errorf("%w: StorageClass parameter parentDataset: no pool here is of ZFS datasets", volume.ErrInvalid)
	case slices.Contains(there, dataset):
		return nil, fmt.Errorf("%w: StorageClass parameter hostname: %.100q is not the host of a pool with parent dataset %s", volume.ErrInvalid, host, dataset)
	}
	return nil, fmt.Errorf("%w: StorageClass parameter parentDataset: %.100q is no pool's%s", volume.ErrInvalid, dataset, suggest.Nearest(dataset, there))
}

// named gives the pools of these names that there are: other instances may have others.
func named(names []string, pools []*Pool) ([]*Pool, error) {
	var chosen []*Pool
	for _, name := range names {
		if i := slices.IndexFunc(pools, func(p *Pool) bool { return p.Volumes.Pool() == name }); i >= 0 && !slices.Contains(chosen, pools[i]) {
			chosen = append(chosen, pools[i])
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("%w: StorageClass parameter pool: there is no pool %q%s", volume.ErrInvalid, names[0], suggest.Nearest(names[0], namesOf(pools)))
	}
	return chosen, nil
}

func namesOf(pools []*Pool) []string {
	var names []string
	for _, p := range pools {
		names = append(names, p.Volumes.Pool())
	}
	return names
}

// poolNames reads the parameter "pool": names with commas between them.
func poolNames(value string) []string {
	return strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })
}

// parameter is the value of a class's parameter; "" if it has none of that name.
func parameter(given map[string]string, name string) string {
	for key, value := range given {
		if strings.EqualFold(key, name) {
			return value
		}
	}
	return ""
}
