package kube

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"github.com/berth-storage/berth/internal/volume"
)

// cloning is a cluster with a claim that is bound to a volume of pool zfs, and another
// claim that wants a copy of it.
type cloning struct {
	copy, from *v1.PersistentVolumeClaim
	pv         *v1.PersistentVolume
	pool       *Pool
	volumes    *fakeVolumes
	others     []*Pool
}

func newCloning() *cloning {
	c := &cloning{copy: annotated("berth.storage/clone-from", "database"), from: newClaim()}
	c.from.Name, c.from.UID, c.from.Spec.VolumeName, c.from.Status.Phase = "database", "5eed", "pvc-5eed", v1.ClaimBound
	c.pool, c.volumes = newZFSPool("zfs")
	c.pv = newVolume("zfs", c.pool.Instance, "pvc-5eed")
	c.pv.Name = "pvc-5eed"
	c.pv.Spec.ClaimRef = &v1.ObjectReference{Namespace: "team", Name: "database", UID: "5eed"}
	c.pv.Spec.Capacity = v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")}
	return c
}

// provision asks for the copy; absent are those of the objects that the cluster lacks.
func (c *cloning) provision(t *testing.T, absent ...runtime.Object) (controller.ProvisioningState, error) {
	t.Helper()
	objects := []runtime.Object{c.copy}
	for _, o := range []runtime.Object{c.from, c.pv} {
		if len(absent) == 0 || absent[0] != o {
			objects = append(objects, o)
		}
	}
	p := newProvisioner(newClient(objects...), append([]*Pool{c.pool}, c.others...)...)
	_, state, err := p.Provision(t.Context(), options(c.copy, newClass()))
	return state, err
}

func (c *cloning) asDataSource() {
	c.copy.Annotations = nil
	c.copy.Spec.DataSource = &v1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "database"}
	c.copy.Spec.DataSourceRef = &v1.TypedObjectReference{Kind: "PersistentVolumeClaim", Name: "database"}
}

func TestClones(t *testing.T) {
	for how, change := range map[string]func(*cloning){
		"clone-from":             func(*cloning) {},
		"pvmanager's clone-from": func(c *cloning) { c.copy = annotated("pvmanager.wimsey.us/clone-from", "database") },
		"dataSource":             (*cloning).asDataSource,
		"both": func(c *cloning) {
			c.asDataSource()
			c.copy.Annotations = annotated("berth.storage/clone-from", "database").Annotations
		},
		"the pool of the source of two for the class": func(c *cloning) {
			c.copy.Annotations["berth.storage/blocksize"] = "4K"
			first, _ := newZFSPool("first")
			c.others = []*Pool{first}
			first.Classes, c.pool.Classes = []string{"berth"}, []string{"berth"}
		},
	} {
		c := newCloning()
		change(c)
		if _, err := c.provision(t); err != nil {
			t.Errorf("%s: %v", how, err)
			continue
		}
		if len(c.volumes.created) != 1 || c.volumes.created[0].From == nil || *c.volumes.created[0].From != (volume.Source{Volume: parseName(t, "pvc-5eed")}) {
			t.Errorf("%s: made %+v", how, c.volumes.created)
		}
	}
}

// Each row of the page's table is tried.
func TestClonesThatAreRefused(t *testing.T) {
	cases := map[string]struct {
		change func(*cloning)
		absent func(*cloning) runtime.Object
		want   string // in the error
	}{
		"does not exist":          {nil, func(c *cloning) runtime.Object { return c.from }, `claim "database" of namespace team does not exist`},
		"is of another namespace": {func(c *cloning) { c.from.Namespace = "other" }, nil, "does not exist"},
		"is being deleted":        {func(c *cloning) { beingDeleted(c.from) }, nil, "is being deleted"},
		"is not bound yet":        {func(c *cloning) { c.from.Spec.VolumeName, c.from.Status.Phase = "", v1.ClaimPending }, nil, "is not bound to a volume yet"},
		"is bound to a PersistentVolume that is another claim's": {func(c *cloning) { c.pv.Spec.ClaimRef.UID = "other" }, nil, "is not the one that PersistentVolume pvc-5eed is bound to"},
		"has a volume that Berth did not make":                   {func(c *cloning) { c.pv.Annotations = nil }, nil, "in no pool of this Berth"},
		"has its volume in another pool than the class of this one": {func(c *cloning) {
			other, _ := newZFSPool("other")
			other.Classes, c.pool.Classes = []string{"berth"}, []string{"archive"}
			c.others = []*Pool{other}
		}, nil, ""},
		"has its volume in a pool that cannot clone": {func(c *cloning) {
			c.pool.ZFS = nil
			c.volumes.fail = fmt.Errorf("%w: pool zfs cannot clone volumes", volume.ErrUnsupported)
		}, nil, "pool zfs cannot clone volumes"},
		"has more bytes than this one asks for, and is its `dataSource`": {func(c *cloning) {
			c.asDataSource()
			c.pv.Spec.Capacity[v1.ResourceStorage] = resource.MustParse("2Gi")
		}, nil, "a copy cannot be smaller"},
		"has more bytes than this one asks for, and is its `clone-from`": {func(c *cloning) {
			c.pv.Spec.Capacity[v1.ResourceStorage] = resource.MustParse("2Gi")
		}, nil, ""},
	}
	for _, row := range docsTable(t, "zfs.md", "| the other claim | answer |") {
		test, found := cases[row[0]+strings.Repeat("`", strings.Count(row[0], "`")%2)]
		if !found {
			t.Errorf("the row %v is not tested", row)
			continue
		}
		c := newCloning()
		if test.change != nil {
			test.change(c)
		}
		var absent []runtime.Object
		if test.absent != nil {
			absent = append(absent, test.absent(c))
		}
		state, err := c.provision(t, absent...)
		answer := "copied"
		switch {
		case errors.Is(err, volume.ErrBusy) && state == controller.ProvisioningNoChange:
			answer = "waits"
		case err != nil && state == controller.ProvisioningFinished:
			answer = "refused"
		case err != nil:
			answer = string(state)
		}
		if answer != row[1] || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %s, error %v; want %s with %q", row[0], answer, err, row[1], test.want)
		}
		for _, s := range c.volumes.created {
			if s.From == nil {
				t.Errorf("%s: an empty volume was asked for", row[0])
			}
		}
	}
}

