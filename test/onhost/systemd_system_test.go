//go:build system

package onhost

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-storage/berth/test/harness"
)

// confined runs a program with what systemd.exec(5) says that these settings leave to it:
// ProtectSystem=strict, ProtectKernelTunables and PrivateTmp, but for the folders in its
// second argument; NoNewPrivileges, and the CapabilityBoundingSet of the first.
const confined = `
caps=$1 writable=$2
shift 2
for dir in /proc/sys /proc/fs /proc/irq /sys $writable; do [ ! -e "$dir" ] || mount --rbind "$dir" "$dir"; done
mount -t tmpfs tmpfs /tmp
cut -d ' ' -f 2 /proc/self/mounts | sort -u | while read -r dir; do
	case $dir in /proc | /dev | /dev/* | /tmp) continue ;; esac
	for w in $writable; do case $dir/ in "$w"/*) continue 2 ;; esac; done
	mount -o remount,bind,ro "$dir"
done
exec setpriv --no-new-privs --bounding-set "-all,$caps" "$@"`

// underSystemd starts Berth with what a unit leaves to it; there is no systemd on the host.
func (s *site) underSystemd(unit map[string]string) *berth {
	s.t.Helper()
	for _, setting := range []string{"ProtectSystem=strict", "ProtectKernelTunables=true", "PrivateTmp=true", "NoNewPrivileges=true"} {
		if key, value, _ := strings.Cut(setting, "="); unit[key] != value {
			s.t.Fatalf("the unit has %s=%s, and is run with %s", key, unit[key], setting)
		}
	}
	writable := strings.Fields(unit["ReadWritePaths"])
	for name := range strings.FieldsSeq(unit["ConfigurationDirectory"]) {
		s.sh(`mkdir -p "$1"`, filepath.Join("/etc", name))
	}
	for name := range strings.FieldsSeq(unit["RuntimeDirectory"]) {
		s.sh(`mkdir -p "$1"`, filepath.Join("/run", name))
		writable = append(writable, filepath.Join("/run", name))
	}
	var caps []string
	for name := range strings.FieldsSeq(unit["CapabilityBoundingSet"]) {
		caps = append(caps, "+"+strings.ToLower(strings.TrimPrefix(name, "CAP_")))
	}
	return s.start(slices.Concat(
		[]string{"unshare", "--mount", "--propagation", "private", "sh", "-ec", confined, "sh", strings.Join(caps, ","), strings.Join(writable, " ")},
		strings.Fields(unit["ExecStart"]),
	)...)
}

// Berth uses the kernel's server with what the unit and its drop-in leave it, and by the
// configuration that the page shows.
func TestKernelUnderSystemd(t *testing.T) {
	s := newSite(t, "systemd")
	const service, dropIn = "../../deploy/systemd/berth.service", "../../deploy/systemd/berth-kernel.conf"
	sample, err := os.ReadFile("../../docs/samples/kernel.yaml")
	s.must(err)
	config := strings.NewReplacer("example.com/nfs", s.provisioner, "10.0.0.0/8", s.Address, "nfs.example.com", s.Address).Replace(string(sample))
	config += "http: {listen: \"" + s.Address + ":" + httpPort + "\"}\n"
	s.must(os.WriteFile(filepath.Join(s.Shared, "kernel.yaml"), []byte(config), 0o600))
	s.sh(`mkdir -p /etc/berth /srv/berth; cp "$1" /etc/berth/kubeconfig; cp /host/kernel.yaml /etc/berth/berth.yaml; : >/etc/exports`, kubeconfig)
	s.startKernel()

	unit, err := harness.Unit(service)
	s.must(err)
	alone := s.underSystemd(unit)
	s.until("Berth finds that the unit alone is not enough", func() bool { return strings.Contains(alone.text(), "read-only file system") })
	alone.kill()

	unit, err = harness.Unit(service, dropIn)
	s.must(err)
	b := s.underSystemd(unit)
	b.untilReady()
	pv := s.claim("data", s.name)
	dir := s.mount(pv, "vers=4.2")
	s.sh(`echo data >"$1/file"; sync -f "$1/file"`, dir)
	if got := s.sh(`cat "$1/file"`, pv.Spec.NFS.Path); got != "data\n" {
		t.Errorf("on disk there is %q", got)
	}
	// What somebody else takes away, Berth brings back.
	s.sh(`exportfs -au`)
	s.until("the volume is exported again", func() bool { return strings.Contains(s.sh(`exportfs -s`), pv.Name) })
	s.deleteClaim("data", pv)
	if out, err := s.Run(s.ctx, "ls", dir); err == nil {
		t.Errorf("a deleted volume is still there: %s", out)
	}
}
