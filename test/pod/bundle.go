package pod

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// defaultCapabilities are those of a container that does not say any, as containerd has it.
var defaultCapabilities = []string{
	"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE",
	"NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}

// config is what runc reads, of the OCI runtime specification.
type config struct {
	Version  string         `json:"ociVersion"`
	Hostname string         `json:"hostname"`
	Process  process        `json:"process"`
	Root     map[string]any `json:"root"`
	Mounts   []mount        `json:"mounts"`
	Linux    linux          `json:"linux"`
}

type process struct {
	Args            []string            `json:"args"`
	Env             []string            `json:"env"`
	Cwd             string              `json:"cwd"`
	User            user                `json:"user"`
	Capabilities    map[string][]string `json:"capabilities"`
	NoNewPrivileges bool                `json:"noNewPrivileges"`
}

type user struct {
	UID    int64   `json:"uid"`
	GID    int64   `json:"gid"`
	Groups []int64 `json:"additionalGids,omitempty"`
}

// userOf is the user that a pod's container runs as. What the container says goes first.
func userOf(p *v1.Pod, c v1.Container) (u user) {
	if s := p.Spec.SecurityContext; s != nil {
		u = user{UID: value(s.RunAsUser), GID: value(s.RunAsGroup)}
		if s.FSGroup != nil {
			u.Groups = []int64{*s.FSGroup}
		}
	}
	if s := c.SecurityContext; s != nil && s.RunAsUser != nil {
		u.UID, u.GID = *s.RunAsUser, value(s.RunAsGroup)
	}
	return u
}

func value(id *int64) int64 {
	if id == nil {
		return 0
	}
	return *id
}

type mount struct {
	Destination string   `json:"destination"`
	Type        string   `json:"type"`
	Source      string   `json:"source"`
	Options     []string `json:"options,omitempty"`
}

type linux struct {
	Namespaces    []map[string]string `json:"namespaces"`
	MaskedPaths   []string            `json:"maskedPaths"`
	ReadonlyPaths []string            `json:"readonlyPaths"`
	Seccomp       *seccomp            `json:"seccomp,omitempty"`
}

// capabilities of a container, with the prefix CAP_.
func capabilities(c v1.Container) []string {
	granted := slices.Clone(defaultCapabilities)
	if c.SecurityContext != nil && c.SecurityContext.Capabilities != nil {
		caps := c.SecurityContext.Capabilities
		granted = slices.DeleteFunc(granted, func(name string) bool {
			return slices.Contains(caps.Drop, "ALL") || slices.Contains(caps.Drop, v1.Capability(name))
		})
		for _, name := range caps.Add {
			granted = append(granted, string(name))
		}
	}
	for i, name := range granted {
		granted[i] = "CAP_" + name
	}
	return granted
}

// possible leaves out the capabilities that this process has no right to give: a machine
// in a sandbox may lack some, most often SYS_RESOURCE.
func possible(names []string) []string {
	return slices.DeleteFunc(names, func(name string) bool {
		number, known := numbers[name]
		if !known {
			return false // runc says so
		}
		held, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(number), 0, 0, 0)
		return err == nil && held == 0
	})
}

