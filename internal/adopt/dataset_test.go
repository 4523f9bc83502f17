package adopt

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/volume"
)

const (
	parent  = "tank/volumes"
	zfsHost = "nas.example.com"
	uuid1   = "6b2f9c1e-0a4d-4b7e-9d55-3c8a0f1e2d01"
	uuid2   = "6b2f9c1e-0a4d-4b7e-9d55-3c8a0f1e2d02"
)

// pool stands for a parent dataset: what lies below it, and the records there.
type pool struct {
	found   map[string]volume.Found // by the last element
	foreign []string                // what cannot be a volume
	records []volume.Volume
	changed string // what has vanished when it is to be adopted
}

func (p *pool) List(context.Context) iter.Seq2[volume.Volume, error] {
	return func(yield func(volume.Volume, error) bool) {
		for _, v := range p.records {
			if !yield(v, nil) {
				return
			}
		}
	}
}

func (p *pool) Look(_ context.Context, at volume.RelPath) (volume.Found, error) {
	found, has := p.found[at.String()]
	switch {
	case slices.Contains(p.foreign, at.String()):
		return found, fmt.Errorf("%w: it is a zvol", volume.ErrForeign)
	case !has:
		return found, fmt.Errorf("%w: dataset does not exist", volume.ErrNotFound)
	}
	return found, nil
}

