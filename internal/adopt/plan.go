package adopt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
)

// PV is what a PersistentVolume says. Whoever may edit PersistentVolumes wrote it.
type PV struct {
	Name   string
	Server string // what clients mount: the server,
	Path   string // and the path; "" if it is not mounted by NFS
	// NodePath is its path on a node, of kinds hostPath and local, and Node the node if
	// only pods on one may use it.
	NodePath, Node string
	Size           int64 // bytes
	Claim          volume.Claim
	Reclaim        volume.Reclaim
	Class          string // its StorageClass
	Created        time.Time
	// OnDelete is what that class says now of data whose claim is deleted. OnDeleteErr
	// says why that is not known.
	OnDelete    volume.OnDelete
	OnDeleteErr error
	// What nfs-provisioner notes: the annotations Provisioner_Id, Export_Id and
	// EXPORT_block.
	Identity, ExportID, ExportBlock string
	Annotations                     map[string]string
}

// mounted is the path by which pods reach it, wherever it is.
func (pv PV) mounted() string { return cmp.Or(pv.Path, pv.NodePath) }

// Pool is where volumes are to be adopted.
type Pool interface {
	List(ctx context.Context) iter.Seq2[volume.Volume, error]
	// Look says what the directory or dataset at p is like. ErrNotFound if there is none, and
	// ErrForeign if it cannot be a volume: it is not a plain directory of the pool's file
	// system, or not a file system that is mounted.
	Look(ctx context.Context, p volume.RelPath) (volume.Found, error)
	// Folders are the names of the directories or datasets below the root that are not Berth's own.
	Folders(ctx context.Context) ([]string, error)
}

// From is a program whose volumes are taken over, as far as it is known from what it
// left behind.
type From interface {
	// Program is its name; records have it as their Origin.
	Program() string
	// begin begins a plan: all are the PersistentVolumes of the provisioner's name, and
	// records are the pool's. What it finds out beside the volumes goes to r.
	begin(all []PV, records []volume.Volume, o Options, r *Report) judge
}

// judge says which PersistentVolumes are certainly what their program made. Its errors
// are *leftError.
type judge interface {
	// folders are the names below the root that need no explanation: the program's own,
	// and those that PersistentVolumes name, also such as are left alone.
	folders() []string
	// place gives the path, in the pool, of the volume that pv stands for.
	place(pv PV, name volume.Name) (volume.RelPath, error)
	// complete adds to v what only this program's volumes have. found is what lies there.
	complete(v *volume.Volume, pv PV, found volume.Found) error
	// lacks says what to do about pv, at whose place Look found nothing, or nothing that can
	// be a volume: why is ErrNotFound or ErrForeign.
	lacks(pv PV, why error) error
}

// Options of a Plan.
type Options struct {
	ExportPath string // clients mount a volume at ExportPath/<its path>
	Cluster    string // see volume.Spec; "" if it is not known
	// Taken are the export ids of other pools' volumes, which Berth's server has too.
	Taken map[export.ID]string
	// Progress, if it is not nil, is told how many PersistentVolumes of how many have been
	// looked at (Looking), and then how many volumes have got their records (Recording).
	Progress func(s Step, done, of int)
}

// Step is one of an adoption.
type Step string

// The steps of an adoption.
const (
	Looking   Step = "looking at PersistentVolumes"
	Recording Step = "recording volumes"
)

func (o Options) progress(s Step, done, of int) {
	if o.Progress != nil {
		o.Progress(s, done, of)
	}
}

// Report is what is to be adopted, or was, and what is left alone.
type Report struct {
	Adopt   []volume.Volume
	Already []volume.Volume // by an earlier run
	Left    []Finding
	// Kept are adopted, but it is not known what is to become of their data when their
	// claims are deleted; so it is kept.
	Kept []Finding
	// Unclaimed are directories or datasets that no PersistentVolume and no record names.
	Unclaimed []string
	// LastID is the highest export id that the other program has given out. Handles of
	// what is left alone have such ids in them, so they are not for new volumes.
	LastID export.ID
}

// Finding is what is to be said of a PersistentVolume.
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

