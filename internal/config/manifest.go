package config

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// Manifest is how a program is run in Kubernetes, as far as its configuration goes.
type Manifest struct {
	Args    []string
	Env     []Variable
	Classes []Class // of programs that these tell where volumes are made
}

// Variable is an environment variable of a container.
type Variable struct {
	Name, Value string
	Unknown     bool // the manifest says from where the value comes, but not which it is
}

// lookup gives a variable; of one given twice the last counts.
func (m Manifest) lookup(name string) (Variable, bool) {
	for _, v := range slices.Backward(m.Env) {
		if v.Name == name {
			return v, true
		}
	}
	return Variable{}, false
}

// object is a Kubernetes object that may have containers, or is a StorageClass; what else is in it is passed over.
type object struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Provisioner string            `json:"provisioner"`
	Parameters  map[string]string `json:"parameters"`
	Spec        struct {
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

// objectsIn gives the objects of a manifest; a list is one of them.
func objectsIn(text []byte) (all []object, err error) {
	for _, document := range documentEnd.Split(string(text), -1) {
		var o object
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			return nil, fmt.Errorf("manifest: %w", err)
		}
		all = append(all, o)
	}
	return all, nil
}

// documentEnd is the line between the documents of a YAML file.
var documentEnd = regexp.MustCompile(`(?m)^---.*$`)

// NFSProvisionerManifest finds in a manifest (YAML or JSON, of one or more objects) how
// nfs-provisioner is run.
func NFSProvisionerManifest(text []byte) (Manifest, error) {
	return manifestOf(text, AdoptNFSProvisioner, container.isNFSProvisioner)
}

// NFSSubdirManifest finds in a manifest how nfs-subdir-external-provisioner is run.
func NFSSubdirManifest(text []byte) (Manifest, error) {
	return manifestOf(text, AdoptNFSSubdir, container.isNFSSubdir)
}

func manifestOf(text []byte, program string, is func(container) bool) (Manifest, error) {
	var found []container
	objects, err := objectsIn(text)
	if err != nil {
		return Manifest{}, err
	}
	for _, o := range objects {
		found = append(found, o.containers(is)...)
	}
	switch len(found) {
	case 0:
		return Manifest{}, fmt.Errorf("manifest: no Pod, Deployment, StatefulSet or DaemonSet in it runs %s", program)
	case 1:
	default:
		return Manifest{}, fmt.Errorf("manifest: %d containers in it run %s: give one of them at a time", len(found), program)
	}
	m, err := found[0].manifest(program)
	if err != nil {
		return Manifest{}, fmt.Errorf("manifest: container %s: %w", found[0].Name, err)
	}
	return m, nil
}

// containers are those of the object for which is says yes.
func (o object) containers(is func(container) bool) (found []container) {
	for _, c := range slices.Concat(o.Spec.Containers, o.Spec.Template.Spec.Containers) {
		if is(c) {
			found = append(found, c)
		}
	}
	for _, item := range o.Items {
		found = append(found, item.containers(is)...)
	}
	return found
}

// isNFSProvisioner goes by the name of the program, of the image (as of 1.0.3, and of the
// heir's nfs-provisioner and nfs-server-provisioner), or by the one flag that everybody sets.
func (c container) isNFSProvisioner() bool {
	return c.runs(AdoptNFSProvisioner) || slices.Contains([]string{AdoptNFSProvisioner, "nfs-server-provisioner"}, c.program()) ||
		slices.ContainsFunc(c.Args, func(a string) bool { return strings.HasPrefix(strings.TrimLeft(a, "-"), "provisioner=") })
}

// isNFSSubdir goes by the name of the program, of the image (also before it was renamed),
// or by the variables without which it does not start.
func (c container) isNFSSubdir() bool {
	return c.runs(AdoptNFSSubdir) || slices.Contains([]string{AdoptNFSSubdir, "nfs-client-provisioner"}, c.program()) ||
		c.has(envProvisionerName) && c.has(envNFSServer) && c.has(envNFSPath)
}

func (c container) runs(program string) bool {
	return len(c.Command) > 0 && path.Base(c.Command[0]) == program
}

// program is the image's name, without its registry and tag.
func (c container) program() string {
	name, _, _ := strings.Cut(path.Base(c.Image), "@")
	name, _, _ = strings.Cut(name, ":")
	return name
}

func (c container) has(variable string) bool {
	_, found := c.variables().lookup(variable)
	return found
}

func (c container) manifest(program string) (Manifest, error) {
	args := c.Args
	if len(c.Command) > 0 {
		if !c.runs(program) {
			return Manifest{}, fmt.Errorf("its command is %s: give the flags of %s themselves, after \"--\"", path.Base(c.Command[0]), program)
		}
		args = slices.Concat(c.Command[1:], c.Args)
	}
	m := c.variables()
	for _, a := range args {
		expanded, err := m.expand(a)
		if err != nil {
			return Manifest{}, err
		}
		m.Args = append(m.Args, expanded)
	}
	return m, nil
}

func (c container) variables() (m Manifest) {
	for _, e := range c.Env {
		m.Env = append(m.Env, Variable{Name: e.Name, Value: e.Value, Unknown: e.ValueFrom != nil})
	}
	return m
}

// reference is $(NAME) in an argument, and $$(NAME), which stands for itself; see
// https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/
var reference = regexp.MustCompile(`\$?\$\([-._a-zA-Z][-._a-zA-Z0-9]*\)`)

func (m Manifest) expand(arg string) (string, error) {
	var unknown error
	expanded := reference.ReplaceAllStringFunc(arg, func(found string) string {
		if strings.HasPrefix(found, "$$") {
			return found[1:]
		}
		name := found[2 : len(found)-1]
		v, defined := m.lookup(name)
		switch {
		case !defined:
			return found // as Kubernetes does
		case v.Unknown:
			unknown = fmt.Errorf("argument %s: what %s is, the manifest does not say: give the flags themselves, after \"--\"", arg, name)
		}
		return v.Value
	})
	return expanded, unknown
}