func (p *pool) Folders(context.Context) (names []string, err error) {
	for name := range p.found {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

func (p *pool) Adopt(_ context.Context, v volume.Volume) (volume.Volume, error) {
	if v.Path.String() == p.changed {
		return v, fmt.Errorf("%w: it has vanished", volume.ErrNotFound)
	}
	p.records = append(p.records, v)
	return v, nil
}

// provisioned is what kubernetes-zfs-provisioner leaves of a claim.
func provisioned(p *pool, n int) PV {
	name := fmt.Sprintf("pvc-%d", n)
	p.found[name] = volume.Found{Dir: "/" + parent + "/" + name, Properties: map[string]string{"refquota": "1048576", "refreservation": "1048576"}}
	pv := newPV(n)
	pv.Server, pv.Path, pv.Identity, pv.ExportID, pv.ExportBlock = zfsHost, "/"+parent+"/"+name, "", "", ""
	pv.Annotations = map[string]string{"kubernetes.io/createdby": "zfs-provisioner"}
	return pv
}

// managed is what openshift-pvmanager leaves of one.
func managed(p *pool, name, uuid string) PV {
	p.found[uuid] = volume.Found{Dir: "/exports/basic/" + uuid, Properties: map[string]string{"quota": "1048576", "pvmanager:pvref": name, "origin": "-"}}
	pv := newPV(1)
	pv.Name, pv.Server, pv.Path, pv.Identity, pv.ExportID, pv.ExportBlock = name, zfsHost, "/exports/basic/"+uuid, "", "", ""
	pv.Reclaim = volume.ReclaimRetain
	pv.Annotations = map[string]string{
		"managed-by": "pvmanager.wimsey.us", "pvmanager.wimsey.us/volume-uuid": uuid, "pvmanager.wimsey.us/nfs-path": parent + "/" + uuid,
	}
	return pv
}

func newPool() *pool { return &pool{found: map[string]volume.Found{}} }

func fromProvisioner() Datasets {
	return Datasets{Of: ZFSProvisioner, Parent: parent, Names: []string{zfsHost}, Provisioner: "gentics.com/zfs"}
}

func fromPVManager() Datasets {
	return Datasets{Of: PVManager, Parent: parent, Names: []string{zfsHost}, Provisioner: PVManagerProvisioner, Reclaim: volume.ReclaimDelete}
}

func TestAdoptingDatasets(t *testing.T) {
	p := newPool()
	gentics, fork, successor, own := provisioned(p, 1), provisioned(p, 2), provisioned(p, 3), provisioned(p, 4)
	// The fork's are of one node.
	fork.NodePath, fork.Server, fork.Path, fork.Node, fork.Reclaim = fork.Path, "", "", "node-1", volume.ReclaimRetain
	fork.Annotations["zfs-provisioner-id"] = "gentics.com-zfs-node-1"
	successor.Annotations = map[string]string{
		"zfs.pv.kubernetes.io/zfs-dataset-path": parent + "/pvc-3", "zfs.pv.kubernetes.io/zfs-host": zfsHost,
		"zfs.pv.kubernetes.io/destroy-snapshots": "false", "zfs.pv.kubernetes.io/reserve-space": "false",
	}
	p.found["pvc-3"].Properties["io.kubernetes.pv.zfs:managed_by"] = "gentics.com/zfs"
	p.found["pvc-3"].Properties["refreservation"] = "0"
	own.Annotations["zfs.pv.kubernetes.io/destroy-snapshots"] = "whatever" // which destroys, as with the program
	p.found["home"] = volume.Found{Dir: "/home"}
	p.found["pvc-1"].Properties["sharenfs"] = "off" // which pods cannot have mounted
	p.found["pvc-3"].Properties["sharenfs"] = "rw=@192.168.0.0/16"
	from := fromProvisioner()
	from.KeepSnapshots = true
	pvs := []PV{gentics, fork, successor, own}
	r, err := Run(t.Context(), p, from, pvs, Options{Cluster: "cluster-1"})
	wantSummary(t, r, err, "pvc-1 adopt", "pvc-2 adopt", "pvc-3 adopt", "pvc-4 adopt", "home unclaimed")
	type part struct {
		Name, Path, Export string
		Sizing             volume.Sizing
		Keep               bool
		Reclaim            volume.Reclaim
		Share              string
	}
	var got []part
	for _, v := range p.records {
		got = append(got, part{v.Name.String(), v.Path.String(), v.Export.Path, v.Sizing, v.KeepSnapshots, v.Reclaim, v.Share})
		if v.Origin != "zfs-provisioner" || v.State != volume.StateReady || !v.Published || v.Cluster != "cluster-1" || v.Size != 1<<20 || v.Claim.Namespace != "team" {
			t.Errorf("the record is %+v", v)
		}
	}
	if diff := cmp.Diff([]part{
		{"pvc-1", "pvc-1", "/tank/volumes/pvc-1", volume.SizingBoth, true, volume.ReclaimDelete, ""},
		{"pvc-2", "pvc-2", "/tank/volumes/pvc-2", volume.SizingBoth, true, volume.ReclaimRetain, "off"},
		{"pvc-3", "pvc-3", "/tank/volumes/pvc-3", volume.SizingQuota, true, volume.ReclaimDelete, "rw=@192.168.0.0/16"},
		{"pvc-4", "pvc-4", "/tank/volumes/pvc-4", volume.SizingBoth, false, volume.ReclaimDelete, ""},
	}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	r, err = Run(t.Context(), p, from, pvs, Options{Cluster: "cluster-1"})
	wantSummary(t, r, err, "pvc-1 already", "pvc-2 already", "pvc-3 already", "pvc-4 already", "home unclaimed")
}

func TestAdoptingDatasetsOfPVManager(t *testing.T) {
	p := newPool()
	source, clone := managed(p, "basic-team-data-6b2f9c1e", uuid1), managed(p, "basic-team-copy-6b2f9c1e", uuid2)
	clone.Annotations["pvmanager.wimsey.us/reclaim-policy"] = "retain"
	p.found[uuid2].Properties["origin"] = parent + "/" + uuid1 + "@pvmanager-basic-team-copy-6b2f9c1e-20200102030405006"
	p.found[uuid2].Properties["quota"], p.found[uuid2].Properties["reservation"] = "0", "1048576"
	r, err := Run(t.Context(), p, fromPVManager(), []PV{source, clone}, Options{})
	wantSummary(t, r, err, clone.Name+" adopt", source.Name+" adopt")
	for i, want := range []struct {
		uuid, from string
		reclaim    volume.Reclaim
		sizing     volume.Sizing
	}{
		{uuid2, source.Name, volume.ReclaimRetain, volume.SizingReservation},
		{uuid1, "", volume.ReclaimDelete, volume.SizingQuota},
	} {
		if v := p.records[i]; v.Path.String() != want.uuid || v.ClonedFrom.String() != want.from || v.Reclaim != want.reclaim || v.Sizing != want.sizing ||
			v.Origin != "openshift-pvmanager" || v.Export.Path != "/exports/basic/"+want.uuid {
			t.Errorf("the record is %+v, want %+v", v, want)
		}
	}
	if len(r.Kept) != 0 {
		t.Errorf("kept are %v", r.Kept)
	}
}

// Its documentation says that it recycles nothing, and its program deleted instead.
func TestRecycledVolumesAreKept(t *testing.T) {
	p := newPool()
	pv := managed(p, "a", uuid1)
	pv.Annotations["pvmanager.wimsey.us/reclaim-policy"] = "Recycle"
	r, err := Run(t.Context(), p, fromPVManager(), []PV{pv}, Options{})
	wantSummary(t, r, err, "a adopt")
	if len(r.Kept) != 1 || !strings.Contains(r.Kept[0].String(), "Recycle") || p.records[0].Reclaim != volume.ReclaimRetain {
		t.Errorf("kept are %v, the record is %+v", r.Kept, p.records[0])
	}
}

func TestDatasetsThatAreLeftAlone(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(p *pool, pv *PV, from *Datasets)
		want   string // in what is said
		other  bool   // as another pool's
	}{
		{"nothing is mounted", func(_ *pool, pv *PV, _ *Datasets) { pv.Path = "" }, "neither mounted by NFS", false},
		{"missing", func(p *pool, _ *PV, _ *Datasets) { clear(p.found) }, "its dataset is missing", false},
		{"missing, of another name of the host", func(p *pool, pv *PV, from *Datasets) {
			clear(p.found)
			pv.Server, from.Names = "10.0.0.1", append(from.Names, "10.0.0.1")
		}, "its dataset is missing", false},
		{"of another host", func(p *pool, pv *PV, _ *Datasets) {
			clear(p.found)
			pv.Server = "other.example.com"
		}, "of host \"other.example.com\"", true},
		{"of another node", func(p *pool, pv *PV, _ *Datasets) {
			clear(p.found)
			pv.NodePath, pv.Node, pv.Path, pv.Server = pv.Path, "node-2", "", ""
		}, "of host \"node-2\"", true},
		{"of no host", func(p *pool, pv *PV, _ *Datasets) {
			clear(p.found)
			pv.NodePath, pv.Path, pv.Server = pv.Path, "", ""
		}, "if it is another host's", false},
		{"a zvol", func(p *pool, _ *PV, _ *Datasets) { p.foreign = []string{"pvc-1"} }, "it is a zvol", false},
		{"mounted elsewhere", func(_ *pool, pv *PV, _ *Datasets) { pv.Path = "/tank/volumes/pvc-2" }, "pods mount \"/tank/volumes/pvc-2\", but its dataset is mounted at /tank/volumes/pvc-1", false},
		{"another parent", func(_ *pool, pv *PV, _ *Datasets) {
			pv.Annotations["zfs.pv.kubernetes.io/zfs-dataset-path"] = "tank/fast/pvc-1"
		}, "not directly below tank/volumes", true},
		{"below another volume", func(_ *pool, pv *PV, _ *Datasets) {
			pv.Annotations["zfs.pv.kubernetes.io/zfs-dataset-path"] = parent + "/pvc-2/pvc-1"
		}, "not directly below", true},
		{"the parent itself", func(_ *pool, pv *PV, _ *Datasets) {
			pv.Annotations["zfs.pv.kubernetes.io/zfs-dataset-path"] = parent
		}, "not directly below", true},
		{"another dataset", func(p *pool, pv *PV, _ *Datasets) {
			provisioned(p, 2)
			pv.Annotations["zfs.pv.kubernetes.io/zfs-dataset-path"] = parent + "/pvc-2"
		}, "which has another name", false},
		{"another provisioner's", func(p *pool, _ *PV, _ *Datasets) {
			p.found["pvc-1"].Properties["io.kubernetes.pv.zfs:managed_by"] = "pv.kubernetes.io/zfs"
		}, "managed_by", true},
		{"mounted by hand too", func(_ *pool, pv *PV, from *Datasets) {
			from.Others = []PV{{Name: "by-hand", Server: "NAS.example.com", Path: pv.Path + "/"}, {Name: "elsewhere", Server: "other", Path: pv.Path}}
		}, "also that of PersistentVolume by-hand", false},
		{"no claim", func(_ *pool, pv *PV, _ *Datasets) { pv.Claim = volume.Claim{} }, "nobody's claim", false},
		{"no size", func(_ *pool, pv *PV, _ *Datasets) { pv.Size = 0 }, "not above 0", false},
		{"a name that is none", func(_ *pool, pv *PV, _ *Datasets) { pv.Name = ".." }, "not directly below", true},
		{"it vanishes", func(p *pool, _ *PV, _ *Datasets) { p.changed = "pvc-1" }, "stop what else works there", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, from := newPool(), fromProvisioner()
			pv := provisioned(p, 1)
			c.change(p, &pv, &from)
			r, err := Run(t.Context(), p, from, []PV{pv}, Options{})
			if err != nil || len(r.Left) != 1 || len(p.records) > 0 || !strings.Contains(r.Left[0].String(), c.want) || r.Left[0].Other() != c.other {
				t.Errorf("left alone are %v, error %v; records %v; want %q", r.Left, err, p.records, c.want)
			}
		})
	}
}

func TestDatasetsOfPVManagerThatAreLeftAlone(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(p *pool, pv *PV)
		want   string
		other  bool
	}{
		{"no uuid", func(_ *pool, pv *PV) { delete(pv.Annotations, "pvmanager.wimsey.us/volume-uuid") }, "not of one uuid", false},
		{"no dataset", func(_ *pool, pv *PV) { delete(pv.Annotations, "pvmanager.wimsey.us/nfs-path") }, "not directly below", true},
		{"two uuids", func(_ *pool, pv *PV) { pv.Annotations["pvmanager.wimsey.us/volume-uuid"] = uuid2 }, "not of one uuid", false},
		{"a path for a uuid", func(_ *pool, pv *PV) {
			pv.Annotations["pvmanager.wimsey.us/volume-uuid"], pv.Annotations["pvmanager.wimsey.us/nfs-path"] = "..", parent+"/x/.."
		}, "not directly below", true},
		{"another provider's", func(_ *pool, pv *PV) { pv.Annotations["pvmanager.wimsey.us/nfs-path"] = "tank/ssd/" + uuid1 }, "not directly below", true},
		{"another volume's dataset", func(p *pool, pv *PV) {
			managed(p, "b", uuid2)
			pv.Annotations["pvmanager.wimsey.us/volume-uuid"], pv.Annotations["pvmanager.wimsey.us/nfs-path"] = uuid2, parent+"/"+uuid2
		}, "zfs set pvmanager:pvref=a " + parent + "/" + uuid2, false},
		{"no reference", func(p *pool, _ *PV) { delete(p.found[uuid1].Properties, "pvmanager:pvref") }, "zfs set pvmanager:pvref=a", false},
		{"mounted elsewhere", func(_ *pool, pv *PV) { pv.Path = "/exports/other/" + uuid1 }, "is mounted at /exports/basic", false},
		{"Berth's already", func(p *pool, _ *PV) {
			v := volume.Volume{Name: parseName(t, "b")}
			v.Path, _ = volume.ParseRelPath(uuid1)
			p.records = []volume.Volume{v}
		}, "Berth's volume b", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPool()
			pv := managed(p, "a", uuid1)
			c.change(p, &pv)
			before := len(p.records)
			r, err := Run(t.Context(), p, fromPVManager(), []PV{pv}, Options{})
			if err != nil || len(r.Left) != 1 || len(p.records) > before || !strings.Contains(r.Left[0].String(), c.want) || r.Left[0].Other() != c.other {
				t.Errorf("left alone are %v, error %v; records %v; want %q", r.Left, err, p.records, c.want)
			}
		})
	}
}

