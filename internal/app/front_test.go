package app

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/kube"
	"github.com/berth-storage/berth/internal/volume"
)

// claims is a front end that serves until its context ends.
type claims struct {
	pools  []*kube.Pool
	served *[]string // names of the pools, those that are away in brackets
	fail   error
}

func (c claims) Run(ctx context.Context) error {
	text := ""
	for _, p := range c.pools {
		if _, gone := p.Volumes.(away); gone {
			text += "(" + p.Volumes.Pool() + ")"
		} else {
			text += p.Volumes.Pool()
		}
	}
	*c.served = append(*c.served, text)
	if c.fail != nil {
		return c.fail
	}
	<-ctx.Done()
	return nil
}

// there is a pool that is there.
type there struct{ kube.Volumes }

func (there) Pool() string { return "b" }

func TestAFrontEndBeginsAgainWithEachPoolThatComesOrGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &app{}
		var served []string
		f := newFront(func(pools []*kube.Pool) frontEnd { return claims{pools: pools, served: &served} })
		f.add(gonePool(a, "a", ""))
		f.add(gonePool(a, "b", ""))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.run(ctx) }()
		synctest.Wait()
		want := func(what string, want ...string) {
			t.Helper()
			synctest.Wait()
			if diff := cmp.Diff(want, served); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		want("without any pool")
		f.set(gonePool(a, "a", ""))
		want("still without any pool")
		f.set(&kube.Pool{Volumes: there{}, Instance: "1"})
		want("with one", "(a)b")
		f.set(gonePool(a, "b", "1"))
		want("which is away, and still this instance's", "(a)b", "(a)(b)")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestAFrontEndThatFailsIsTold(t *testing.T) {
	failed := errors.New("no Lease")
	f := newFront(func([]*kube.Pool) frontEnd { return claims{served: new([]string), fail: failed} })
	f.add(&kube.Pool{Volumes: there{}, Instance: "1"})
	if err := f.run(t.Context()); !errors.Is(err, failed) {
		t.Errorf("got error %v", err)
	}
}

func TestAPoolThatIsAwayRefuses(t *testing.T) {
	a := &app{}
	why := errors.New("no route to host")
	a.health.remote("nas", why)
	v := a.away("nas")
	_, err := v.Create(t.Context(), volume.Spec{})
	for what, err := range map[string]error{
		"Create": err, "Delete": v.Delete(t.Context(), volume.Name{}, ""), "MarkPublished": v.MarkPublished(t.Context(), volume.Name{}),
	} {
		if !errors.Is(err, volume.ErrBusy) || !errors.Is(err, why) {
			t.Errorf("%s: got error %v, want %v because of %v", what, err, volume.ErrBusy, why)
		}
	}
	if room, err := v.Room(t.Context()); err != nil || room.Free != 0 {
		t.Errorf("it has room: %+v, %v", room, err)
	}
}

func gonePool(a *app, name, identity string) *kube.Pool {
	return &kube.Pool{Volumes: a.away(name), Instance: identity}
}

// What the configuration says of a pool of datasets is what the front end goes by.
func TestFrontEndOfAPoolOfDatasets(t *testing.T) {
	c, err := config.Parse([]byte(`pools:
- name: tank
  provisioner: x/y
  classes: [basic]
  reclaimPolicy: Retain
  pvNameFormat: "{name}-{tag}"
  zfs:
    dataset: tank/k8s
    sizing: quota
    ssh: {host: nas, user: u, password: p, knownHosts: /h}
    server: 10.0.0.7
    volumeType: auto
    node: node-1
    keepSnapshots: true
    widenAccessModes: true
    claimAnnotations: [sync]`))
	if err != nil {
		t.Fatal(err)
	}
	p, err := frontPool(c.Pools[0], there{}, "1")
	if err != nil {
		t.Fatal(err)
	}
	want := &kube.ZFS{
		Dataset: "tank/k8s", Server: "10.0.0.7", Hosts: []string{"10.0.0.7", "nas"}, Sizing: volume.SizingQuota, Type: kube.VolumeAuto, Node: "node-1",
		Shares: true, KeepSnapshots: true, WidenAccessModes: true, ClaimAnnotations: []string{"sync"},
	}
	if diff := cmp.Diff(want, p.ZFS); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if p.PVNames == nil || p.ReclaimPolicy != "Retain" || !cmp.Equal(p.Classes, []string{"basic"}) {
		t.Errorf("got %+v", p)
	}
	c.Pools[0].ZFS.Node = ""
	if got := frontZFS(c.Pools[0]).Node; got != "nas" {
		t.Errorf("the node is %q, want the host", got)
	}
	c.Pools[0].Exporter = config.ExporterNone
	if z := frontZFS(c.Pools[0]); !z.LocalOnly || z.Shares {
		t.Errorf("without an exporter: %+v", z)
	}
}
