package kube

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"

	"github.com/berth-storage/berth/internal/nameformat"
	"github.com/berth-storage/berth/internal/volume"
)

func TestPoolsOfAClass(t *testing.T) {
	pool := func(name string, change func(*Pool)) *Pool {
		p, _ := newZFSPool(name)
		change(p)
		return p
	}
	one := pool("one", func(p *Pool) { p.Classes = []string{"basic"} })
	two := pool("two", func(p *Pool) { p.Classes = []string{"gold", "basic"} })
	three := pool("three", func(*Pool) {})
	twin := pool("twin", func(p *Pool) { p.ZFS.Dataset, p.ZFS.Hosts = "tank/three", []string{"elsewhere"} })
	local, _ := newPool("local")
	all := []*Pool{one, two, three}
	for _, c := range []struct {
		class string
		given map[string]string
		pools []*Pool
		want  string // names, or what is in the error
	}{
		{"basic", nil, all, "one two"},
		{"gold", nil, all, "two"},
		{"other", nil, all, "three"},
		{"basic", map[string]string{"pool": "three"}, all, "three"},
		{"basic", map[string]string{"pool": "two,one, two"}, all, "two one"},
		{"basic", map[string]string{"pool": "elsewhere, one"}, all, "one"},
		{"basic", map[string]string{"POOL": "elsewhere"}, all, `there is no pool "elsewhere"`},
		{"other", nil, []*Pool{one, two}, "no pool serves StorageClass other: the pools one, two name the classes that they serve"},
		{"other", nil, append(all, local), `by the parameter "pool": three, local`},
		{"other", map[string]string{"parentDataset": "tank/two"}, []*Pool{one, two, local}, "no pool serves StorageClass other: the pools two"},
		{"gold", map[string]string{"parentDataset": "tank/two"}, append(all, local), "two"},
		{"other", map[string]string{"parentdataset": "tank/three"}, append(all, local), "three"},
		{"other", map[string]string{"parentDataset": "tank/three", "hostname": "ELSEWHERE"}, []*Pool{three, twin}, "twin"},
		{"other", map[string]string{"parentDataset": "tank/three", "hostname": "10.0.0.7"}, []*Pool{three, twin}, "three"},
		{"other", map[string]string{"parentDataset": "tank/three"}, []*Pool{three, twin}, `by the parameter "pool": three, twin`},
		{"other", map[string]string{"parentDataset": "tank/three", "hostname": "nowhere"}, []*Pool{three, twin}, `hostname: "nowhere" is not the host of a pool with parent dataset tank/three`},
		{"other", map[string]string{"parentDataset": "tank/thre"}, all, `parentDataset: "tank/thre" is no pool's, did you mean "tank/three"?`},
		{"other", map[string]string{"parentDataset": "tank"}, []*Pool{local}, "no pool here is of ZFS datasets"},
	} {
		class := classWith(c.given)
		class.Name = c.class
		got, err := poolsFor(class, c.pools)
		if text := strings.Join(namesOf(got), " "); err == nil && text != c.want || err != nil && (!errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("class %s with %v: got %q, %v; want %q", c.class, c.given, text, err, c.want)
		}
	}
}

// The next pool is tried only when it is certain that the one before has made nothing.
func TestPoolsAreTriedInOrder(t *testing.T) {
	full := fmt.Errorf("%w: it is full", volume.ErrNoSpace)
	away := fmt.Errorf("%w: the pool is not available", volume.ErrBusy)
	for _, c := range []struct {
		first, second error
		want          string
		made          [2]int
	}{
		{nil, nil, "one", [2]int{1, 0}},
		{full, nil, "two", [2]int{1, 1}},
		{full, full, "", [2]int{1, 1}},
		{away, nil, "", [2]int{1, 0}},
		{volume.ErrUnknown, nil, "", [2]int{1, 0}},
		{full, volume.ErrUnknown, "", [2]int{1, 1}},
	} {
		one, first := newZFSPool("one")
		two, second := newZFSPool("two")
		first.fail, second.fail = c.first, c.second
		one.Classes, two.Classes = []string{"berth"}, []string{"berth"}
		two.ReclaimPolicy = "Retain"
		pv, _, err := newProvisioner(newClient(newClaim()), one, two).Provision(t.Context(), options(newClaim(), newClass()))
		switch {
		case len(first.created) != c.made[0] || len(second.created) != c.made[1]:
			t.Errorf("%v, %v: asked for %d and %d volumes", c.first, c.second, len(first.created), len(second.created))
		case c.want == "":
			if last := c.first; pv != nil || !errors.Is(err, last) && !errors.Is(err, c.second) {
				t.Errorf("%v, %v: got %v, error %v", c.first, c.second, pv, err)
			}
		case err != nil || pv.Labels[labelPool] != c.want || pv.Annotations[annInstance] != c.want+"-instance":
			t.Errorf("%v, %v: got %v, error %v", c.first, c.second, pv, err)
		case (pv.Spec.PersistentVolumeReclaimPolicy == v1.PersistentVolumeReclaimRetain) != (c.want == "two"):
			t.Errorf("the policy is %s in pool %s", pv.Spec.PersistentVolumeReclaimPolicy, c.want)
		}
	}
}

// The library looks for the PersistentVolume under the name that Provision will give it.
func TestNamesOfPersistentVolumes(t *testing.T) {
	f, err := nameformat.Parse("{class}-{namespace}-{name}-{tag}")
	if err != nil {
		t.Fatal(err)
	}
	pool, volumes := newZFSPool("zfs")
	claim, class := newClaim(), newClass()
	claim.Spec.StorageClassName = &class.Name
	classes := informers.NewSharedInformerFactory(newClient(), 0).Storage().V1().StorageClasses()
	if err := classes.Informer().GetStore().Add(class); err != nil {
		t.Fatal(err)
	}
	n := namer{classes.Lister(), []*Pool{pool}}
	for _, want := range []string{volumeName, "berth-team-data-" + claimUID} {
		pv := provision(t, claim, class, pool)
		if got := n.name(claim); got != want || pv.Name != want || pv.Annotations[annVolume] != "zfs/"+want {
			t.Errorf("the library is told %s, the PersistentVolume is %s; want %s", got, pv.Name, want)
		}
		if made := volumes.created[len(volumes.created)-1].Name.String(); made != want {
			t.Errorf("the volume is %s, want %s", made, want)
		}
		if err := newProvisioner(newClient(), pool).Delete(t.Context(), pv); err != nil || !slices.Contains(volumes.deleted, want+" "+clusterUID) {
			t.Errorf("deleting it: %v; deleted %v", err, volumes.deleted)
		}
		pool.PVNames = &f
	}
	claim.Name = strings.Repeat("x", 250)
	if _, _, err := newProvisioner(newClient(claim), pool).Provision(t.Context(), options(claim, class)); !errors.Is(err, volume.ErrInvalid) ||
		!strings.Contains(err.Error(), "choose a shorter name for the claim") {
		t.Errorf("a long name: got error %v", err)
	}
	if got := n.name(claim); got != volumeName {
		t.Errorf("the library is told %s for a name that is too long", got)
	}
	unknown := "gone"
	claim.Spec.StorageClassName = &unknown
	if got := n.name(claim); got != volumeName {
		t.Errorf("the library is told %s for a class that is gone", got)
	}
}
