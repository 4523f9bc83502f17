//go:build system

package share

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-storage/berth/test/vm"
)

// A server that stops to answer in the middle of things, and comes back.
func TestAServerThatHangs(t *testing.T) {
	s := startKernel(t, "no_root_squash")
	type way struct{ name, begin, end string }
	// Nothing comes back, not even that nobody is there.
	cut := way{"its network is cut", `iptables-legacy -I INPUT -p tcp --dport 2049 -j DROP`, `iptables-legacy -D INPUT -p tcp --dport 2049 -j DROP`}
	down := way{"its service is down", `rpc.nfsd 0`, `rpc.nfsd --grace-time 10 --lease-time 10 4; echo Y >/proc/fs/nfsd/v4_end_grace`}
	for _, c := range []struct {
		way
		mount string
	}{
		{cut, "vers=4.2,hard"}, {cut, "vers=4.2,softerr,timeo=10,retrans=1"}, {cut, "vers=3,hard"}, {cut, "vers=3,soft,timeo=10,retrans=1"},
		{down, "vers=4.2,hard"}, {down, "vers=4.0"}, {down, "vers=3"},
	} {
		t.Run(c.name+", "+c.mount, func(t *testing.T) { hangs(t, s, strings.Split(c.mount, ","), c.begin, c.end) })
	}
}

func hangs(t *testing.T, s *server, mount []string, hang, comeBack string) {
	path := s.newShare(t)
	w := startWorker(t, "", task{Server: s.address, Path: path, Root: vm.NewFolder(t) + "/mounted", MountOptions: mount})
	w.await(t, "serving ")
	w.do(t, "create before")
	vm.Sh(t, hang)
	// One that is begun before anybody knows, and one after.
	w.order(t, "create during")
	w.await(t, "away: the share "+s.address+":"+path)
	w.order(t, "create after")
	if line := w.await(t, "failed create after"); !strings.Contains(line, "volume is busy: the share "+s.address+":"+path) {
		t.Errorf("it says %q", line)
	}
	vm.Sh(t, comeBack)
	w.await(t, "available")
	for _, order := range []string{"create during", "create after", "delete before"} {
		w.do(t, order)
	}
	w.await(t, "purged")
	for name, want := range map[string]bool{"before": false, "during": true, "after": true} {
		if _, err := os.Stat(filepath.Join(path, name)); (err == nil) != want {
			t.Errorf("on the server's disk, %s: %v", name, err)
		}
	}
	// And the end, while it hangs again.
	vm.Sh(t, hang)
	defer vm.Sh(t, comeBack)
	w.order(t, "create never")
	w.stop(t)
}
