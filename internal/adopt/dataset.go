package adopt

import (
	"errors"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-storage/berth/internal/volume"
)

// Programs that make ZFS datasets.
const (
	// ZFSProvisioner is kubernetes-zfs-provisioner: gentics' first one, rajha-korithrien's
	// fork, and ccremer's, which goes on with it.
	ZFSProvisioner = "zfs-provisioner"
	PVManager      = "openshift-pvmanager"
)

// PVManagerProvisioner is the provisioner's name in the StorageClasses of openshift-pvmanager.
const PVManagerProvisioner = "pvmanager.wimsey.us"

// AnnPVManager is the annotation of openshift-pvmanager's PersistentVolumes, which has
// PVManagerProvisioner as its value.
const AnnPVManager = "managed-by"

// What the programs write on PersistentVolumes and datasets.
const (
	annDataset       = "zfs.pv.kubernetes.io/zfs-dataset-path"
	annHost          = "zfs.pv.kubernetes.io/zfs-host"
	annDestroy       = "zfs.pv.kubernetes.io/destroy-snapshots"
	propManagedBy    = "io.kubernetes.pv.zfs:managed_by"
	propShare        = "sharenfs"
	shareOff         = "off"
	annUUID          = PVManagerProvisioner + "/volume-uuid"
	annNFSPath       = PVManagerProvisioner + "/nfs-path" // the dataset, in spite of its name
	annReclaimPolicy = PVManagerProvisioner + "/reclaim-policy"
	propPVRef        = "pvmanager:pvref"
	pvManagerPrefix  = "@pvmanager-" // of the snapshots that its clones are made of
)

// Datasets is where a program made volumes that are ZFS datasets, directly below one.
type Datasets struct {
	Of     string // ZFSProvisioner or PVManager
	Parent string
	// Names are how PersistentVolumes may call the host that has it.
	Names       []string
	Provisioner string // of the StorageClasses
	// KeepSnapshots and Reclaim are what the pool says of volumes that do not say it themselves.
	KeepSnapshots bool
	Reclaim       volume.Reclaim // openshift-pvmanager's only: those of Kubernetes are all "Retain"
	// Others are PersistentVolumes that the program did not make.
	Others []PV
}

// Program implements From.
func (d Datasets) Program() string { return d.Of }

func (d Datasets) begin(all []PV, records []volume.Volume, _ Options, r *Report) judge {
	j := &datasets{Datasets: d, others: map[string]string{}, uuids: map[string]string{}, records: map[volume.RelPath]volume.Name{}}
	for _, v := range records {
		j.records[v.Path] = v.Name
	}
	for _, pv := range d.Others {
		if d.named(pv.Server) {
			j.others[path.Clean(pv.Path)] = pv.Name
		}
	}
	for _, pv := range all {
		if d.Of == PVManager {
			j.uuids[pv.Annotations[annUUID]] = pv.Name
		}
		j.places = append(j.places, path.Base(j.dataset(pv)))
	}
	if d.Of == PVManager {
		return &pvManager{datasets: j, report: r}
	}
	return &zfsProvisioner{datasets: j}
}

// named says whether host is one of the names of the host that has the datasets.
func (d Datasets) named(host string) bool {
	return host != "" && slices.ContainsFunc(d.Names, func(name string) bool { return strings.EqualFold(name, host) })
}

// dataset is that of pv, as its program called it; "" if nobody can say.
func (d Datasets) dataset(pv PV) string {
	switch {
	case d.Of == PVManager:
		return pv.Annotations[annNFSPath]
	case pv.Annotations[annDataset] != "":
		return pv.Annotations[annDataset]
	}
	return path.Join(d.Parent, pv.Name)
}

// datasets knows what volumes of both programs are like.
type datasets struct {
	Datasets
	places []string          // the last elements of datasets that PersistentVolumes name
	others map[string]string // PersistentVolumes that the program did not make, by path
	uuids  map[string]string // openshift-pvmanager's, by the uuid that is the dataset's name
	// records are Berth's volumes by path; discarded ones have none that a program could have given.
	records map[volume.RelPath]volume.Name
}

