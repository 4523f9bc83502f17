//go:build system

package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A pod that writes while the NFS server is killed and started again sees no error,
// and all that it has written is there; also what it writes after a pause longer than
// the grace period.
func TestServerRestartUnderAWritingPod(t *testing.T) {
	s := newSite(t, "restart")
	folder := s.claim("data")
	const lines = 40
	pod := s.pod("writer", "data", fmt.Sprintf(
		`set -e; exec >/mnt/log; for i in $(seq %d); do echo $i; sync /mnt/log; sleep 0.1; done; sleep 7; echo end`, lines))
	s.create(pod)
	written := func() int {
		text, err := os.ReadFile(filepath.Join(folder, "log"))
		if err != nil {
			return 0 // not yet made
		}
		return strings.Count(string(text), "\n")
	}
	s.until("the pod has written", func() bool { return written() > 5 })
	servers := s.berth.Children("ganesha.nfsd")
	if len(servers) != 1 {
		t.Fatalf("%d NFS servers run", len(servers))
	}
	s.must(syscall.Kill(servers[0], syscall.SIGKILL))
	if before := written(); before >= lines {
		t.Fatal("the pod had ended before the server was killed")
	}
	s.ends(pod, 0)
	if got := written(); got != lines+1 {
		t.Errorf("the pod has written %d lines of %d", got, lines+1)
	}
	s.clear("data")
}
