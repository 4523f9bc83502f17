//go:build system

package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/test/harness"
)

// Claims come and go while one instance is stopped for longer than its Lease lasts,
// in the middle of whatever it does, and the others are killed by turns.
func TestSeveralInstancesInAStorm(t *testing.T) {
	const (
		pause = 20 * time.Second // a Lease lasts 15
		wave  = 20               // claims
	)
	s := newSite(t, "several-storm")
	s.options.Config = "kubernetes: {kubeconfig: " + s.kubeconfig + ", scavengeAfter: 1s}\n"
	all := s.several("300m", "300m", "300m")
	s.must(harness.CreateClaims(t.Context(), s.client, s.name, "first", s.name, 3*wave))
	s.until("some claims are Bound", func() bool { return s.watch.Bound() > wave })
	s.must(syscall.Kill(all[0].PID, syscall.SIGSTOP))
	waves := 0
	for began := time.Now(); time.Since(began) < pause; waves++ {
		s.must(harness.CreateClaims(t.Context(), s.client, s.name, fmt.Sprintf("wave-%d", waves), s.name, wave))
		deleted := s.deleteEachThird()
		m := all[1+waves%2]
		s.must(killAll(m.Berth))
		m.Berth = m.site.start()
		t.Logf("%d claims made, %d deleted, and %s killed", wave, deleted, m.Root)
	}
	s.must(syscall.Kill(all[0].PID, syscall.SIGCONT))
	s.until("each claim is Bound and has one directory", func() bool {
		directories := 0
		for _, m := range all {
			directories += m.directories()
		}
		claims := len(s.watch.Claims())
		return claims == s.watch.Bound() && claims == s.countVolumes() && claims == directories
	})
	s.checkShares(all, len(s.watch.Claims()))
}

// deleteEachThird deletes a third of the claims, whatever state they are in.
func (s *site) deleteEachThird() (deleted int) {
	s.t.Helper()
	for i, claim := range s.watch.Claims() {
		if i%3 != 0 {
			continue
		}
		err := s.client.CoreV1().PersistentVolumeClaims(s.name).Delete(s.t.Context(), claim.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			s.t.Fatal(err)
		}
		deleted++
	}
	return deleted
}