func (j *datasets) folders() []string { return j.places }

// checkParent says whether pv's dataset lies directly below the parent.
func (j *datasets) checkParent(pv PV) error {
	d := j.dataset(pv)
	switch {
	case pv.mounted() == "":
		return left("it is not this program's work", "it is neither mounted by NFS nor from a node")
	case path.Dir(d) != j.Parent:
		return left("the pool of that dataset's parent adopts it", "%w: its dataset is %.200q, which is not directly below %s", errOther, d, j.Parent)
	}
	return nil
}

// lacks implements judge. A dataset that is not here may be another host's.
func (j *datasets) lacks(pv PV, why error) error {
	if errors.Is(why, volume.ErrForeign) {
		return left("have a file system there that is mounted at "+pv.mounted()+" and adopt again, or "+doData, "%w", why)
	}
	hosts := []string{pv.Annotations[annHost], pv.Server, pv.Node}
	if slices.ContainsFunc(hosts, j.named) {
		return left("put it back and adopt again, or, if the data is no more, delete the claim and the PersistentVolume", "its dataset is missing: %w", why)
	}
	for _, host := range hosts {
		if host != "" {
			return left("the pool of that host adopts it; if it is this one, give the pool that name (zfs.server), and look for the dataset",
				"%w: it is of host %.200q, which this pool's is not called, and here is no such dataset: %w", errOther, host, why)
		}
	}
	return left("if it is another host's, that one's pool adopts it; if the data is no more, delete the claim and the PersistentVolume", "its dataset is missing: %w", why)
}

// complete is judge.complete as far as it is the same for both programs.
func (j *datasets) complete(v *volume.Volume, pv PV, found volume.Found) error {
	if other, has := j.records[v.Path]; has {
		return left("look into the record; one of the two is wrong", "its dataset is that of Berth's volume %s", other)
	}
	if found.Dir != pv.mounted() {
		return left("correct the one that is wrong, and adopt again", "pods mount %.200q, but its dataset is mounted at %s", pv.mounted(), found.Dir)
	}
	if other, has := j.others[path.Clean(pv.mounted())]; has {
		return left("delete the one that is not needed, and adopt again", "its dataset is also that of PersistentVolume %s, which %s did not make", other, j.Of)
	}
	v.KeepSnapshots = j.KeepSnapshots
	v.Sizing = sizing(found.Properties)
	v.Share = shareOf(pv, found.Properties[propShare])
	return nil
}

// shareOf says how ZFS goes on to share the dataset of pv, where property is its own sharenfs: as before,
// because clients have mounted it, and not if only pods of its node use it; "" is as the pool says.
func shareOf(pv PV, property string) string {
	switch {
	case property != "" && property != shareOff:
		return property
	case pv.Server == "":
		return shareOff
	}
	return "" // it inherits how it is shared, or is off although pods are to mount it
}

// sizing says what a dataset's size is to ZFS, from what is set on it.
func sizing(properties map[string]string) volume.Sizing {
	limited := set(properties["refquota"]) || set(properties["quota"])
	switch reserved := set(properties["refreservation"]) || set(properties["reservation"]); {
	case limited && reserved:
		return volume.SizingBoth
	case limited:
		return volume.SizingQuota
	case reserved:
		return volume.SizingReservation
	}
	return volume.SizingIgnore
}

// set says whether a property that is a number of bytes is not 0.
func set(bytes string) bool {
	n, err := strconv.ParseUint(bytes, 10, 64)
	return err == nil && n > 0
}

// zfsProvisioner knows what kubernetes-zfs-provisioner's PersistentVolumes are like.
type zfsProvisioner struct{ *datasets }