// numbers are those of capability.h for the capabilities that somebody may lack.
var numbers = map[string]int{"CAP_SYS_RESOURCE": unix.CAP_SYS_RESOURCE, "CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN}

// filter is the container's seccomp filter; none is the default. Profiles of the node
// are where its kubelet would have them.
func filter(host string, p *v1.Pod, c v1.Container) (*seccomp, error) {
	var s *v1.SeccompProfile
	if p.Spec.SecurityContext != nil {
		s = p.Spec.SecurityContext.SeccompProfile
	}
	if c.SecurityContext != nil && c.SecurityContext.SeccompProfile != nil {
		s = c.SecurityContext.SeccompProfile
	}
	switch {
	case s == nil, s.Type == v1.SeccompProfileTypeUnconfined:
		return nil, nil
	case s.Type == v1.SeccompProfileTypeRuntimeDefault:
		return runtimeDefault(capabilities(c))
	case s.Type == v1.SeccompProfileTypeLocalhost:
		text, err := os.ReadFile(filepath.Join(host, "var/lib/kubelet/seccomp", *s.LocalhostProfile))
		if err != nil {
			return nil, err
		}
		local := &seccomp{}
		return local, json.Unmarshal(text, local)
	}
	return nil, fmt.Errorf("seccomp profile %s is not supported here", s.Type)
}

// writeBundle writes the configuration of a pod's container to folder. host stands for
// the node's root, and names are addresses that the cluster's DNS knows.
func writeBundle(folder, host string, names map[string]string, p *v1.Pod, c v1.Container, entrypoint, env []string, volumes []mount) error {
	// These would be passed over here, though a kubelet would not.
	if s := c.SecurityContext; s != nil && s.Privileged != nil || p.Spec.HostNetwork || len(p.Spec.InitContainers) > 0 {
		return fmt.Errorf("pod %s asks for more than is done here", p.Name)
	}
	rules, err := filter(host, p, c)
	if err != nil {
		return err
	}
	args := entrypoint
	if len(c.Command) > 0 {
		args = c.Command
	}
	granted := possible(capabilities(c))
	readOnly, noNew := false, false
	if s := c.SecurityContext; s != nil {
		readOnly = s.ReadOnlyRootFilesystem != nil && *s.ReadOnlyRootFilesystem
		noNew = s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation
	}
	hosts := filepath.Join(folder, "hosts")
	lines := []string{"127.0.0.1 localhost", p.Status.PodIP + " " + p.Name}
	for name, address := range names {
		lines = append(lines, address+" "+name)
	}
	if err := os.WriteFile(hosts, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	mounts := append([]mount{
		{"/proc", "proc", "proc", []string{"nosuid", "noexec", "nodev"}},
		{"/dev", "tmpfs", "tmpfs", []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{"/dev/pts", "devpts", "devpts", []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{"/dev/shm", "tmpfs", "shm", []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{"/sys", "sysfs", "sysfs", []string{"nosuid", "noexec", "nodev", "ro"}},
		{"/etc/hosts", "bind", hosts, []string{"rbind", "rw"}},
	}, volumes...)
	text, err := json.Marshal(config{
		Version: "1.0.2", Hostname: p.Name,
		Process: process{
			Args: append(slices.Clone(args), c.Args...), Env: env, Cwd: "/", User: userOf(p, c),
			Capabilities:    map[string][]string{"bounding": granted, "effective": granted, "permitted": granted},
			NoNewPrivileges: noNew,
		},
		Root: map[string]any{"path": "rootfs", "readonly": readOnly}, Mounts: mounts,
		Linux: linux{
			// The network is that of the process that starts runc.
			Namespaces:    []map[string]string{{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}},
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/proc/sysrq-trigger", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"},
			Seccomp:       rules,
		},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "config.json"), text, 0o600)
}

// environment of a container. The kubelet adds the address of the API server; other
// Services it adds only if the manifest does not say enableServiceLinks: false.
func environment(p *v1.Pod, c v1.Container, image []string) ([]string, error) {
	env := append(slices.Clone(image),
		"HOSTNAME="+p.Name, "KUBERNETES_SERVICE_HOST="+apiServiceHost, "KUBERNETES_SERVICE_PORT="+apiServicePort)
	for _, e := range c.Env {
		value := e.Value
		if from := e.ValueFrom; from != nil {
			if from.FieldRef == nil {
				return nil, fmt.Errorf("environment variable %s is not of a kind that is set here", e.Name)
			}
			var err error
			if value, err = field(p, from.FieldRef.FieldPath); err != nil {
				return nil, err
			}
		}
		env = append(env, e.Name+"="+value)
	}
	return env, nil
}

// field is what the downward API gives for a path.
func field(p *v1.Pod, path string) (string, error) {
	switch path {
	case "metadata.name":
		return p.Name, nil
	case "metadata.namespace":
		return p.Namespace, nil
	case "spec.nodeName":
		return p.Spec.NodeName, nil
	case "status.podIP":
		return p.Status.PodIP, nil
	}
	return "", fmt.Errorf("no field %s is known here: %s", path, strings.Join([]string{"metadata.name", "metadata.namespace", "spec.nodeName", "status.podIP"}, ", "))
}
