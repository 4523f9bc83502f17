package config

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// Class is a StorageClass, as far as it says where volumes are made.
type Class struct {
	Name, Provisioner string
	Parameters        map[string]string
}

// classesIn finds the StorageClasses in a manifest.
func classesIn(text []byte) ([]Class, error) {
	objects, err := objectsIn(text)
	if err != nil {
		return nil, err
	}
	var found []Class
	for _, o := range objects {
		found = append(found, o.classes()...)
	}
	return found, nil
}

func (o object) classes() (found []Class) {
	if o.Kind == "StorageClass" {
		found = append(found, Class{Name: o.Metadata.Name, Provisioner: o.Provisioner, Parameters: o.Parameters})
	}
	for _, item := range o.Items {
		found = append(found, item.classes()...)
	}
	return found
}

// zfsPlace is where a StorageClass of kubernetes-zfs-provisioner's successor has volumes made.
type zfsPlace struct{ host, parent string }

// places are those of the classes, and before them the one of the environment if it says one.
func (e zfsEnvironment) places(classes []Class) []zfsPlace {
	var all []zfsPlace
	add := func(p zfsPlace) {
		if p.parent != "" && !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	add(zfsPlace{e.env(envZFSHostname), e.env(envZFSParent)})
	for _, c := range classes {
		if c.Provisioner == e.provisioner() {
			add(zfsPlace{cmp.Or(c.parameter("hostname"), e.env(envZFSHostname)), c.parameter("parentDataset")})
		}
	}
	return all
}

func (c Class) parameter(name string) string {
	for key, value := range c.Parameters {
		if strings.EqualFold(key, name) {
			return value
		}
	}
	return ""
}

// at is the environment of a program that has this place only.
func (e zfsEnvironment) at(p zfsPlace) func(string) string {
	return func(name string) string {
		switch name {
		case envZFSHostname:
			return p.host
		case envZFSParent:
			return p.parent
		}
		return e.env(name)
	}
}

// fromPlaces is FromZFSProvisioner with a pool for each place.
func (e zfsEnvironment) fromPlaces(args []string, places []zfsPlace, usage io.Writer) (Config, error) {
	var all Config
	for i, place := range places {
		c, err := FromZFSProvisioner(args, e.at(place), e.host, usage)
		if err != nil {
			return Config{}, fmt.Errorf("parent dataset %s: %w", place.parent, err)
		}
		p := c.Pools[0]
		p.Name, p.ZFS.Server = poolNameOf(place.parent), cmp.Or(p.ZFS.Server, c.Server.Hostname)
		if i == 0 {
			c.Pools = nil
			all = c
		}
		all.Pools = addProvider(all.Pools, p)
	}
	all.Server.Hostname = ""
	return all, all.Validate()
}

// notInPoolName are characters of datasets' names that those of pools do not have.
var notInPoolName = regexp.MustCompile(`[^a-z0-9]+`)

// poolNameOf gives a name for the pool of a parent dataset, with room for a number.
func poolNameOf(parent string) string {
	const room = 60
	name := notInPoolName.ReplaceAllString(strings.ToLower(parent), "-")
	return strings.Trim(name[max(0, len(name)-room):], "-")
}
