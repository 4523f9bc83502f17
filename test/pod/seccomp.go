package pod

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
)

// defaultProfile is the one that CRI-O and Podman have for RuntimeDefault; containerd's
// was made from the same one. It is in a package that buildah needs.
const defaultProfile = "/usr/share/containers/seccomp.json"

// profile is the format of that file, which says for which capabilities a rule holds.
type profile struct {
	DefaultAction   string `json:"defaultAction"`
	DefaultErrnoRet *uint  `json:"defaultErrnoRet"`
	ArchMap         []struct {
		Architecture     string   `json:"architecture"`
		SubArchitectures []string `json:"subArchitectures"`
	} `json:"archMap"`
	Syscalls []struct {
		syscallRule
		Includes condition `json:"includes"`
		Excludes condition `json:"excludes"`
	} `json:"syscalls"`
}

type condition struct {
	Caps   []string `json:"caps"`
	Arches []string `json:"arches"`
}

// seccomp is what runc takes.
type seccomp struct {
	DefaultAction   string        `json:"defaultAction"`
	DefaultErrnoRet *uint         `json:"defaultErrnoRet,omitempty"`
	Architectures   []string      `json:"architectures"`
	Syscalls        []syscallRule `json:"syscalls"`
}

type syscallRule struct {
	Names    []string          `json:"names"`
	Action   string            `json:"action"`
	ErrnoRet *uint             `json:"errnoRet,omitempty"`
	Args     []json.RawMessage `json:"args,omitempty"`
}

// architectures are the kernel's names of Go's.
var architectures = map[string]string{"amd64": "SCMP_ARCH_X86_64", "arm64": "SCMP_ARCH_AARCH64"}

// runtimeDefault is the seccomp filter of a container with these capabilities.
func runtimeDefault(capabilities []string) (*seccomp, error) {
	text, err := os.ReadFile(defaultProfile)
	if err != nil {
		return nil, err
	}
	var p profile
	if err := json.Unmarshal(text, &p); err != nil {
		return nil, fmt.Errorf("%s: %w", defaultProfile, err)
	}
	s := &seccomp{DefaultAction: p.DefaultAction, DefaultErrnoRet: p.DefaultErrnoRet}
	for _, a := range p.ArchMap {
		if a.Architecture == architectures[runtime.GOARCH] {
			s.Architectures = append([]string{a.Architecture}, a.SubArchitectures...)
		}
	}
	has := func(c string) bool { return slices.Contains(capabilities, c) }
	here := func(a string) bool { return a == runtime.GOARCH }
	for _, r := range p.Syscalls {
		lacks := slices.ContainsFunc(r.Includes.Caps, func(c string) bool { return !has(c) })
		elsewhere := len(r.Includes.Arches) > 0 && !slices.ContainsFunc(r.Includes.Arches, here)
		if lacks || elsewhere || slices.ContainsFunc(r.Excludes.Caps, has) || slices.ContainsFunc(r.Excludes.Arches, here) {
			continue
		}
		s.Syscalls = append(s.Syscalls, r.syscallRule)
	}
	return s, nil
}
