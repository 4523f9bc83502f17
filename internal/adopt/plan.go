package adopt

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
)

// PV is what a PersistentVolume says. Whoever may edit PersistentVolumes wrote it.
type PV struct {
	Name    string
	Path    string // what clients mount; "" if it is not mounted by NFS
	Size    int64  // bytes
	Claim   volume.Claim
	Reclaim volume.Reclaim
	Created time.Time
	// What nfs-provisioner notes: the annotations Provisioner_Id, Export_Id and
	// EXPORT_block.
	Identity, ExportID, ExportBlock string
}

// Pool is where volumes are to be adopted.
type Pool interface {
	List(ctx context.Context) iter.Seq2[volume.Volume, error]
	// Look says what the directory at p is like. ErrNotFound if there is none, and
	// ErrForeign if it is not a plain directory of the pool's file system.
	Look(ctx context.Context, p volume.RelPath) (volume.Found, error)
	// Folders are the names of the directories below the root that are not Berth's own.
	Folders(ctx context.Context) ([]string, error)
}

// Options of a Plan.
type Options struct {
	ExportPath string // clients mount a volume at ExportPath/<its path>
	Cluster    string // see volume.Spec; "" if it is not known
	// Taken are the export ids of other pools' volumes, which Berth's server has too.
	Taken map[export.ID]string
}

// Report is what is to be adopted, or was, and what is left alone.
type Report struct {
	Adopt   []volume.Volume
	Already []volume.Name // by an earlier run
	Left    []Finding
	// Unclaimed are directories that no PersistentVolume and no record names.
	Unclaimed []string
	// LastID is the highest export id that the other program has given out. Handles of
	// what is left alone have such ids in them, so they are not for new volumes.
	LastID export.ID
}

// Finding is a PersistentVolume that is left alone.
type Finding struct {
	PV  string
	Err error
	Do  string // about it
}

func (f Finding) String() string { return fmt.Sprintf("%s: %v; %s", f.PV, f.Err, f.Do) }

// errOther is of a PersistentVolume that another server made.
var errOther = errors.New("another server made it")

// Other says whether f is of a PersistentVolume of another server of the same
// provisioner name, which that one adopts.
func (f Finding) Other() bool { return errors.Is(f.Err, errOther) }

// Plan says which of pvs, all of one provisioner name, are certainly volumes that s is
// about and that lie in pool. It changes nothing.
func Plan(ctx context.Context, pool Pool, s *State, pvs []PV, o Options) (Report, error) {
	p := planner{pool: pool, state: s, o: o, ids: map[export.ID][]string{}}
	for v, err := range pool.List(ctx) {
		if err != nil {
			// Nobody knows what it names: its path and its id may be those of a PersistentVolume.
			return Report{}, fmt.Errorf("a record cannot be read, and has to be corrected first: %w", err)
		}
		p.records = append(p.records, v)
	}
	p.noteIDs(pvs)
	named := map[string]bool{"v4recov": true, "v4old": true} // its NFS server's own
	for _, pv := range slices.SortedFunc(slices.Values(pvs), func(a, b PV) int { return strings.Compare(a.Name, b.Name) }) {
		if err := ctx.Err(); err != nil {
			return Report{}, err
		}
		v, known, err := p.volume(ctx, pv)
		if f, left := errors.AsType[*leftError](err); left {
			p.report.Left = append(p.report.Left, Finding{PV: pv.Name, Err: f.err, Do: f.do})
		} else if err != nil {
			return Report{}, fmt.Errorf("PersistentVolume %s: %w", pv.Name, err)
		} else if known {
			p.report.Already = append(p.report.Already, v.Name)
		} else {
			p.report.Adopt = append(p.report.Adopt, v)
		}
		named[pv.Name] = true
	}
	for _, v := range p.records {
		first, _, _ := strings.Cut(v.Path.String(), "/")
		named[first] = true
	}
	folders, err := pool.Folders(ctx)
	if err != nil {
		return Report{}, err
	}
	p.report.Unclaimed = slices.DeleteFunc(folders, func(name string) bool { return named[name] })
	return p.report, nil
}

type planner struct {
	pool    Pool
	state   *State
	o       Options
	records []volume.Volume
	ids     map[export.ID][]string // which PersistentVolumes say that an id is theirs
	report  Report
}

// leftError is why a PersistentVolume is left alone.
type leftError struct {
	err error
	do  string
}

func (e *leftError) Error() string { return e.err.Error() + ": " + e.do }

func left(do, format string, args ...any) error {
	return &leftError{err: fmt.Errorf(format, args...), do: do}
}

const doData = "copy its data into a new claim's volume, then delete the old claim and PersistentVolume"

// noteIDs notes who says that an export id is his.
func (p *planner) noteIDs(pvs []PV) {
	for id := range p.state.ids {
		p.report.LastID = max(p.report.LastID, id)
	}
	for _, pv := range pvs {
		if id, err := parseID(pv.ExportID); err == nil && pv.Identity == p.state.Identity {
			p.ids[id] = append(p.ids[id], pv.Name)
			p.report.LastID = max(p.report.LastID, id)
		}
	}
}

