package kube

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/zfsproperty"
)

// newZFSPool makes a pool of datasets on node zfs-1, whose volumes are fake.
func newZFSPool(name string) (*Pool, *fakeVolumes) {
	pool, volumes := newPool(name)
	pool.ZFS = &ZFS{
		Dataset: "tank/" + name, Server: "nas.example.com", Hosts: []string{"nas.example.com", "10.0.0.7"}, Node: "zfs-1", Shares: true,
		ClaimAnnotations: zfsproperty.UsualAnnotations(),
	}
	volumes.made = func(v *volume.Volume) { v.Dir = "/tank/" + v.Name.String() }
	return pool, volumes
}

func classWith(parameters map[string]string) *storagev1.StorageClass {
	class := newClass()
	class.Parameters = parameters
	return class
}

// provision has a new provisioner of pools make a volume for a claim, and gives its
// PersistentVolume.
func provision(t *testing.T, claim *v1.PersistentVolumeClaim, class *storagev1.StorageClass, pools ...*Pool) *v1.PersistentVolume {
	t.Helper()
	pv, state, err := newProvisioner(newClient(claim), pools...).Provision(t.Context(), options(claim, class))
	if err != nil || state != controller.ProvisioningFinished {
		t.Fatalf("got state %s, %v", state, err)
	}
	return pv
}

func asked(modes ...v1.PersistentVolumeAccessMode) *v1.PersistentVolumeClaim {
	claim := newClaim()
	claim.Spec.AccessModes = modes
	return claim
}

func annotated(annotations ...string) *v1.PersistentVolumeClaim {
	claim := newClaim()
	claim.Annotations = map[string]string{}
	for pair := range slices.Chunk(annotations, 2) {
		claim.Annotations[pair[0]] = pair[1]
	}
	return claim
}

func TestParametersOfZFSPools(t *testing.T) {
	pool, _ := newZFSPool("zfs")
	pool.ZFS.KeepSnapshots = true
	got, err := parseParameters(map[string]string{
		"parentDataset": "tank/zfs", "hostname": "10.0.0.7", "Type": "Auto", "node": "zfs-2", "shareProperties": "rw=@10.0.0.0/8,no_root_squash",
		"reserveSpace": "FALSE", "destroySnapshots": "true", "blocksize": "16K", "COMPRESSION": "ZSTD-3", "zfs-provisioner-count": "3",
	}, pool)
	if err != nil {
		t.Fatal(err)
	}
	want := volume.Settings{
		Properties: map[string]string{"recordsize": "16384", "compression": "zstd-3"}, Sizing: volume.SizingQuota, Share: "rw=@10.0.0.0/8,no_root_squash",
	}
	if diff := cmp.Diff(want, got.settings); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	if got.volumeType != VolumeAuto || got.node != "zfs-2" || got.server != "10.0.0.7" {
		t.Errorf("got %+v", got)
	}
	got, err = parseParameters(nil, pool)
	if err != nil || got.volumeType != VolumeNFS || got.node != "zfs-1" || got.server != "nas.example.com" || !got.settings.KeepSnapshots || got.settings.Properties != nil {
		t.Errorf("got %+v, %v; want the pool's defaults", got, err)
	}
}

