package adopt

import (
	"path"
	"strings"

	"github.com/berth-storage/berth/internal/volume"
)

// NFSSubdir is the name of the program that makes directories on a share of an NFS
// server that is there already, also known as nfs-client-provisioner.
const NFSSubdir = "nfs-subdir-external-provisioner"

// Share is where nfs-subdir-external-provisioner made volumes. It left nothing there
// but their directories, so all that there is to compare are the PersistentVolumes.
type Share struct {
	Server string // as PersistentVolumes name it
	// Others are PersistentVolumes that are not of the provisioner's name. An
	// administrator may have made one for a directory of it.
	Others []PV
}

// Program implements From.
func (s Share) Program() string { return NFSSubdir }

func (s Share) begin(all []PV, records []volume.Volume, o Options, r *Report) judge {
	j := &nfsSubdir{Share: s, root: strings.TrimSuffix(o.ExportPath, "/"), report: r, users: map[string][]user{}, within: map[string]user{}}
	known := map[string]bool{}
	for _, pv := range all {
		if rel := j.below(pv); rel != "" {
			j.use(rel, user{name: pv.Name, namespace: pv.Claim.Namespace, ours: true})
			known[pv.Name] = true
		}
	}
	for _, pv := range s.Others {
		if rel := j.below(pv); rel != "" {
			j.use(rel, user{name: pv.Name})
		}
	}
	for _, v := range records {
		if v.State != volume.StateDiscarded && !known[v.Name.String()] {
			j.use(v.Path.String(), user{name: v.Name.String(), record: true})
			if v.ArchivePath != "" {
				j.use(v.ArchivePath, user{name: v.Name.String(), record: true})
			}
		}
	}
	return j
}

// nfsSubdir knows what the PersistentVolumes of nfs-subdir-external-provisioner are like.
type nfsSubdir struct {
	Share
	root   string // of the share on its server, without a slash at the end
	report *Report
	users  map[string][]user // by path below the root
	within map[string]user   // by path: one whose directory lies in it
}

// user is somebody whose directory has a path: a PersistentVolume, or a record of Berth's.
type user struct {
	name, namespace string
	ours            bool // a PersistentVolume of the provisioner's name
	record          bool
}

func (u user) String() string {
	if u.record {
		return "volume " + u.name
	}
	return "PersistentVolume " + u.name
}

// maxPath is PATH_MAX: nothing that is longer can be mounted.
const maxPath = 4096

// below gives the path of what pv mounts below the root; "" if it lies elsewhere, or is
// the root itself: that is a view of all volumes, and no reason to leave them alone.
func (j *nfsSubdir) below(pv PV) string {
	if !strings.EqualFold(pv.Server, j.Server) || len(pv.Path) > maxPath {
		return ""
	}
	rel, _ := strings.CutPrefix(path.Clean(pv.Path), j.root+"/")
	if strings.HasPrefix(rel, "/") {
		return ""
	}
	return rel
}

func (j *nfsSubdir) use(at string, u user) {
	j.users[at] = append(j.users[at], u)
	for parent := range parents(at) {
		j.within[parent] = u
	}
}

// parents gives the paths around a relative one, the nearest first.
func parents(at string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for i := strings.LastIndexByte(at, '/'); i > 0; i = strings.LastIndexByte(at[:i], '/') {
			if !yield(at[:i]) {
				return
			}
		}
	}
}

func (j *nfsSubdir) folders() (names []string) {
	for at := range j.users {
		first, _, _ := strings.Cut(at, "/")
		names = append(names, first)
	}
	return names
}

// place implements judge. The program gave a directory the path that a template and the
// claim made, so any below the root is possible.
func (j *nfsSubdir) place(pv PV, _ volume.Name) (volume.RelPath, error) {
	rel := j.below(pv)
	switch clean := path.Clean(pv.Path); {
	case pv.Path == "":
		return volume.RelPath{}, left("it is not this program's work", "it is not mounted by NFS")
	case !strings.EqualFold(pv.Server, j.Server):
		return volume.RelPath{}, left("the Berth of that server's share adopts it; if it is the same one, give the pool the server's name as it has it",
			"%w: its server is %.200q, that of the share %s", errOther, pv.Server, j.Server)
	case clean == j.root || clean == "/" && j.root == "":
		return volume.RelPath{}, left(doData, "it is the whole share: to delete it would delete all volumes")
	case rel == "":
		return volume.RelPath{}, left("if there is another share with that provisioner's name, its own Berth adopts it; else "+doData,
			"it is mounted at %.200q, which is not below the share %s", pv.Path, j.root)
	case clean != pv.Path:
		return volume.RelPath{}, left(doData, "its path %.200q is not what the program writes: it means %.200q", pv.Path, clean)
	}
	at, err := volume.ParseRelPath(rel)
	if err != nil {
		return at, left(doData, "its path cannot be a volume's: %w", err)
	}
	return at, j.checkNeighbours(pv, rel)
}

// checkNeighbours says whether pv's directory can be deleted, when its time comes,
// without a loss for somebody else.
func (j *nfsSubdir) checkNeighbours(pv PV, at string) error {
	if u, has := j.within[at]; has {
		return left(doData, "the directory of %s lies in its own: to delete it would delete that one's data", u)
	}
	for parent := range parents(at) {
		for _, u := range j.users[parent] {
			// A claim that got the folder of its namespace, say. Another namespace's claim
			// may have been put there by a trick.
			if !u.ours || u.namespace != pv.Claim.Namespace {
				return left(doData, "its directory lies in that of %s, which is of another namespace or none", u)
			}
		}
	}
	for _, u := range j.users[at] {
		if !u.ours {
			return left("delete the one that is not needed, and adopt again", "its directory is also that of %s", u)
		}
	}
	return nil
}

func (j *nfsSubdir) lacks(_ PV, why error) error { return lacksDirectory(why) }

// complete implements judge: who else has the directory, and what becomes of it.
func (j *nfsSubdir) complete(v *volume.Volume, pv PV, _ volume.Found) error {
	v.Shared = len(j.users[v.Path.String()]) > 1
	if pv.OnDelete != volume.OnDeleteDelete { // which records leave out
		v.OnDelete = pv.OnDelete
	}
	if pv.OnDeleteErr != nil {
		v.OnDelete = volume.OnDeleteRetain
		j.report.Kept = append(j.report.Kept, Finding{PV: pv.Name, Err: pv.OnDeleteErr, Do: "its data stays when its claim is deleted"})
	}
	return nil
}