// A class of two pools, of which neither has the source: the first one with room gets the copy. What was begun
// there is gone on with there, also when the source's claim is gone.
func TestCopiesFromAnotherPool(t *testing.T) {
	c := newCloning()
	c.asDataSource()
	full, fullVolumes := newZFSPool("full")
	other, made := newZFSPool("other")
	fullVolumes.fail = fmt.Errorf("%w: pool full", volume.ErrNoSpace)
	for _, p := range []*Pool{full, other} {
		p.Classes = []string{"berth"}
	}
	c.pool.Classes = []string{"archive"}
	c.others = []*Pool{full, other}
	if _, err := c.provision(t); err != nil {
		t.Fatal(err)
	}
	want := volume.Source{Pool: "zfs", Volume: parseName(t, "pvc-5eed")}
	for _, v := range []*fakeVolumes{fullVolumes, made} {
		if len(v.created) != 1 || v.created[0].From == nil || *v.created[0].From != want {
			t.Errorf("asked for %+v, want one of %+v", v.created, want)
		}
	}
	if len(c.volumes.created) > 0 {
		t.Errorf("the source's pool was asked for %+v", c.volumes.created)
	}
	begun := volume.New(made.created[0], time.Now())
	made.begun = map[string]volume.Volume{begun.Name.String(): begun}
	if _, err := c.provision(t, c.from); err != nil {
		t.Fatal(err)
	}
	if len(fullVolumes.created) != 1 || len(made.created) != 2 || *made.created[1].From != want {
		t.Errorf("gone on with as %+v, elsewhere %+v", made.created, fullVolumes.created)
	}
	c.pv.Spec.Capacity[v1.ResourceStorage] = resource.MustParse("2Gi")
	made.begun = nil
	if _, err := c.provision(t); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "a copy cannot be smaller") {
		t.Errorf("of a larger one: got error %v", err)
	}
}

func TestSourcesThatCannotBeHad(t *testing.T) {
	for name, change := range map[string]func(*v1.PersistentVolumeClaim){
		`dataSource: VolumeSnapshot "monday" of namespace team does not exist`: func(c *v1.PersistentVolumeClaim) {
			c.Spec.DataSource = &v1.TypedLocalObjectReference{APIGroup: new("snapshot.storage.k8s.io"), Kind: "VolumeSnapshot", Name: "monday"}
		},
		`dataSource PersistentVolumeClaim "x" cannot be copied`: func(c *v1.PersistentVolumeClaim) {
			c.Spec.DataSource = &v1.TypedLocalObjectReference{APIGroup: new("example.com"), Kind: "PersistentVolumeClaim", Name: "x"}
		},
		`dataSourceRef Backup "x" cannot be copied`: func(c *v1.PersistentVolumeClaim) {
			c.Spec.DataSourceRef = &v1.TypedObjectReference{Kind: "Backup", Name: "x"}
		},
		`dataSourceRef PersistentVolumeClaim "y" cannot be copied`: func(c *v1.PersistentVolumeClaim) {
			c.Spec.DataSourceRef = &v1.TypedObjectReference{Kind: "PersistentVolumeClaim", Name: "y", Namespace: new("other")}
		},
		"name different things": func(c *v1.PersistentVolumeClaim) {
			c.Annotations = annotated("berth.storage/clone-from", "a").Annotations
			c.Spec.DataSource = &v1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "b"}
		},
		"either a copy or restored": func(c *v1.PersistentVolumeClaim) {
			c.Annotations = annotated("berth.storage/clone-from", "a", AnnotationRestoreFrom, "pvc-old").Annotations
		},
		`"" is not another claim`: func(c *v1.PersistentVolumeClaim) {
			c.Annotations = annotated("berth.storage/clone-from", "").Annotations
		},
		`"data" is not another claim`: func(c *v1.PersistentVolumeClaim) {
			c.Annotations = annotated("berth.storage/clone-from", "data").Annotations
		},
	} {
		pool, volumes := newZFSPool("zfs")
		claim := newClaim()
		change(claim)
		_, state, err := newProvisioner(newClient(claim), pool).Provision(t.Context(), options(claim, newClass()))
		if err == nil || state != controller.ProvisioningFinished || !strings.Contains(err.Error(), name) || len(volumes.created) > 0 {
			t.Errorf("%s: got state %s, error %v, made %v", name, state, err, volumes.created)
		}
	}
}