func TestParametersOfZFSPoolsThatAreRefused(t *testing.T) {
	for _, c := range []struct{ key, value, want string }{
		{"type", "iscsi", `type: "iscsi" is not nfs, hostPath, local or auto`},
		{"type", "", `type: "" is not nfs`},
		{"hostname", "nas;reboot", "is not the name or IP address of an NFS server"},
		{"node", "zfs_1/x", "is not the label kubernetes.io/hostname of a node"},
		{"shareProperties", "", "is not options of the property sharenfs"},
		{"shareProperties", "rw='x'", "is not options of the property sharenfs"},
		{"shareProperties", "rw\nno_root_squash", "is not options of the property sharenfs"},
		{"shareProperties", "off", "nobody could mount the volume"},
		{"reserveSpace", "yes", `"yes" is not true or false`},
		{"destroySnapshots", "", `"" is not true or false`},
		{"blocksize", "3K", `blocksize: "3K" is not a value of recordsize: a power of two from 512 to 1M`},
		{"sync", "never", "is not a value of sync: standard, always, disabled"},
	} {
		pool, _ := newZFSPool("zfs")
		_, err := parseParameters(map[string]string{c.key: c.value}, pool)
		if !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s=%q: got error %v, want an ErrInvalid with %q", c.key, c.value, err, c.want)
		}
	}
	pool, _ := newPool("local")
	for _, key := range []string{"parentDataset", "type", "node", "reserveSpace", "compression"} {
		_, err := parseParameters(map[string]string{key: "x"}, pool)
		if !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "the volumes of pool local are not ZFS datasets") {
			t.Errorf("%s for a pool of directories: got error %v", key, err)
		}
	}
	pool, _ = newZFSPool("zfs")
	pool.ZFS.Shares = false
	if _, err := parseParameters(map[string]string{"shareProperties": "on"}, pool); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "are not exported by ZFS") {
		t.Errorf("shareProperties where Ganesha exports: got error %v", err)
	}
	if p, err := parseParameters(map[string]string{"shareProperties": "on", "type": "hostPath"}, pool); err != nil || p.settings.Share != "" {
		t.Errorf("shareProperties of a class without NFS: got %q, %v", p.settings.Share, err)
	}
	pool.ZFS.LocalOnly = true
	for _, kind := range []string{"nfs", "auto"} {
		if _, err := parseParameters(map[string]string{"type": kind}, pool); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "exports nothing: say hostPath or local") {
			t.Errorf("type %s of a pool without NFS: got error %v", kind, err)
		}
	}
}

// What the page of ZFS says is so, row by row: here of the type of PersistentVolumes.
func TestTypesOfPersistentVolumes(t *testing.T) {
	for _, row := range docsTable(t, "zfs.md", "| `type` | class: `volumeBindingMode` | claim: `accessModes` | node of its pod | PersistentVolume |") {
		pool, volumes := newZFSPool("zfs")
		class := classWith(map[string]string{"type": row[0]})
		class.VolumeBindingMode = new(storagev1.VolumeBindingMode(row[1]))
		claim := asked(v1.PersistentVolumeAccessMode(row[2]))
		o := options(claim, class)
		o.SelectedNodeName = row[3]
		pv, _, err := newProvisioner(newClient(claim), pool).Provision(t.Context(), o)
		if err != nil {
			t.Errorf("%v: %v", row, err)
			continue
		}
		got := ""
		switch at := "/tank/" + pv.Name; {
		case pv.Spec.NFS != nil && pv.Spec.NFS.Server == "nas.example.com" && pv.Spec.NFS.Path == "/exports/"+pv.Name && pv.Spec.NodeAffinity == nil:
			got = "nfs"
		case pv.Spec.HostPath != nil && pv.Spec.HostPath.Path == at && *pv.Spec.HostPath.Type == v1.HostPathDirectory:
			got = "hostPath"
		case pv.Spec.Local != nil && pv.Spec.Local.Path == at:
			got = "local"
		}
		if mounts := pv.Spec.MountOptions; (mounts == nil) != (got != "nfs") {
			t.Errorf("%v: the mount options are %v", row, mounts)
		}
		if a := pv.Spec.NodeAffinity; a != nil {
			e := a.Required.NodeSelectorTerms[0].MatchExpressions[0]
			if e.Key != "kubernetes.io/hostname" || e.Operator != v1.NodeSelectorOpIn {
				t.Errorf("%v: the node affinity is %+v", row, e)
			}
			got += "` on `" + strings.Join(e.Values, " ")
		}
		if got != row[4] {
			t.Errorf("%v: got %s: %+v", row, got, pv.Spec.PersistentVolumeSource)
		}
		private := strings.EqualFold(row[0], "hostPath") || strings.EqualFold(row[0], "local")
		if share := volumes.created[0].Settings.Share; (share == "off") != private || share != "" && !private {
			t.Errorf("%v: the dataset is shared with %q", row, share)
		}
	}
}

