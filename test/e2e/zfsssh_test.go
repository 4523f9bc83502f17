//go:build system

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/sshd"
)

// farHost is a host with datasets, reached over ssh by an address that can go away.
type farHost struct {
	*sshd.Server
	address string // of sshd itself
	way     *harness.Forwarder
	known   string // file with its key
}

// farHost binds the key to the script that lets only Berth's commands through, below parent.
func (s *site) farHost(parent string) *farHost {
	s.t.Helper()
	repository, err := harness.Repository()
	s.must(err)
	dir := s.t.TempDir()
	server, err := sshd.Start(sshd.Options{Dir: dir, Command: filepath.Join(repository, "deploy/zfs-server/berth-zfs") + " " + parent})
	s.must(err)
	s.t.Cleanup(func() {
		server.Close()
		if s.t.Failed() {
			s.t.Logf("sshd says:\n%s", server.Log())
		}
	})
	o := server.SSH()
	h := &farHost{Server: server, address: fmt.Sprintf("%s:%d", o.Host, o.Port), known: filepath.Join(dir, "known")}
	h.way, err = harness.Forward("127.0.0.1:0", h.address)
	s.must(err)
	s.t.Cleanup(func() { h.way.Close() })
	key, err := os.ReadFile(o.KnownHosts)
	s.must(err)
	_, port, err := net.SplitHostPort(h.way.Addr().String())
	s.must(err)
	s.must(os.WriteFile(h.known, []byte(strings.Replace(string(key), fmt.Sprintf(":%d ", o.Port), ":"+port+" ", 1)), 0o600))
	s.options.Storage = fmt.Sprintf("zfs: {dataset: %s, volumeType: hostPath, node: far, ssh: {host: %s, port: %s, user: root, keyFile: %s, knownHosts: %s}}",
		parent, o.Host, port, o.KeyFile, h.known)
	s.options.Pool = "exporter: none"
	return h
}

// away cuts all connections and has nobody answer any more.
func (h *farHost) away() error {
	err := h.way.Close()
	h.Cut()
	return err
}

// back has it answer again.
func (h *farHost) back() (err error) {
	h.way, err = harness.Forward(h.way.Addr().String(), h.address)
	return err
}

// A host that is away keeps its own claims waiting, and nobody else's.
func TestDatasetsOverSSH(t *testing.T) {
	s := newSite(t, "far")
	parent := s.parentDataset("")
	s.zfs("create", parent)
	h := s.farHost(parent)
	s.options.Pool += fmt.Sprintf("\n  classes: [%[1]s]\n- {name: disk, provisioner: %[2]s, dir: {root: %[3]s}, classes: [%[1]s-disk]}", s.name, s.options.Provisioner, s.options.Root)
	s.class(s.name + "-disk")
	b := s.start()
	s.claim("data", ofSize("8Mi"))
	pv := s.bound("data")
	if pv.Spec.HostPath == nil || !strings.HasSuffix(pv.Spec.HostPath.Path, "/"+s.name+"/"+pv.Name) || !strings.Contains(pv.Spec.NodeAffinity.String(), "far") {
		t.Errorf("the PersistentVolume is %+v", pv.Spec)
	}
	if got := s.zfs("get", "-Hp", "-o", "value", "refquota", parent+"/"+pv.Name); got != "8388608" {
		t.Errorf("the dataset has refquota %q", got)
	}
	top, err := os.Stat(pv.Spec.HostPath.Path)
	if err != nil || top.Mode().Perm() != 0o777 {
		t.Errorf("the volume's directory is %v, error %v", top, err)
	}

	s.must(h.away())
	s.until("the pool is told to be away", func() bool {
		text, err := b.Metrics(t.Context())
		return err == nil && strings.Contains(text, `berth_pool_available{pool="local"} 0`)
	})
	s.claim("later")
	s.deleteClaim("data")
	s.claim("elsewhere", ofClass(s.name+"-disk"))
	s.bound("elsewhere")
	s.untilEvent(s.name, "later", "ProvisioningFailed", "local is not available")
	if !slices.Contains(s.below(parent), "/"+pv.Name) {
		t.Error("a volume is gone of which nobody could have known whether it is")
	}
	s.must(h.back())
	s.bound("later")
	s.volumeGone(pv.Name)
	s.until("its dataset is gone", func() bool { return len(s.below(parent)) == 2 })

	// With the lock of the host a second process gets nothing.
	o := s.second()
	o.Pool = "exporter: none"
	second := s.begin(o)
	s.until("the second process is told who has the datasets", func() bool { return strings.Contains(second.Log(), "another Berth has it open") })
	config, err := filepath.Glob(filepath.Join(s.options.Folder, "berth-*.yaml"))
	s.must(errors.Join(err, second.Stop()))
	var out struct{ Pools []struct{ Volumes []listed } }
	s.must(json.Unmarshal([]byte(s.command(s.options.Binary, "volumes", "--config", config[0], "-o", "json")), &out))
	if len(out.Pools) != 2 || len(out.Pools[0].Volumes) != 1 || out.Pools[0].Volumes[0].Claim != "later" {
		t.Errorf("berth volumes says %+v", out)
	}
	s.must(b.Stop())
}

// A host that shows another key than the known one gets no command, and the line to add is told.
func TestUnknownHostIsRefused(t *testing.T) {
	s := newSite(t, "unknown")
	parent := s.parentDataset("")
	h := s.farHost(parent)
	line, err := os.ReadFile(h.known)
	s.must(err)
	s.must(os.WriteFile(h.known, nil, 0o600))
	s.zfs("create", parent)
	b := s.begin(s.options)
	s.until("the line is told", func() bool { return strings.Contains(b.Log(), strings.TrimSpace(string(line))) })
	if left := s.below(parent); len(left) > 0 {
		t.Errorf("there are %q, so a command was run", left)
	}
	s.must(os.WriteFile(h.known, line, 0o600))
	s.bind("data")
}