// Plan says which of pvs, all of one provisioner name, are certainly volumes of the
// program and lie in pool. It changes nothing.
func Plan(ctx context.Context, pool Pool, from From, pvs []PV, o Options) (Report, error) {
	p := planner{pool: pool, from: from, o: o, leftAt: map[volume.RelPath]string{}}
	for v, err := range pool.List(ctx) {
		if err != nil {
			// Nobody knows what it names: its path and its id may be those of a PersistentVolume.
			return Report{}, fmt.Errorf("a record cannot be read, and has to be corrected first: %w", err)
		}
		if v.SnapshotOf == (volume.Name{}) { // those lie where no volume does
			p.records = append(p.records, v)
		}
	}
	p.judge = from.begin(pvs, p.records, o, &p.report)
	for i, pv := range slices.SortedFunc(slices.Values(pvs), func(a, b PV) int { return strings.Compare(a.Name, b.Name) }) {
		if err := ctx.Err(); err != nil {
			return Report{}, err
		}
		o.progress(Looking, i, len(pvs))
		v, known, err := p.volume(ctx, pv)
		if f, left := errors.AsType[*leftError](err); left {
			p.leave(pv.Name, v.Path, f)
		} else if err != nil {
			return Report{}, fmt.Errorf("PersistentVolume %s: %w", pv.Name, err)
		} else if known {
			p.report.Already = append(p.report.Already, v)
		} else {
			p.report.Adopt = append(p.report.Adopt, v)
		}
	}
	p.leaveShared()
	return p.report, p.findUnclaimed(ctx)
}

type planner struct {
	pool    Pool
	from    From
	judge   judge
	o       Options
	records []volume.Volume
	leftAt  map[volume.RelPath]string // directories of PersistentVolumes that are left alone
	report  Report
}

func (p *planner) leave(pv string, at volume.RelPath, why *leftError) {
	p.report.Left = append(p.report.Left, Finding{PV: pv, Err: why.err, Do: why.do})
	if at != (volume.RelPath{}) {
		p.leftAt[at] = pv
	}
}

// leaveShared leaves alone what shares its directory with a PersistentVolume that is left
// alone: the data goes with the last record of it, and that one has none.
func (p *planner) leaveShared() {
	p.report.Adopt = slices.DeleteFunc(p.report.Adopt, func(v volume.Volume) bool {
		other, shared := p.leftAt[v.Path]
		if shared {
			p.report.Left = append(p.report.Left, Finding{PV: v.Name.String(),
				Err: fmt.Errorf("its directory is also that of PersistentVolume %s, which is left alone", other), Do: "do what is said of that one, and adopt again"})
			p.report.Kept = slices.DeleteFunc(p.report.Kept, func(f Finding) bool { return f.PV == v.Name.String() })
		}
		return shared
	})
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

// volume gives the volume that pv stands for, and whether it has been adopted before.
// Its error is a *leftError if pv is to be left alone; v has a Path also then, if that
// is known.
func (p *planner) volume(ctx context.Context, pv PV) (v volume.Volume, known bool, err error) {
	name, nameErr := volume.ParseName(pv.Name)
	i := slices.IndexFunc(p.records, func(r volume.Volume) bool { return r.Name == name })
	if i >= 0 && p.records[i].Origin == p.from.Program() && p.records[i].Export.Path == pv.mounted() {
		return p.records[i], true, nil
	}
	v.Path, err = p.judge.place(pv, name)
	switch {
	case err != nil:
		return v, false, err
	case nameErr != nil:
		return v, false, left(doData, "it cannot be a volume's name: %w", nameErr)
	case pv.Claim.UID == "":
		return v, false, left("bind it to a claim (spec.claimRef), and adopt again", "it is nobody's claim")
	case i >= 0:
		return v, false, left("look into the record; nothing of Berth's has that name otherwise", "Berth has a volume of its own by that name")
	}
	found, err := p.pool.Look(ctx, v.Path)
	if errors.Is(err, volume.ErrNotFound) || errors.Is(err, volume.ErrForeign) {
		err = p.judge.lacks(pv, err)
	}
	if err != nil {
		return v, false, err
	}
	if pv.Size <= 0 {
		return v, false, left(doData, "its capacity of %d bytes is not above 0", pv.Size)
	}
	v = volume.Volume{
		Name: name, Path: v.Path, Size: pv.Size, Claim: pv.Claim, Cluster: p.o.Cluster, Reclaim: pv.Reclaim, Owner: found.Owner,
		Export:  volume.ExportRef{Path: pv.mounted()},
		Created: pv.Created.UTC().Truncate(time.Second), State: volume.StateReady, Published: true, Origin: p.from.Program(),
	}
	return v, false, p.judge.complete(&v, pv, found)
}

// lacksDirectory is judge.lacks of programs that make directories.
func lacksDirectory(why error) error {
	if errors.Is(why, volume.ErrNotFound) {
		return left("put it back and adopt again, or, if the data is no more, delete the claim and the PersistentVolume", "its directory is missing: %w", why)
	}
	return left("have a plain directory there and adopt again, or "+doData, "%w", why)
}

// findUnclaimed looks for directories and datasets that nobody names.
func (p *planner) findUnclaimed(ctx context.Context) error {
	named := map[string]bool{}
	for _, name := range p.judge.folders() {
		named[name] = true
	}
	for _, v := range p.records {
		first, _, _ := strings.Cut(v.Path.String(), "/")
		named[first] = true
	}
	folders, err := p.pool.Folders(ctx)
	p.report.Unclaimed = slices.DeleteFunc(folders, func(name string) bool { return named[name] })
	return err
}
