//go:build system

package e2e

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/nfs4"
	"github.com/berth-storage/berth/test/tied"
)

// second is what another process for the same pool and address is started with.
func (s *site) second(args ...string) harness.Options {
	s.t.Helper()
	o := s.options
	o.Folder = newFolder(s.t)
	o.Args = args
	return o
}

func TestSecondProcessIsRefused(t *testing.T) {
	s := newSite(t, "second")
	b := s.start()
	pv := s.bind("data")
	o := s.second()
	other := s.begin(o)
	s.checkRefusal(other.Process, o.Root, fmt.Sprintf("process %d", b.PID), "--standby")

	s.must(s.mount().WriteFile(t.Context(), pv.Spec.NFS.Path+"/file", nil, 0o644))
	s.bind("afterwards") // the first one works on
}

// checkRefusal waits for the end of a process that must not start, and checks its
// exit status and last words.
func (s *site) checkRefusal(p *harness.Process, words ...string) {
	s.t.Helper()
	select {
	case <-p.Done():
	case <-time.After(patience):
		s.t.Errorf("process %d goes on:\n%s", p.PID, p.Log())
		return
	}
	exit, _ := errors.AsType[*exec.ExitError](p.Wait(s.t.Context()))
	if exit == nil || exit.ExitCode() != 1 {
		s.t.Errorf("it ended with %v, want exit status 1", exit)
	}
	last := lastLines(p.Log(), 1)
	if !containsAll(last, words) || !strings.HasPrefix(last, "berth: ") {
		s.t.Errorf("its last words are %q, want them to have %q", last, words)
	}
}

func TestStandbyTakesOver(t *testing.T) {
	const limit = 10 * time.Second // what the documentation promises
	s := newSite(t, "standby")
	first := s.start()
	pv := s.bind("data")
	c := s.mount()
	s.must(c.WriteFile(t.Context(), pv.Spec.NFS.Path+"/file", []byte("data"), 0o644))
	handle, err := c.FileHandle(t.Context(), pv.Spec.NFS.Path+"/file")
	s.must(err)

	second := s.begin(s.second("--standby"))
	s.until("the second process stands by", func() bool {
		return containsAll(second.Log(), []string{"standing by", fmt.Sprintf("process %d", first.PID)})
	})
	began := time.Now()
	s.must(killAll(first))
	s.until("NFS is served again", func() bool { return nfs4.Null(t.Context(), s.options.Address()) == nil })
	served := time.Since(began)
	s.bind("afterwards")
	t.Logf("NFS is served %.2f s after the kill, a new claim is Bound after %.2f s", served.Seconds(), time.Since(began).Seconds())
	if served > limit {
		t.Errorf("NFS was away for %s, more than %s", served, limit)
	}
	if _, err := c.StatHandle(t.Context(), handle); err != nil {
		t.Errorf("the file handle that a client had: %v", err)
	}
	if text, err := c.ReadFile(t.Context(), pv.Spec.NFS.Path+"/file"); err != nil || string(text) != "data" {
		t.Errorf("the file reads %q, %v", text, err)
	}
	s.must(second.Stop())
}

// A process that stands by can be stopped like any other.
func TestStandbyStops(t *testing.T) {
	s := newSite(t, "standing")
	s.start()
	second := s.begin(s.second("--standby"))
	s.until("the second process stands by", func() bool { return strings.Contains(second.Log(), "standing by") })
	if err := second.Stop(); err != nil {
		t.Errorf("SIGTERM: %v, want exit status 0", err)
	}
	s.bind("data")
}

func TestShutdownAndRestart(t *testing.T) {
	s := newSite(t, "shutdown")
	b := s.start()
	s.bindMany(5)
	c := s.mount()
	handles := s.handles(c)
	lease := s.lease()
	if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
		t.Errorf("nobody holds the Lease %s", lease.Name)
	}
	children := tied.Below(b.PID)
	if len(children) == 0 {
		t.Error("Berth runs no NFS server")
	}

	if err := b.Stop(); err != nil {
		t.Errorf("SIGTERM: %v, want exit status 0", err)
	}
	// Not later: whoever waits for Berth's end may unmount its pool then.
	if left := slices.DeleteFunc(children, func(pid int) bool { return !running(pid) }); len(left) > 0 {
		t.Errorf("processes %v outlive a Berth that ended in order", left)
	}
	if lease := s.lease(); lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity != "" {
		t.Errorf("the Lease is still held by %s", *lease.Spec.HolderIdentity)
	}

	s.start()
	for path, handle := range s.handles(c) {
		if !slices.Equal(handle, handles[path]) {
			t.Errorf("file handle of %s: %x, before the restart %x", path, handle, handles[path])
		}
	}
	for path, handle := range handles {
		if _, err := c.StatHandle(t.Context(), handle); err != nil {
			t.Errorf("the file handle that a client had of %s: %v", path, err)
		}
	}
	s.bind("afterwards")
}

// handles are the file handles of all volumes, by path.
func (s *site) handles(c *nfs4.Client) map[string][]byte {
	s.t.Helper()
	handles := map[string][]byte{}
	for _, pv := range s.listVolumes() {
		handle, err := c.FileHandle(s.t.Context(), pv.Spec.NFS.Path)
		s.must(err)
		handles[pv.Spec.NFS.Path] = handle
	}
	return handles
}

// lease is that of this site's Berth.
func (s *site) lease() *coordinationv1.Lease {
	s.t.Helper()
	leases, err := s.client.CoordinationV1().Leases("default").List(s.t.Context(), metav1.ListOptions{})
	s.must(err)
	i := slices.IndexFunc(leases.Items, func(l coordinationv1.Lease) bool {
		return strings.HasPrefix(l.Name, strings.NewReplacer("/", "-", ".", "-").Replace(s.options.Provisioner)+"-")
	})
	if i < 0 {
		s.t.Fatalf("there is no Lease of %s", s.options.Provisioner)
	}
	return &leases.Items[i]
}

// What Berth runs ends with it, however it ends: a server that nobody supervises
// would serve what the next Berth deletes.
func TestKilledBerthLeavesNoProcess(t *testing.T) {
	for name, start := range map[string]func(*site) *harness.Berth{
		"serve":           (*site).start,
		"nfs-provisioner": (*site).startDropIn,
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, "alone")
			b := start(s)
			children := tied.Below(b.PID)
			s.must(syscall.Kill(b.PID, syscall.SIGKILL))
			<-b.Done()
			s.must(awaitEnd(children))
		})
	}
}
