package adopt

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
)

// Program implements From.
func (s *State) Program() string { return NFSProvisioner }

func (s *State) begin(all []PV, records []volume.Volume, o Options, r *Report) judge {
	j := &nfsProvisioner{State: s, o: o, records: records, named: []string{"v4recov", "v4old"}, pvs: map[export.ID][]string{}}
	for id := range s.ids {
		r.LastID = max(r.LastID, id)
	}
	for _, pv := range all {
		j.named = append(j.named, pv.Name)
		if id, err := parseID(pv.ExportID); err == nil && pv.Identity == s.Identity {
			j.pvs[id] = append(j.pvs[id], pv.Name)
			r.LastID = max(r.LastID, id)
		}
	}
	return j
}

// nfsProvisioner knows what nfs-provisioner's PersistentVolumes are like.
type nfsProvisioner struct {
	*State
	o       Options
	records []volume.Volume
	named   []string               // its NFS server's own folders, and the directories of PersistentVolumes
	pvs     map[export.ID][]string // which PersistentVolumes say that an id is theirs
}

func (j *nfsProvisioner) folders() []string { return j.named }

// place implements judge. Nobody can edit a PersistentVolume's name, and
// nfs-provisioner calls directories by it.
func (j *nfsProvisioner) place(pv PV, name volume.Name) (volume.RelPath, error) {
	if err := j.checkIdentity(pv); err != nil {
		return volume.RelPath{}, err
	}
	if want := path.Join(j.o.ExportPath, pv.Name); pv.Path != want {
		return volume.RelPath{}, left("correct the pool's exportPath if its volumes are mounted elsewhere; else it is not nfs-provisioner's work",
			"it is mounted at %.200q and not at %s", pv.Path, want)
	}
	return name.RelPath(), nil
}

// checkIdentity says whether this server made pv.
func (j *nfsProvisioner) checkIdentity(pv PV) error {
	switch ours := j.Identity; {
	case pv.Identity == ours && ours != "":
		return nil
	case pv.Identity != "" && ours == "":
		return left("run this on its server's export folder; if it is this one, put the file nfs-provisioner.identity back",
			"%w: its Provisioner_Id is %.64q, and this export folder has no nfs-provisioner.identity", errOther, pv.Identity)
	case pv.Identity != "":
		return left("its own server's Berth adopts it", "%w: its Provisioner_Id is %.64q, that of this export folder is %s", errOther, pv.Identity, ours)
	case ours == "":
		// The first version had no identities. That its configuration here has the
		// export of this very path and id tells its volumes from those of other servers.
		if e, has := j.exports[pv.Path]; has && pv.ExportID == fmt.Sprint(e.ID) {
			return nil
		}
		return left("run this on the export folder of the server that made it",
			"%w: it has no Provisioner_Id, and this export folder's configuration no export of that path and id", errOther)
	default:
		return left(fmt.Sprintf("if it is of this export folder: kubectl annotate pv %s Provisioner_Id=%s, and adopt again", pv.Name, ours),
			"it has no Provisioner_Id, so nobody can tell which server made it")
	}
}

func (j *nfsProvisioner) lacks(_ PV, why error) error { return lacksDirectory(why) }

// complete implements judge: the export and the quota.
func (j *nfsProvisioner) complete(v *volume.Volume, pv PV, found volume.Found) error {
	e, err := j.export(pv)
	if err == nil {
		err = j.checkTaken(pv, e)
	}
	if err != nil {
		return err
	}
	v.Export = volume.ExportRef{ID: e.ID, FSID: export.NumberFSID(e.ID), Path: pv.Path, Squash: e.Squash}
	// Only what both its notes and the disk say is its quota. Another one is somebody else's.
	if project := j.projects[pv.Path].ID; project == found.Project && !j.shared[project] {
		v.QuotaID = uint64(project)
	}
	return nil
}

// export gives pv's export. What the server exported is what its configuration says; a
// PersistentVolume that says otherwise was edited.
func (j *nfsProvisioner) export(pv PV) (Export, error) {
	e := Export{Path: pv.Path}
	var err error
	if e.ID, err = parseID(pv.ExportID); err != nil {
		return e, left(doData, "annotation Export_Id: %w", err)
	}
	if pv.ExportBlock != "" {
		if e, err = exportText(pv.ExportBlock); err != nil {
			return e, left("correct the annotation, or "+doData, "annotation EXPORT_block: %w", err)
		}
		if e.Path != pv.Path || fmt.Sprint(e.ID) != pv.ExportID {
			return e, left("correct the annotation, or "+doData, "annotation EXPORT_block is of %.200q and id %d", e.Path, e.ID)
		}
	}
	if err := j.odd[pv.Path]; err != nil {
		return e, left("have the pool say the same for all its volumes (clients, rootSquash), correct the export in nfs-provisioner's configuration, and adopt again", "%w", err)
	}
	if was, has := j.exports[pv.Path]; has {
		if was.ID != e.ID {
			return e, left("correct the annotation Export_Id, and adopt again", "its Export_Id is %d, but it was exported as %d", e.ID, was.ID)
		}
		return was, nil
	}
	if e.Squash == "" {
		return e, left("correct the annotation, or "+doData, "neither its annotations nor nfs-provisioner's configuration have its export")
	}
	return e, nil
}

// checkTaken says whether another volume has the path or the id of an export.
func (j *nfsProvisioner) checkTaken(pv PV, e Export) error {
	if other, has := j.ids[e.ID]; has && other != pv.Path {
		return left("correct the annotation Export_Id, or "+doData, "its Export_Id %d is that of %s", e.ID, other)
	}
	if _, certain := j.exports[pv.Path]; !certain && len(j.pvs[e.ID]) > 1 {
		return left("correct the annotation of the wrong one, and adopt again", "its Export_Id %d is also that of %s", e.ID,
			strings.Join(slices.DeleteFunc(slices.Clone(j.pvs[e.ID]), func(n string) bool { return n == pv.Name }), ", "))
	}
	if other, taken := j.o.Taken[e.ID]; taken {
		return left(doData, "its Export_Id %d is already that of volume %s", e.ID, other)
	}
	for _, r := range j.records {
		if r.Export.ID == e.ID {
			return left(doData, "its Export_Id %d is already that of volume %s", e.ID, r.Name)
		}
		if r.State == volume.StateDiscarded {
			continue // it lies in the trash
		}
		if r.Path.String() == pv.Name || strings.HasPrefix(r.Path.String(), pv.Name+"/") {
			return left("one of the two is wrong; "+doData, "volume %s lies there, at %s", r.Name, r.Path)
		}
	}
	return nil
}
