//go:build system

package deploy

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// forms are the folders in deploy/ with a pod each, and its kind.
var forms = map[string]string{"deployment": "Deployment", "statefulset": "StatefulSet", "daemonset": "DaemonSet", "pod-emptydir": "Pod"}

// render gives the objects of a kustomization in deploy/ by their kinds.
func (s *site) render(path string) map[string]*unstructured.Unstructured {
	s.t.Helper()
	text, err := shared.cluster.Kubectl(context.Background(), "kustomize", shared.repository+"/deploy/"+path)
	s.must(err)
	objects := map[string]*unstructured.Unstructured{}
	for document := range bytes.SplitSeq(text, []byte("\n---\n")) {
		object := &unstructured.Unstructured{}
		s.must(yaml.Unmarshal(document, &object.Object))
		objects[object.GetKind()] = object
	}
	return objects
}

// podSpec is the pod of a form.
func (s *site) podSpec(form string) v1.PodSpec {
	s.t.Helper()
	object := s.render(form)[forms[form]].Object
	fields := []string{"spec", "template", "spec"}
	if forms[form] == "Pod" {
		fields = []string{"spec"}
	}
	text, found, err := unstructured.NestedMap(object, fields...)
	s.must(err)
	if !found {
		s.t.Fatalf("%s has no pod", form)
	}
	var spec v1.PodSpec
	s.must(runtime.DefaultUnstructuredConverter.FromUnstructured(text, &spec))
	return spec
}

// The forms differ in where the volumes are and how clients find the server, and in
// nothing else: what is right for one is not forgotten in another.
func TestFormsAgree(t *testing.T) {
	s := newSite(t)
	common := func(spec v1.PodSpec) v1.PodSpec {
		c := &spec.Containers[0]
		c.Args, c.Env = nil, nil
		for i := range c.Ports {
			c.Ports[i].HostPort = 0
		}
		spec.Volumes = slices.DeleteFunc(spec.Volumes, func(v v1.Volume) bool { return v.Name == "export" })
		spec.NodeSelector = nil
		return spec
	}
	want := common(s.podSpec("deployment"))
	for form := range forms {
		if diff := cmp.Diff(want, common(s.podSpec(form))); diff != "" {
			t.Errorf("deployment and %s (-deployment +%s):\n%s", form, form, diff)
		}
	}
	if diff := cmp.Diff(s.render("deployment")["Service"].Object["spec"], s.render("statefulset")["Service"].Object["spec"]); diff != "" {
		t.Errorf("the Services:\n%s", diff)
	}
}

// crd makes the API server know OpenShift's kind, with the fields that the manifest may
// have: server-side validation refuses any other.
const crd = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: securitycontextconstraints.security.openshift.io}
spec:
  group: security.openshift.io
  scope: Cluster
  names: {kind: SecurityContextConstraints, plural: securitycontextconstraints, listKind: SecurityContextConstraintsList, singular: securitycontextconstraints}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        required: [allowHostDirVolumePlugin, allowHostIPC, allowHostNetwork, allowHostPID, allowHostPorts, allowPrivilegedContainer, readOnlyRootFilesystem]
        properties:
          allowHostDirVolumePlugin: &bool {type: boolean}
          allowHostPorts: *bool
          allowHostIPC: *bool
          allowHostNetwork: *bool
          allowHostPID: *bool
          allowPrivilegedContainer: *bool
          allowPrivilegeEscalation: *bool
          readOnlyRootFilesystem: *bool
          requiredDropCapabilities: &list {type: array, items: {type: string}}
          defaultAddCapabilities: *list
          allowedCapabilities: *list
          volumes: *list
          seccompProfiles: *list
          runAsUser: &strategy {type: object, properties: {type: {type: string, enum: [RunAsAny, MustRunAs, MustRunAsRange, MustRunAsNonRoot]}}}
          seLinuxContext: *strategy
          fsGroup: *strategy
          supplementalGroups: *strategy
`

// openShift makes the API server know OpenShift's kind.
func (s *site) openShift() {
	s.t.Helper()
	_, err := shared.cluster.KubectlApply(s.t.Context(), []byte(crd))
	s.must(err)
	s.kubectl("wait", "--for=condition=Established", "--timeout=1m", "crd/securitycontextconstraints.security.openshift.io")
}

func TestOpenShift(t *testing.T) {
	s := newSite(t)
	s.openShift()
	s.apply("deploy/openshift")
	// The account may use this SCC and no other.
	for name, want := range map[string]string{"berth": "yes", "privileged": "no"} {
		answer, _ := s.tryKubectl("auth", "can-i", "use", "securitycontextconstraints.security.openshift.io/"+name,
			"--as=system:serviceaccount:"+namespace+":berth", "-n", namespace) // "no" is an error to it
		if answer != want {
			t.Errorf("the account may use the SCC %s: %q, want %q", name, answer, want)
		}
	}
	scc := s.render("openshift")["SecurityContextConstraints"].Object
	list := func(field string) []string {
		l, _, err := unstructured.NestedStringSlice(scc, field)
		s.must(err)
		return l
	}
	for form := range forms {
		spec := s.podSpec(form)
		var added []string
		for _, c := range spec.Containers[0].SecurityContext.Capabilities.Add {
			added = append(added, string(c))
		}
		if diff := cmp.Diff(list("allowedCapabilities"), added); diff != "" {
			t.Errorf("capabilities (-SCC +%s):\n%s", form, diff)
		}
		for _, v := range spec.Volumes {
			raw, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&v.VolumeSource)
			s.must(err)
			for kind := range raw {
				if !slices.Contains(list("volumes"), kind) {
					t.Errorf("the SCC does not allow %s of %s", kind, form)
				}
			}
		}
		for _, p := range spec.Containers[0].Ports {
			if p.HostPort != 0 && scc["allowHostPorts"] != true {
				t.Errorf("the SCC does not allow the host port of %s", form)
			}
		}
	}
	if s.podSpec("deployment").SecurityContext.SeccompProfile.Type != v1.SeccompProfileTypeRuntimeDefault || !slices.Equal(list("seccompProfiles"), []string{"runtime/default"}) {
		t.Errorf("seccomp profiles %s", strings.Join(list("seccompProfiles"), ", "))
	}
}