// Whoever cannot be asked has not said that there is none.
func TestClonesWhileTheAPIServerIsAway(t *testing.T) {
	for _, resource := range []string{"persistentvolumeclaims", "persistentvolumes"} {
		c := newCloning()
		client := newClient(c.copy, c.from, c.pv)
		failing(client, "get", resource)
		_, state, err := newProvisioner(client, c.pool).Provision(t.Context(), options(c.copy, newClass()))
		if !errors.Is(err, volume.ErrUnknown) || state == controller.ProvisioningFinished || len(c.volumes.created) > 0 {
			t.Errorf("without %s: got state %s, error %v, made %v", resource, state, err, c.volumes.created)
		}
	}
}

// A run was cut off after the clone was made; meanwhile its source was deleted.
func TestACloneThatWasBegunIsFinished(t *testing.T) {
	c := newCloning()
	c.volumes.begun = map[string]volume.Volume{volumeName: {Name: parseName(t, volumeName), ClonedFrom: parseName(t, "pvc-5eed")}}
	if _, err := c.provision(t, c.from); err != nil {
		t.Fatal(err)
	}
	if got := c.volumes.created[0].From; got == nil || got.Volume.String() != "pvc-5eed" {
		t.Errorf("asked for %+v", got)
	}
}

// The library asks once more for what goes on in the background.
func TestACopyEndsWithItsClaim(t *testing.T) {
	for name, gone := range map[string]func(*cloning, *fake.Clientset) error{
		"deleted": func(c *cloning, client *fake.Clientset) error {
			return client.CoreV1().PersistentVolumeClaims("team").Delete(t.Context(), c.copy.Name, metav1.DeleteOptions{})
		},
		"deleted, and its source": func(c *cloning, client *fake.Clientset) error {
			c.volumes.begun = map[string]volume.Volume{volumeName: {ClonedFrom: parseName(t, "pvc-5eed")}}
			claims := client.CoreV1().PersistentVolumeClaims("team")
			return errors.Join(claims.Delete(t.Context(), c.copy.Name, metav1.DeleteOptions{}), claims.Delete(t.Context(), c.from.Name, metav1.DeleteOptions{}))
		},
	} {
		c := newCloning()
		client := newClient(c.copy, c.from, c.pv)
		p := newProvisioner(client, c.pool)
		c.volumes.fail = volume.ErrPending
		_, state, err := p.Provision(t.Context(), options(c.copy, newClass()))
		if state != controller.ProvisioningInBackground || c.volumes.canceled != nil {
			t.Fatalf("%s: %s, %v, canceled %v", name, state, err, c.volumes.canceled)
		}
		if err := gone(c, client); err != nil {
			t.Fatal(err)
		}
		for _, want := range []controller.ProvisioningState{controller.ProvisioningInBackground, controller.ProvisioningFinished} {
			if _, state, err = p.Provision(t.Context(), options(c.copy, newClass())); state != want {
				t.Errorf("%s: %s, %v, want %s", name, state, err, want)
			}
			c.volumes.fail = nil // it ends
		}
		canceled := volumeName + " " + claimUID
		if len(c.volumes.created) != 1 || !slices.Equal(c.volumes.canceled, []string{canceled, canceled}) {
			t.Errorf("%s: %v, canceled %v", name, c.volumes.created, c.volumes.canceled)
		}
	}
}

// The source's volume is on the node of another instance: only that one can clone it.
func TestACloneIsMadeByTheInstanceOfItsSource(t *testing.T) {
	for _, acts := range []bool{true, false} {
		c := newCloning()
		c.pv.Annotations[annInstance] = "other"
		ownedBy("zfs-instance")(c.copy)
		client := newClient(c.copy, c.from, c.pv)
		p := newProvisioner(client, c.pool)
		if acts {
			p.taker.instances.see(leaseOf(t, instance{id: "zfs-instance", room: map[string]room{"zfs": {1, 1}}}, provisioned, "host", time.Now()))
			p.taker.instances.see(leaseOf(t, instance{id: "other", room: map[string]room{"zfs": {1, 1}}}, provisioned, "host", time.Now()))
		}
		_, _, err := p.Provision(t.Context(), options(c.copy, newClass()))
		want, owned := volume.ErrInvalid, "zfs-instance"
		if acts {
			want, owned = volume.ErrBusy, "other"
		}
		if !errors.Is(err, want) || owner(t, client) != owned || len(c.volumes.created) > 0 {
			t.Errorf("the other acts: %t: got error %v, the claim is %q's, made %v", acts, err, owner(t, client), c.volumes.created)
		}
	}
}
