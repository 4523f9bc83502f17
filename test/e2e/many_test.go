//go:build system

package e2e

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/nfs4"
)

func TestTwoHundredClaimsAtOnce(t *testing.T) {
	const n = 200
	s := newSite(t, "many")
	b := s.start()
	began := time.Now()
	s.bindMany(n)
	t.Logf("%d claims are Bound after %.1f s", n, time.Since(began).Seconds())
	c := s.mount()
	s.checkOneToOne(c, n)

	s.killServerUnderLookups(b, c)

	began = time.Now()
	s.deleteAllClaims()
	s.untilNothingIsLeft(c)
	t.Logf("%d claims and their data are gone after %.1f s", n, time.Since(began).Seconds())
}

// killServerUnderLookups kills Ganesha and looks every volume up as soon as the
// port answers again. A client that finds an export missing at that moment has
// lost it: NFS4ERR_STALE is for good.
func (s *site) killServerUnderLookups(b *harness.Berth, old *nfs4.Client) {
	s.t.Helper()
	handles := s.handles(old)
	before := s.serverProcess(b, "ganesha.nfsd")
	began := time.Now()
	s.must(syscall.Kill(before, syscall.SIGKILL))
	s.must(awaitEnd([]int{before}))

	fresh := s.firstConnection()
	s.t.Logf("NFS is back %.2f s after the server was killed, with %d exports", time.Since(began).Seconds(), len(handles))
	for path, handle := range handles {
		if got, err := fresh.FileHandle(s.t.Context(), path); err != nil || !slices.Equal(got, handle) {
			s.t.Errorf("%s after the restart: file handle %x, %v; before: %x", path, got, err, handle)
		}
		if _, err := old.StatHandle(s.t.Context(), handle); err != nil {
			s.t.Errorf("the file handle that a client had of %s: %v", path, err)
		}
	}
	s.newServerProcess(b, before)
}

// newServerProcess waits until b's Ganesha is another process than the one before.
func (s *site) newServerProcess(b *harness.Berth, before int) {
	s.t.Helper()
	s.until("Ganesha is another process", func() bool {
		pids := b.Children("ganesha.nfsd")
		return len(pids) == 1 && pids[0] != before
	})
}

// firstConnection mounts the server at the first moment that it can be had.
func (s *site) firstConnection() *nfs4.Client {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		c, err := nfs4.Dial(s.t.Context(), s.options.Address(), nfs4.Options{Soft: true, Timeout: 10 * time.Second})
		if err == nil {
			s.t.Cleanup(func() { s.must(c.Close()) })
			return c
		}
		if time.Now().After(deadline) {
			s.must(fmt.Errorf("the server does not come back: %w", err))
		}
	}
}

// serverProcess gives the id of the one process of that name that b runs.
func (s *site) serverProcess(b *harness.Berth, name string) int {
	s.t.Helper()
	pids := b.Children(name)
	if len(pids) != 1 {
		s.t.Fatalf("processes %s of Berth: %v, want one", name, pids)
	}
	return pids[0]
}