// volume gives the volume that pv stands for, and whether it has been adopted before.
// Its error is a *leftError if pv is to be left alone.
func (p *planner) volume(ctx context.Context, pv PV) (v volume.Volume, known bool, err error) {
	if err := p.checkIdentity(pv); err != nil {
		return v, false, err
	}
	name, err := p.name(pv)
	if err != nil {
		return v, false, err
	}
	if i := slices.IndexFunc(p.records, func(r volume.Volume) bool { return r.Name == name }); i >= 0 {
		if r := p.records[i]; r.Origin == NFSProvisioner && r.Export.Path == pv.Path {
			return r, true, nil
		}
		return v, false, left("look into the record; nothing of Berth's has that name otherwise", "Berth has a volume of its own by that name")
	}
	e, err := p.export(pv)
	if err != nil {
		return v, false, err
	}
	if err := p.checkTaken(pv, e); err != nil {
		return v, false, err
	}
	found, err := p.look(ctx, name.RelPath())
	if err != nil {
		return v, false, err
	}
	if pv.Size <= 0 {
		return v, false, left(doData, "its capacity of %d bytes is not above 0", pv.Size)
	}
	v = volume.Volume{
		Name: name, Path: name.RelPath(), Size: pv.Size, Claim: pv.Claim, Cluster: p.o.Cluster, Reclaim: pv.Reclaim, Owner: found.Owner,
		Export:  volume.ExportRef{ID: e.ID, FSID: export.NumberFSID(e.ID), Path: pv.Path, Squash: e.Squash},
		Created: pv.Created.UTC().Truncate(time.Second), State: volume.StateReady, Published: true, Origin: NFSProvisioner,
	}
	// Only what both its notes and the disk say is its quota. Another one is somebody else's.
	if project := p.state.projects[pv.Path].ID; project == found.Project && !p.state.shared[project] {
		v.QuotaID = uint64(project)
	}
	return v, false, nil
}

// checkIdentity says whether this server made pv.
func (p *planner) checkIdentity(pv PV) error {
	switch ours := p.state.Identity; {
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
		if e, has := p.state.exports[pv.Path]; has && pv.ExportID == fmt.Sprint(e.ID) {
			return nil
		}
		return left("run this on the export folder of the server that made it",
			"%w: it has no Provisioner_Id, and this export folder's configuration no export of that path and id", errOther)
	default:
		return left(fmt.Sprintf("if it is of this export folder: kubectl annotate pv %s Provisioner_Id=%s, and adopt again", pv.Name, ours),
			"it has no Provisioner_Id, so nobody can tell which server made it")
	}
}

// name gives the name of the volume that pv can stand for: its own, which nobody can
// edit. nfs-provisioner calls directories by it.
func (p *planner) name(pv PV) (volume.Name, error) {
	name, err := volume.ParseName(pv.Name)
	if err != nil {
		return name, left(doData, "it cannot be a volume's name: %w", err)
	}
	if want := path.Join(p.o.ExportPath, name.String()); pv.Path != want {
		return name, left("correct the pool's exportPath if its volumes are mounted elsewhere; else it is not nfs-provisioner's work",
			"it is mounted at %.200q and not at %s", pv.Path, want)
	}
	if pv.Claim.UID == "" {
		return name, left("bind it to a claim (spec.claimRef), and adopt again", "it is nobody's claim")
	}
	return name, nil
}

// export gives pv's export. What the server exported is what its configuration says; a
// PersistentVolume that says otherwise was edited.
func (p *planner) export(pv PV) (Export, error) {
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
	if err := p.state.odd[pv.Path]; err != nil {
		return e, left("have the pool say the same for all its volumes (clients, rootSquash), correct the export in nfs-provisioner's configuration, and adopt again", "%w", err)
	}
	if was, has := p.state.exports[pv.Path]; has {
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
func (p *planner) checkTaken(pv PV, e Export) error {
	if other, has := p.state.ids[e.ID]; has && other != pv.Path {
		return left("correct the annotation Export_Id, or "+doData, "its Export_Id %d is that of %s", e.ID, other)
	}
	if _, certain := p.state.exports[pv.Path]; !certain && len(p.ids[e.ID]) > 1 {
		return left("correct the annotation of the wrong one, and adopt again", "its Export_Id %d is also that of %s", e.ID,
			strings.Join(slices.DeleteFunc(slices.Clone(p.ids[e.ID]), func(n string) bool { return n == pv.Name }), ", "))
	}
	if other, taken := p.o.Taken[e.ID]; taken {
		return left(doData, "its Export_Id %d is already that of volume %s", e.ID, other)
	}
	for _, r := range p.records {
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

func (p *planner) look(ctx context.Context, at volume.RelPath) (volume.Found, error) {
	found, err := p.pool.Look(ctx, at)
	switch {
	case errors.Is(err, volume.ErrNotFound):
		return found, left("put it back and adopt again, or, if the data is no more, delete the claim and the PersistentVolume", "its directory is missing: %w", err)
	case errors.Is(err, volume.ErrForeign):
		return found, left("have a plain directory there and adopt again, or "+doData, "%w", err)
	}
	return found, err
}