// A volume that the pod could not use where it is scheduled is not made.
func TestPodsOnOtherNodes(t *testing.T) {
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "10.0.0.1", Labels: map[string]string{"kubernetes.io/hostname": "zfs-1"}}}
	for _, c := range []struct {
		kind, chosen, other string // other is the node of another instance
		want                controller.ProvisioningState
		owner               string
	}{
		{"local", "zfs-1", "zfs-2", controller.ProvisioningFinished, "zfs-instance"},
		{"local", "10.0.0.1", "zfs-2", controller.ProvisioningFinished, "zfs-instance"}, // is what is called so
		{"local", "", "zfs-2", controller.ProvisioningFinished, "zfs-instance"},
		{"nfs", "zfs-2", "zfs-2", controller.ProvisioningFinished, "zfs-instance"},
		{"auto", "zfs-2", "zfs-2", controller.ProvisioningFinished, "zfs-instance"},
		{"local", "zfs-2", "zfs-2", controller.ProvisioningNoChange, "other"},
		{"hostPath", "zfs-2", "zfs-3", controller.ProvisioningReschedule, "zfs-instance"},
	} {
		pool, volumes := newZFSPool("zfs")
		class := classWith(map[string]string{"type": c.kind})
		class.VolumeBindingMode = new(storagev1.VolumeBindingWaitForFirstConsumer)
		claim := annotated(annInstance, "zfs-instance")
		client := newClient(claim, node)
		p := newProvisioner(client, pool)
		for id, on := range map[string]string{"zfs-instance": "zfs-1", "other": c.other} {
			p.taker.instances.see(leaseOf(t, instance{id: id, node: on, room: map[string]room{"zfs": {1, 1}}}, provisioned, "host", time.Now()))
		}
		o := options(claim, class)
		o.SelectedNodeName = c.chosen
		_, state, err := p.Provision(t.Context(), o)
		made := c.want == controller.ProvisioningFinished
		if state != c.want || (err == nil) != made || (len(volumes.created) == 1) != made || owner(t, client) != c.owner {
			t.Errorf("%+v: got state %s, error %v, made %v, the claim is %q's", c, state, err, volumes.created, owner(t, client))
		}
		if c.want == controller.ProvisioningReschedule && !strings.Contains(err.Error(), "only pods on node zfs-1 can use a volume of type hostPath") {
			t.Errorf("got error %v", err)
		}
	}
}

// A fork of kubernetes-zfs-provisioner has the group of volumes among the mount options.
func TestGroupAmongMountOptions(t *testing.T) {
	for _, c := range []struct {
		options []string
		mode    string
		want    []string
		owner   volume.Owner
	}{
		{[]string{"hard", "gid=5000", "nolock"}, "", []string{"hard", "nolock"}, volume.Owner{UID: 1, GID: 5000, Mode: 0o2771}},
		{[]string{"gid=5000"}, "0750", []string{}, volume.Owner{UID: 1, GID: 5000, Mode: 0o750}},
		{[]string{"hard"}, "", []string{"hard"}, volume.Owner{UID: 1, GID: 2, Mode: 0o2770}},
	} {
		pool, volumes := newZFSPool("zfs")
		class := newClass()
		class.MountOptions = c.options
		if c.mode != "" {
			class.Parameters = map[string]string{"mode": c.mode}
		}
		pv := provision(t, newClaim(), class, pool)
		if !slices.Equal(pv.Spec.MountOptions, c.want) || volumes.created[0].Owner != c.owner {
			t.Errorf("%v: got %v and %+v", c.options, pv.Spec.MountOptions, volumes.created[0].Owner)
		}
	}
	pool, _ := newZFSPool("zfs")
	class := newClass()
	class.MountOptions = []string{"gid=staff"}
	if _, _, err := newProvisioner(newClient(newClaim()), pool).Provision(t.Context(), options(newClaim(), class)); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "mount option gid=staff") {
		t.Errorf("a group by name: got error %v", err)
	}
	local, _ := newPool("local")
	class.MountOptions = []string{"gid=5"}
	if pv := provision(t, newClaim(), class, local); !slices.Equal(pv.Spec.MountOptions, []string{"gid=5"}) {
		t.Errorf("of a pool of directories they are %v", pv.Spec.MountOptions)
	}
}