// place implements judge. Nobody can edit a PersistentVolume's name, and all three
// programs call datasets by it.
func (j *zfsProvisioner) place(pv PV, name volume.Name) (volume.RelPath, error) {
	if err := j.checkParent(pv); err != nil {
		return volume.RelPath{}, err
	}
	if d := j.dataset(pv); path.Base(d) != pv.Name {
		return volume.RelPath{}, left("correct the annotation "+annDataset+", and adopt again", "it says that its dataset is %.200q, which has another name", d)
	}
	return name.RelPath(), nil
}

// complete implements judge. ccremer's program writes on the dataset whose it is, and on the
// PersistentVolume what is to become of snapshots, where everything but a "false" means that they go.
func (j *zfsProvisioner) complete(v *volume.Volume, pv PV, found volume.Found) error {
	if by := found.Properties[propManagedBy]; by != "" && by != j.Provisioner {
		return left("the pool of that provisioner's name adopts it", "%w: its dataset's property %s is %.200q, not %s", errOther, propManagedBy, by, j.Provisioner)
	}
	if err := j.datasets.complete(v, pv, found); err != nil {
		return err
	}
	if value, has := pv.Annotations[annDestroy]; has {
		destroy, err := strconv.ParseBool(value)
		v.KeepSnapshots = err == nil && !destroy
	}
	return nil
}

// pvManager knows what openshift-pvmanager's PersistentVolumes are like.
type pvManager struct {
	*datasets
	report *Report
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// place implements judge: datasets are called by the uuid that an annotation has. That it
// is the right one, the dataset itself says; see complete.
func (j *pvManager) place(pv PV, _ volume.Name) (volume.RelPath, error) {
	if err := j.checkParent(pv); err != nil {
		return volume.RelPath{}, err
	}
	uuid := pv.Annotations[annUUID]
	if !uuidForm.MatchString(uuid) || path.Base(j.dataset(pv)) != uuid {
		return volume.RelPath{}, left("correct the annotations, and adopt again", "its annotations %s, %.64q, and %s, %.200q, are not of one uuid",
			annUUID, uuid, annNFSPath, j.dataset(pv))
	}
	return volume.ParseRelPath(uuid)
}

// complete implements judge.
func (j *pvManager) complete(v *volume.Volume, pv PV, found volume.Found) error {
	if ref := found.Properties[propPVRef]; ref != pv.Name {
		return left("if it is of this PersistentVolume: zfs set "+propPVRef+"="+pv.Name+" "+j.dataset(pv)+", and adopt again",
			"its dataset's property %s is %.200q and not its name", propPVRef, ref)
	}
	if err := j.datasets.complete(v, pv, found); err != nil {
		return err
	}
	v.ClonedFrom = j.source(found.Properties["origin"])
	switch policy := pv.Annotations[annReclaimPolicy]; {
	case policy == "":
		v.Reclaim = j.Reclaim
	case strings.EqualFold(policy, "Delete"):
		v.Reclaim = volume.ReclaimDelete
	case strings.EqualFold(policy, "Retain"):
		v.Reclaim = volume.ReclaimRetain
	default: // Recycle was never done, whatever was promised
		v.Reclaim = volume.ReclaimRetain
		j.report.Kept = append(j.report.Kept, Finding{
			PV: pv.Name, Err: errors.New("its annotation " + annReclaimPolicy + " is " + strconv.Quote(policy)), Do: "its data stays when its claim is deleted",
		})
	}
	return nil
}

// source gives the volume that a clone was made of, from its property origin; no name if it
// is none of those that have a PersistentVolume.
func (j *pvManager) source(origin string) volume.Name {
	dataset, _, _ := strings.Cut(origin, pvManagerPrefix)
	if path.Dir(dataset) != j.Parent {
		return volume.Name{}
	}
	name, err := volume.ParseName(j.uuids[path.Base(dataset)])
	if err != nil {
		return volume.Name{}
	}
	return name
}
