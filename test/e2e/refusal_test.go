//go:build system

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/berth-storage/berth/test/harness"
)

// What is wrong with the configuration or the host is said at once, with what to
// do about it, and Berth ends with exit status 1.
func TestRefusesToStart(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*site) // nil: nothing
		words []string
	}{
		"missing root": {
			spoil: func(s *site) { s.must(os.RemoveAll(s.options.Root)) },
			words: []string{"does not exist", "mkdir -p"},
		},
		"root is a file": {
			spoil: func(s *site) {
				s.must(os.Remove(s.options.Root))
				s.must(os.WriteFile(s.options.Root, nil, 0o600))
			},
			words: []string{"pool root", "not a directory"},
		},
		"port taken": {
			spoil: (*site).takePort,
			words: []string{"port", "taken by another process"},
		},
		"unknown key": {
			spoil: func(s *site) { s.options.Config = "kubernets: {workers: 4}\n" },
			words: []string{`unknown key "kubernets"`, "did you mean", "kubernetes"},
		},
		"invalid value": {
			spoil: func(s *site) { s.options.Ganesha = "gracePeriod: 4h" },
			words: []string{"ganesha.gracePeriod", "0s to 180s"},
		},
		"no kubeconfig outside of a pod": {
			spoil: func(s *site) { s.options.Config = "kubernetes: {workers: 4}\n" },
			words: []string{"no API server", "outside of a pod", "kubeconfig"},
		},
		"missing kubeconfig": {
			spoil: func(s *site) { s.options.Kubeconfig = filepath.Join(s.options.Folder, "nowhere") },
			words: []string{"kubeconfig", "nowhere", "no such file"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, "refused")
			c.spoil(s)
			s.checkRefusal(s.begin(s.options).Process, c.words...)
		})
	}
}

// takePort listens at the port that Berth is to serve NFS on.
func (s *site) takePort() {
	s.t.Helper()
	l, err := net.Listen("tcp", s.options.Address())
	s.must(err)
	s.t.Cleanup(func() { s.must(l.Close()) })
}

func TestRefusesFlags(t *testing.T) {
	for name, c := range map[string]struct {
		args  []string
		words []string
	}{
		"server without Ganesha":       {[]string{"-use-ganesha=false"}, []string{"-run-server", "-use-ganesha"}},
		"grace period without server":  {[]string{"-run-server=false", "-grace-period=10"}, []string{"-grace-period", "-run-server", "-use-ganesha"}},
		"grace period without Ganesha": {[]string{"--run-server=false", "--use-ganesha=false", "--grace-period=10"}, []string{"-grace-period"}},
		"grace period too long":        {[]string{"-grace-period=181"}, []string{"-grace-period=181", "180"}},
		"unknown flag":                 {[]string{"-provisionr=example.com/nfs"}, []string{"-provisionr", "did you mean", "provisioner"}},
		"argument":                     {[]string{"-provisioner", "example.com/nfs", "/export"}, []string{"unexpected argument", "/export"}},
		"bad provisioner":              {[]string{"-provisioner=example.com/n/f/s"}, []string{"example.com/n/f/s"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, "flags")
			p, err := harness.Start(filepath.Join(s.options.Folder, "berth.log"), shared.binary, append([]string{"nfs-provisioner"}, c.args...)...)
			s.must(err)
			t.Cleanup(p.Kill)
			s.checkRefusal(p, c.words...)
		})
	}
}

// Overlay file systems give no file handles, which NFS needs.
func TestRefusesOverlay(t *testing.T) {
	s := newSite(t, "overlay")
	layers := t.TempDir()
	for _, folder := range []string{"lower", "upper", "work"} {
		s.must(os.Mkdir(filepath.Join(layers, folder), 0o755))
	}
	s.mounted(fmt.Sprintf("mount -t overlay overlay -o lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work %[2]s", layers, s.options.Root))
	s.checkRefusal(s.begin(s.options).Process, s.options.Root, "no file handles", "overlay")
}

func TestRefusesWithoutPrograms(t *testing.T) {
	for program, want := range map[string]string{"ganesha.nfsd": "nfs-ganesha", "dbus-daemon": "dbus"} {
		t.Run(program, func(t *testing.T) {
			s := newSite(t, "missing")
			path, err := exec.LookPath(program)
			s.must(err)
			// A file that cannot be executed, over the program, for this Berth only.
			empty := filepath.Join(t.TempDir(), "empty")
			s.must(os.WriteFile(empty, nil, 0o600))
			s.mounted(fmt.Sprintf("mount --bind %s %s", empty, path))
			s.checkRefusal(s.begin(s.options).Process, program+" is not installed", "apt-get install "+want)
		})
	}
}

// mounted has Berth see a mount that nobody else sees, and that is gone with it.
func (s *site) mounted(mount string) {
	s.t.Helper()
	script := fmt.Sprintf("#!/bin/sh\nexec unshare --mount sh -ec '%s; exec %s \"$@\"' sh \"$@\"\n", mount, s.options.Binary)
	s.options.Binary = filepath.Join(s.options.Folder, "berth-with-mount")
	s.must(os.WriteFile(s.options.Binary, []byte(script), 0o755))
}