// Without a configured node it is the class's host, or the one that this instance runs on.
func TestNodeThatHasTheVolume(t *testing.T) {
	for _, c := range []struct{ parameter, hostname, own, want string }{
		{"", "", "own", "own"}, {"", "host", "own", "host"}, {"node", "host", "own", "node"}, {"", "", "", ""},
	} {
		pool, volumes := newZFSPool("zfs")
		pool.ZFS.Node, pool.ZFS.Hosts = "", nil
		class := classWith(map[string]string{"type": "local"})
		if c.parameter != "" {
			class.Parameters["node"] = c.parameter
		}
		if c.hostname != "" {
			class.Parameters["hostname"] = c.hostname
		}
		p := newProvisioner(newClient(newClaim()), pool)
		p.node = c.own
		pv, _, err := p.Provision(t.Context(), options(newClaim(), class))
		if c.want == "" {
			if !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "needs the node that has pool zfs") || len(volumes.created) > 0 {
				t.Errorf("%+v: got error %v, made %v", c, err, volumes.created)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values; !slices.Equal(got, []string{c.want}) {
			t.Errorf("%+v: got %v", c, got)
		}
	}
}

func TestAccessModes(t *testing.T) {
	for _, row := range docsTable(t, "zfs.md", "| `zfs.widenAccessModes` | type | claim: `accessModes` | PersistentVolume: `accessModes` |") {
		pool, _ := newZFSPool("zfs")
		pool.ZFS.WidenAccessModes = row[0] == "true"
		pv := provision(t, asked(v1.PersistentVolumeAccessMode(row[2])), classWith(map[string]string{"type": row[1]}), pool)
		var got []string
		for _, mode := range pv.Spec.AccessModes {
			got = append(got, string(mode))
		}
		if want := strings.Split(row[3], "` `"); !slices.Equal(got, want) {
			t.Errorf("%v: got %v", row, got)
		}
	}
}

func TestSizings(t *testing.T) {
	for _, row := range docsTable(t, "zfs.md", "| pool: `zfs.sizing` | class: `reserveSpace` | `sizing` of the volume |") {
		pool, volumes := newZFSPool("zfs")
		pool.ZFS.Sizing = volume.Sizing(row[0])
		class := newClass()
		if row[1] != "" {
			class.Parameters = map[string]string{"reserveSpace": row[1]}
		}
		provision(t, newClaim(), class, pool)
		got := volumes.created[0].Settings.Sizing
		if got == "" {
			got = pool.ZFS.Sizing
		}
		if string(got) != row[2] {
			t.Errorf("%v: got %s", row, got)
		}
	}
}

func TestReclaimPolicies(t *testing.T) {
	for _, row := range docsTable(t, "zfs.md", "| claim: `reclaim-policy` | pool: `reclaimPolicy` | class: `reclaimPolicy` | PersistentVolume |") {
		pool, volumes := newZFSPool("zfs")
		pool.ZFS.ClaimAnnotations, pool.ReclaimPolicy = zfsproperty.Annotations(), row[1]
		claim, class := newClaim(), newClass()
		if row[0] != "" {
			claim.Annotations = map[string]string{"pvmanager.wimsey.us/reclaim-policy": row[0]}
		}
		if row[2] != "" {
			class.ReclaimPolicy = new(v1.PersistentVolumeReclaimPolicy(row[2]))
		}
		pv, _, err := newProvisioner(newClient(claim), pool).Provision(t.Context(), options(claim, class))
		if row[3] == "refused" {
			if !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "pvmanager.wimsey.us/reclaim-policy") ||
				!strings.Contains(err.Error(), "Delete") || !strings.Contains(err.Error(), "Retain") || len(volumes.created) > 0 {
				t.Errorf("%v: got error %v", row, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%v: %v", row, err)
			continue
		}
		if got := pv.Spec.PersistentVolumeReclaimPolicy; string(got) != row[3] || string(volumes.created[0].Reclaim) != strings.ToLower(row[3]) {
			t.Errorf("%v: got %s, and of the volume %s", row, got, volumes.created[0].Reclaim)
		}
	}
}

func TestPropertiesAreDocumented(t *testing.T) {
	const yes, no = "usually", "if the pool lets them"
	var want [][]string
	usual := func(name string) string {
		if slices.Contains(zfsproperty.UsualAnnotations(), name) {
			return yes
		}
		return no
	}
	for _, p := range zfsproperty.All() {
		want = append(want, []string{p.Name, p.ZFS, p.Allowed(), usual(p.Name)})
	}
	want = append(want, []string{zfsproperty.ReclaimPolicy, "", "Delete, Retain", no}, []string{zfsproperty.CloneFrom, "", "the name of a claim", yes})
	if diff := cmp.Diff(want, docsTable(t, "zfs.md", "| name | property | values | claims may use it |")); diff != "" {
		t.Errorf("docs/zfs.md (-code +page):\n%s", diff)
	}
}
