package config

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// Manifest is how a program is run in Kubernetes, as far as its configuration goes.
type Manifest struct {
	Args []string
	Env  []string // names of the variables that it is given
}

// object is a Kubernetes object that may have containers; what else is in it is passed over.
type object struct {
	Kind string `json:"kind"`
	Spec struct {
		podSpec
		Template struct {
			Spec podSpec `json:"spec"`
		} `json:"template"`
	} `json:"spec"`
	Items []object `json:"items"` // of a List
}

type podSpec struct {
	Containers []container `json:"containers"`
}

type container struct {
	Name    string   `json:"name"`
	Image   string   `json:"image"`
	Command []string `json:"command"`
	Args    []string `json:"args"`
	Env     []struct {
		Name      string `json:"name"`
		Value     string `json:"value"`
		ValueFrom any    `json:"valueFrom"`
	} `json:"env"`
}

// documentEnd is the line between the documents of a YAML file.
var documentEnd = regexp.MustCompile(`(?m)^---.*$`)

// NFSProvisionerManifest finds in a manifest (YAML or JSON, of one or more objects) how
// nfs-provisioner is run.
func NFSProvisionerManifest(text []byte) (Manifest, error) {
	var found []container
	for _, document := range documentEnd.Split(string(text), -1) {
		var o object
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			return Manifest{}, fmt.Errorf("manifest: %w", err)
		}
		found = append(found, o.nfsProvisioners()...)
	}
	switch len(found) {
	case 0:
		return Manifest{}, errors.New("manifest: no Pod, Deployment, StatefulSet or DaemonSet in it runs nfs-provisioner")
	case 1:
	default:
		return Manifest{}, fmt.Errorf("manifest: %d containers in it run nfs-provisioner: give one of them at a time", len(found))
	}
	m, err := found[0].manifest()
	if err != nil {
		return Manifest{}, fmt.Errorf("manifest: container %s: %w", found[0].Name, err)
	}
	return m, nil
}

func (o object) nfsProvisioners() (found []container) {
	for _, c := range slices.Concat(o.Spec.Containers, o.Spec.Template.Spec.Containers) {
		if c.isNFSProvisioner() {
			found = append(found, c)
		}
	}
	for _, item := range o.Items {
		found = append(found, item.nfsProvisioners()...)
	}
	return found
}

// isNFSProvisioner goes by the name of the program, of the image (as of 1.0.3, and of the
// heir's nfs-provisioner and nfs-server-provisioner), or by the one flag that everybody sets.
func (c container) isNFSProvisioner() bool {
	if len(c.Command) > 0 && path.Base(c.Command[0]) == AdoptNFSProvisioner {
		return true
	}
	image, _, _ := strings.Cut(path.Base(c.Image), ":")
	return image == "nfs-provisioner" || image == "nfs-server-provisioner" ||
		slices.ContainsFunc(c.Args, func(a string) bool { return strings.HasPrefix(strings.TrimLeft(a, "-"), "provisioner=") })
}

func (c container) manifest() (Manifest, error) {
	args := c.Args
	if len(c.Command) > 0 {
		if program := path.Base(c.Command[0]); program != AdoptNFSProvisioner {
			return Manifest{}, fmt.Errorf("its command is %s: give the flags of nfs-provisioner themselves, after \"--\"", program)
		}
		args = slices.Concat(c.Command[1:], c.Args)
	}
	var m Manifest
	for _, e := range c.Env {
		m.Env = append(m.Env, e.Name)
	}
	for _, a := range args {
		expanded, err := c.expand(a)
		if err != nil {
			return Manifest{}, err
		}
		m.Args = append(m.Args, expanded)
	}
	return m, nil
}

// reference is $(NAME) in an argument, and $$(NAME), which stands for itself; see
// https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/
var reference = regexp.MustCompile(`\$?\$\([-._a-zA-Z][-._a-zA-Z0-9]*\)`)

func (c container) expand(arg string) (string, error) {
	var unknown error
	expanded := reference.ReplaceAllStringFunc(arg, func(found string) string {
		if strings.HasPrefix(found, "$$") {
			return found[1:]
		}
		name := found[2 : len(found)-1]
		for _, e := range slices.Backward(c.Env) { // of one given twice the last counts
			if e.Name == name && e.ValueFrom == nil {
				return e.Value
			}
			if e.Name == name {
				unknown = fmt.Errorf("argument %s: what %s is, the manifest does not say: give the flags themselves, after \"--\"", arg, name)
			}
		}
		return found // as Kubernetes does with one that is not defined
	})
	return expanded, unknown
}
