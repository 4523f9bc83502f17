//go:build system

package e2e

import (
	"testing"

	"github.com/berth-storage/berth/test/harness"
)

// With nfs-provisioner, kill -9 in the middle of 100 creations left 2 claims
// unbound for good, 2 directories and 2 exports behind.
func TestKilledInTheMiddle(t *testing.T) {
	const n = 100
	s := newSite(t, "killed")
	// Slow enough that the middle is a matter of seconds on any machine.
	s.options.Config = "kubernetes: {kubeconfig: " + s.kubeconfig + ", qps: 60, burst: 20}\n"
	b := s.start()

	s.must(harness.CreateClaims(t.Context(), s.client, s.name, "claim", s.name, n))
	for _, made := range []int{20, 50, 80} {
		s.until("many volumes are made", func() bool { return s.countRecords() >= made })
		s.must(killAll(b))
		if saved := len(s.listVolumes()); saved == n {
			t.Fatalf("all %d PersistentVolumes were saved before the kill: this shows nothing", saved)
		} else {
			have := s.contents()
			t.Logf("killed with %d records, %d directories, %d PersistentVolumes", len(have.records), len(have.volumes), saved)
		}
		b = s.start()
	}
	s.untilCount("all claims are Bound", n, s.watch.Bound)
	c := s.mount()
	s.checkOneToOne(c, n)

	s.deleteAllClaims()
	for _, left := range []int{80, 50, 20} {
		s.until("many volumes are deleted", func() bool { return s.countRecords() <= left })
		s.must(killAll(b))
		have := s.contents()
		if len(have.records) == 0 {
			t.Fatal("everything was deleted before the kill: this shows nothing")
		}
		t.Logf("killed with %d records and %d of discarded volumes, %d directories, %d in the trash",
			len(have.records), len(have.discarded), len(have.volumes), len(have.trash))
		b = s.start()
	}
	s.untilNothingIsLeft(c)
}
