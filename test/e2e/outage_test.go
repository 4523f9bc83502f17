//go:build system

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/berth-storage/berth/test/cluster"
	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/nfs4"
)

// Without the API server NFS is served on, by a Berth that was there before and
// by one that is started meanwhile. It has a cluster to itself: after an outage
// the controller manager takes up to a minute to come back to its work.
func TestAPIServerAway(t *testing.T) {
	t.Parallel() // with others that mostly wait
	const outage = 20 * time.Second
	c, err := cluster.Start(t.Context(), cluster.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	client, err := harness.NewClient(c.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	steady, restarted := newSiteOn(t, c.Kubeconfig(), client, "steady"), newSiteOn(t, c.Kubeconfig(), client, "restarted")
	b, other := steady.start(), restarted.start()
	pv, otherPV := steady.bind("data"), restarted.bind("data")
	nfs, otherNFS := steady.mount(), restarted.mount()
	steady.must(otherNFS.WriteFile(t.Context(), otherPV.Spec.NFS.Path+"/file", []byte("data"), 0o644))

	steady.must(c.StopAPIServer(t.Context()))
	stopped := time.Now()
	restarted.must(killAll(other))
	restarted.start()
	if text, err := otherNFS.ReadFile(t.Context(), otherPV.Spec.NFS.Path+"/file"); err != nil || string(text) != "data" {
		t.Errorf("after a restart without the API server the file reads %q, %v", text, err)
	}
	rounds := steady.writeAndRead(nfs, pv.Spec.NFS.Path+"/file", stopped.Add(outage))
	t.Logf("%d rounds of write, sync and read in the outage", rounds)
	select {
	case <-b.Done():
		t.Error("Berth ended when the API server was away")
	default:
	}
	steady.must(c.StartAPIServer(t.Context()))
	back := time.Now()
	for _, s := range []*site{steady, restarted} {
		s.claim("afterwards", func(c *v1.PersistentVolumeClaim) {
			// The controller manager's word to the provisioner, which it gives late.
			c.Annotations = map[string]string{"volume.kubernetes.io/storage-provisioner": s.options.Provisioner}
		})
		s.until("Berth has made the volume", func() bool { return len(s.listVolumes()) == 2 })
	}
	t.Logf("new volumes are made %.1f s after the API server is back", time.Since(back).Seconds())
	steady.bound("afterwards")
	restarted.bound("afterwards")
	t.Logf("their claims are Bound %.1f s after it", time.Since(back).Seconds())
}

// writeAndRead appends to a file, syncs and reads back until the time comes.
func (s *site) writeAndRead(c *nfs4.Client, file string, until time.Time) (rounds int) {
	s.t.Helper()
	ctx, cancel := context.WithDeadline(s.t.Context(), until.Add(patience))
	defer cancel()
	f, err := c.Create(ctx, file, 0o644)
	s.must(err)
	var offset int64
	for ; time.Now().Before(until); rounds++ {
		text := fmt.Appendf(nil, "round %d\n", rounds)
		_, err := f.WriteAt(ctx, text, offset)
		s.must(err)
		s.must(f.Sync(ctx))
		got := make([]byte, len(text))
		_, err = f.ReadAt(ctx, got, offset)
		s.must(err)
		if !bytes.Equal(got, text) {
			s.t.Fatalf("%q is read, %q was written", got, text)
		}
		offset += int64(len(text))
		time.Sleep(20 * time.Millisecond) // the other tests' machine, too
	}
	s.must(f.Close(ctx))
	return rounds
}
