//go:build system

package deploy

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/pod"
)

func TestUnitsAreUnderstoodBySystemd(t *testing.T) {
	units := filepath.Join(shared.repository, "deploy", "systemd")
	for unit, dropIn := range map[string]string{"berth.service": "berth-kernel.conf", "berth-zfs.service": ""} {
		text, err := os.ReadFile(filepath.Join(units, unit))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), unit)
		program := filepath.Join(shared.image.Rootfs, "usr", "bin", "berth") // it has to be there
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(text), "/usr/local/bin/berth", program)), 0o600); err != nil {
			t.Fatal(err)
		}
		if dropIn != "" {
			text, err := os.ReadFile(filepath.Join(units, dropIn))
			if err := errors.Join(err, os.Mkdir(file+".d", 0o700), os.WriteFile(filepath.Join(file+".d", dropIn), text, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		// A setting that it does not know is a warning to it only.
		if output, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", file).CombinedOutput(); err != nil || strings.Contains(string(output), file) {
			t.Errorf("systemd-analyze verify: %v\n%s", err, output)
		}
	}
}

// There is no systemd to run the unit here, so a container has what the unit leaves to
// Berth: the system calls, capabilities and address families, nowhere to write but in the
// pool and the run folder, and no memory that is both written and executed. The
// configuration is the one that the page shows.
func TestBerthWorksWithWhatTheUnitLeavesIt(t *testing.T) {
	s := newSite(t)
	settings, err := harness.Unit(filepath.Join(shared.repository, "deploy", "systemd", "berth.service"))
	s.must(err)
	n := s.node()
	profiles := n.mkdir(t, "/var/lib/kubelet/seccomp")
	text, err := json.Marshal(s.unitFilter(settings))
	s.must(err)
	s.must(os.WriteFile(filepath.Join(profiles, "unit.json"), text, 0o600))
	s.apply("deploy/common")
	s.apply("deploy/class")

	config, err := os.ReadFile(filepath.Join(shared.repository, "docs", "samples", "systemd.yaml"))
	s.must(err)
	kubeconfig, err := os.ReadFile(shared.cluster.Kubeconfig())
	s.must(err)
	etc := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "etc"}, Data: map[string]string{
		"berth.yaml": string(config) + "ganesha: {gracePeriod: 0s}\n",
		"kubeconfig": strings.ReplaceAll(string(kubeconfig), shared.cluster.Server(), pod.APIServer),
	}}
	_, err = shared.client.CoreV1().ConfigMaps(namespace).Create(t.Context(), etc, metav1.CreateOptions{})
	s.must(err)

	spec := s.podSpec("pod-emptydir")
	spec.SecurityContext.SeccompProfile = &v1.SeccompProfile{Type: v1.SeccompProfileTypeLocalhost, LocalhostProfile: new("unit.json")}
	spec.Volumes = append(spec.Volumes, v1.Volume{Name: "etc", VolumeSource: v1.VolumeSource{
		ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "etc"}},
	}})
	c := &spec.Containers[0]
	c.LivenessProbe, c.ReadinessProbe, c.Env = nil, nil, nil // the sample's HTTP is on loopback
	c.Command = append([]string{"/usr/bin/berth"}, strings.Fields(settings["ExecStart"])[1:]...)
	c.Args = nil
	c.SecurityContext.Capabilities.Add = nil
	for name := range strings.FieldsSeq(settings["CapabilityBoundingSet"]) {
		c.SecurityContext.Capabilities.Add = append(c.SecurityContext.Capabilities.Add, v1.Capability(strings.TrimPrefix(name, "CAP_")))
	}
	for i := range c.VolumeMounts {
		if c.VolumeMounts[i].Name == "export" {
			c.VolumeMounts[i].MountPath = settings["ReadWritePaths"]
		}
	}
	c.VolumeMounts = append(c.VolumeMounts, v1.VolumeMount{Name: "etc", MountPath: "/etc/berth"})
	_, err = shared.client.CoreV1().Pods(namespace).Create(t.Context(), &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "berth"}, Spec: spec}, metav1.CreateOptions{})
	s.must(err)
	running := s.ready(n)
	pv := s.claim("unit")
	servers, err := running.Processes("ganesha.nfsd")
	if err != nil || len(servers) != 1 {
		t.Fatalf("NFS servers %v, %v", servers, err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", servers[0]))
	if err != nil || !strings.Contains(string(status), "\nSeccomp:\t2\n") { // proc(5): a filter is in force
		t.Errorf("the NFS server has no filter of system calls: %v\n%s", err, status)
	}
	s.roundTrip(running.IP, pv, running.Volume("export"))
	s.deleteClaim("unit")
}

// rule allows system calls, with certain arguments only if there are any.
type rule struct {
	Names  []string   `json:"names"`
	Action string     `json:"action"`
	Args   []argument `json:"args,omitempty"`
}

type argument struct {
	Index    uint   `json:"index"`
	Value    uint64 `json:"value"`
	ValueTwo uint64 `json:"valueTwo"`
	Op       string `json:"op"`
}

const allow = "SCMP_ACT_ALLOW"

// unitFilter is what the unit makes of systemd's filters, in the form of runc; see
// systemd.exec(5).
func (s *site) unitFilter(settings map[string]string) map[string]any {
	s.t.Helper()
	calls := map[string]bool{}
	for name := range strings.FieldsSeq(settings["SystemCallFilter"]) {
		s.expand(name, calls)
	}
	var rules []rule
	for call := range calls {
		switch {
		case call == "socket":
			for _, family := range []struct {
				name   string
				number uint64
			}{{"AF_UNIX", 1}, {"AF_INET", 2}, {"AF_INET6", 10}, {"AF_NETLINK", 16}} {
				if strings.Contains(settings["RestrictAddressFamilies"]+" ", family.name+" ") {
					rules = append(rules, rule{[]string{call}, allow, []argument{{0, family.number, 0, "SCMP_CMP_EQ"}}})
				}
			}
		case call == "mmap" && settings["MemoryDenyWriteExecute"] == "true":
			// Of PROT_WRITE (2) and PROT_EXEC (4) not both.
			for _, one := range []uint64{0, 2, 4} {
				rules = append(rules, rule{[]string{call}, allow, []argument{{2, 6, one, "SCMP_CMP_MASKED_EQ"}}})
			}
		case (call == "mprotect" || call == "pkey_mprotect") && settings["MemoryDenyWriteExecute"] == "true":
			rules = append(rules, rule{[]string{call}, allow, []argument{{2, 4, 0, "SCMP_CMP_MASKED_EQ"}}})
		default:
			rules = append(rules, rule{Names: []string{call}, Action: allow})
		}
	}
	// runc's own, after the filter is there and before the program is.
	rules = append(rules, rule{Names: []string{"capset", "execve", "prctl", "futex", "close", "exit_group", "fstatfs"}, Action: allow})
	return map[string]any{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}
}

// expand adds a system call, or those of one of systemd's sets, to calls.
func (s *site) expand(name string, calls map[string]bool) {
	s.t.Helper()
	if !strings.HasPrefix(name, "@") {
		calls[name] = true
		return
	}
	list, err := exec.CommandContext(s.t.Context(), "systemd-analyze", "syscall-filter", name).Output()
	s.must(err)
	for line := range strings.Lines(string(list)) {
		line = strings.TrimSpace(line)
		if line != "" && line != name && !strings.HasPrefix(line, "#") {
			s.expand(line, calls)
		}
	}
}
