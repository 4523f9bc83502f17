//go:build system

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// A claim, its snapshot and the claim that was restored from that are deleted in each order. What is still there
// holds what it held, and at the end nothing is left.
func TestSnapshotsAreDeletedInAnyOrder(t *testing.T) { onEach(t, snapshotsInAnyOrder) }

func snapshotsInAnyOrder(s *site, on storage) {
	const source, snapshot, restored = "source", "snapshot", "restored"
	orders := [][]string{
		{source, snapshot, restored}, {source, restored, snapshot}, {snapshot, source, restored},
		{snapshot, restored, source}, {restored, source, snapshot}, {restored, snapshot, source},
	}
	s.startPools(on.pool)
	s.snapshots()
	name := func(what string, order int) string { return fmt.Sprint(what, order) }
	file := func(pv *v1.PersistentVolume) string { return filepath.Join(on.at(pv), "file") }
	volumes := map[string]*v1.PersistentVolume{} // of the claims that there are
	for i := range orders {
		s.claim(name(source, i), ofSize("16Mi"))
	}
	for i := range orders {
		pv := s.bound(name(source, i))
		volumes[name(source, i)] = pv
		s.must(os.WriteFile(file(pv), []byte(name("data", i)), 0o644))
		s.snapshot(name(snapshot, i), name(source, i), "")
	}
	for i := range orders {
		s.snapshotReady(name(snapshot, i))
		s.restore(name(restored, i), name(snapshot, i), "16Mi")
	}
	for i := range orders {
		volumes[name(restored, i)] = s.bound(name(restored, i))
	}

	for step := range orders[0] {
		var shared []*v1.PersistentVolume // with a source that goes now
		for i, order := range orders {
			if pv := volumes[name(restored, i)]; pv != nil && order[step] == source {
				shared = append(shared, pv)
			}
		}
		on.unused(func() {
			for i, order := range orders { // all at once
				if n := name(order[step], i); order[step] == snapshot {
					s.kubectl("delete", "--wait=false", "volumesnapshot", n)
				} else {
					s.deleteClaim(n)
				}
			}
			for i, order := range orders {
				if n := name(order[step], i); order[step] == snapshot {
					s.kubectl("wait", "--for=delete", "--timeout="+patience.String(), "volumesnapshot/"+n)
				} else {
					s.volumeGone(volumes[n].Name)
					delete(volumes, n)
				}
			}
		}, shared...)
		for i, order := range orders {
			for _, what := range []string{source, restored} {
				pv := volumes[name(what, i)]
				if pv == nil {
					continue
				}
				if got, err := os.ReadFile(file(pv)); err != nil || string(got) != name("data", i) {
					s.t.Errorf("after %v the %s holds %q, want %q; %v", order[:step+1], what, got, name("data", i), err)
				}
			}
		}
	}
	on.empty()
}