func TestProgressOfAnAdoption(t *testing.T) {
	p := newPool()
	pvs := []PV{provisioned(p, 1), provisioned(p, 2), provisioned(p, 3)}
	pvs[1].Path = "/elsewhere"
	var got []string
	o := Options{Progress: func(s Step, done, of int) { got = append(got, fmt.Sprint(s, " ", done, "/", of)) }}
	if _, err := Run(t.Context(), p, fromProvisioner(), pvs, o); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"looking at PersistentVolumes 0/3", "looking at PersistentVolumes 1/3", "looking at PersistentVolumes 2/3", "recording volumes 0/2", "recording volumes 1/2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The source of a clone is said only if it is one of the volumes.
func TestSourcesOfClones(t *testing.T) {
	for origin, want := range map[string]string{
		"-": "", "": "", parent + "/" + uuid1 + "@pvmanager-a-1": "a", parent + "/" + uuid1 + "@by-hand": "", parent + "/" + uuid2 + "@pvmanager-a-1": "",
		"other/" + uuid1 + "@pvmanager-a-1": "",
	} {
		j := &pvManager{datasets: &datasets{Datasets: fromPVManager(), uuids: map[string]string{uuid1: "a"}}}
		if got := j.source(origin); got.String() != want {
			t.Errorf("of origin %q it is %q, want %q", origin, got, want)
		}
	}
}

func TestAPoolWhoseDatasetsCannotBeReadIsNotAdopted(t *testing.T) {
	p := newPool()
	broken := errors.New("the connection is lost")
	_, err := Run(t.Context(), unreadable{p, broken}, fromProvisioner(), []PV{provisioned(p, 1)}, Options{})
	if !errors.Is(err, broken) || len(p.records) > 0 {
		t.Errorf("error %v, records %v", err, p.records)
	}
}

type unreadable struct {
	*pool
	err error
}

func (u unreadable) Look(context.Context, volume.RelPath) (volume.Found, error) {
	return volume.Found{}, u.err
}
