package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/nameformat"
	"github.com/berth-storage/berth/internal/pathpattern"
	"github.com/berth-storage/berth/internal/volume"
)

// Volumes is what the front end needs of a pool's volume.Manager.
type Volumes interface {
	Pool() string
	Create(ctx context.Context, s volume.Spec) (volume.Volume, error)
	Cancel(ctx context.Context, s volume.Spec) error
	Delete(ctx context.Context, n volume.Name, cluster string) error
	Snapshot(ctx context.Context, s volume.SnapshotSpec) (volume.Volume, error)
	DeleteSnapshot(ctx context.Context, n volume.Name, cluster string) error
	Grow(ctx context.Context, n volume.Name, cluster string, bytes int64) (volume.Volume, error)
	MarkPublished(ctx context.Context, n volume.Name) error
	Get(ctx context.Context, n volume.Name) (volume.Volume, error)
	Adopted(n volume.Name) (volume.Volume, bool)
	Room(ctx context.Context) (volume.Room, error)
	AskWanted(wanted volume.Wanted)
	Scavenge(ctx context.Context, cluster string, grace time.Duration, wanted volume.Wanted) (int, error)
}

// Pool is a pool that serves claims.
type Pool struct {
	Volumes  Volumes
	Instance string        // the pool's identity; "" if its storage was not there yet
	Owner    volume.Owner  // of new volumes, if the class does not say
	Squash   export.Squash // likewise
	GIDs     volume.GIDRange
	OnDelete volume.OnDelete // likewise
	Static   []Static
	// Classes are StorageClasses that the pool serves without being named by them; other
	// classes have to name it. None: it serves whatever class does not say.
	Classes []string
	// ReclaimPolicy of PersistentVolumes, Delete or Retain, whatever their class says; "":
	// as that says.
	ReclaimPolicy string
	PVNames       *nameformat.Format // nil: pvc-<uid of the claim>
	Share         *Share             // nil: Berth has the volumes exported
	ZFS           *ZFS               // nil: they are not datasets
}

// Share is the share of an NFS server that a pool's volumes lie on.
type Share struct {
	Server   string               // as PersistentVolumes name it
	Path     string               // likewise
	Existing volume.Existing      // if the class does not say
	Pattern  *pathpattern.Pattern // likewise; nil: the default path
}

// provisioner makes and deletes volumes for the library's controller.
type provisioner struct {
	name    string // the provisioner's
	client  kubernetes.Interface
	objects dynamic.Interface // for custom resources
	pools   []*Pool
	volumes corelisters.PersistentVolumeLister
	cluster string
	node    string // that this instance runs on; "" if it was not told
	address addressResolver
	taker   *taker
	advisor *advisor
	log     *slog.Logger
	observe func(operation string, took time.Duration, err error)
}

var _ controller.Provisioner = (*provisioner)(nil)

// Provision implements controller.Provisioner. It may be called again for the
// same claim at any time, whatever became of the last call.
func (p *provisioner) Provision(ctx context.Context, o controller.ProvisionOptions) (pv *v1.PersistentVolume, state controller.ProvisioningState, err error) {
	defer p.observed("provision", &err)()
	if _, err := checkParameters(o.StorageClass.Parameters); err != nil {
		return nil, stateOf(err), err
	}
	pools, err := poolsFor(o.StorageClass, p.pools)
	if err != nil {
		p.taker.passOn(ctx, o.PVC)
		return nil, stateOf(err), err
	}
	name, err := volumeFor(o, pools)
	if err != nil {
		return nil, stateOf(err), err
	}
	wished, err := wishes(o.PVC)
	if err != nil {
		return nil, stateOf(err), err
	}
	o.PVName = name.String()
	r := request{o, name, wished, nil}
	from, err := originalOf(o.PVC, wished)
	if err == nil && from != nil {
		pools, r.from, err = p.copies(ctx, o.PVC, *from, name, pools)
	}
	if err != nil {
		return nil, stateOf(err), err
	}
	for i, pool := range pools {
		pv, state, err = p.provisionIn(ctx, pool, r)
		// Only of a pool that is full is it certain that it has made nothing.
		if !errors.Is(err, volume.ErrNoSpace) {
			break
		}
		if i == len(pools)-1 {
			p.taker.passOn(ctx, o.PVC)
		}
	}
	return pv, state, err
}

// request is what a claim asks for, before it is known in which pool.
type request struct {
	controller.ProvisionOptions
	name   volume.Name // of the volume
	wished map[string]wish
	from   *volume.Source // nil: nothing that is copied
}

// volumeFor gives the name of the volume, which is the PersistentVolume's too.
func volumeFor(o controller.ProvisionOptions, pools []*Pool) (volume.Name, error) {
	if pools[0].PVNames == nil {
		return volume.NameForClaim(string(o.PVC.UID))
	}
	return pools[0].PVNames.Name(partsOf(o.StorageClass.Name, o.PVC))
}

// provisionIn is Provision in one pool.
func (p *provisioner) provisionIn(ctx context.Context, pool *Pool, r request) (*v1.PersistentVolume, controller.ProvisioningState, error) {
	params, err := parseParameters(r.StorageClass.Parameters, pool)
	if err == nil {
		err = params.apply(r.wished)
	}
	if err != nil {
		return nil, stateOf(err), err
	}
	mounts, err := params.mountsOf(r.StorageClass)
	if err != nil {
		return nil, stateOf(err), err
	}
	spec, err := specOf(r.PVC, r.StorageClass, p.cluster, r.name, params)
	if err != nil {
		return nil, stateOf(err), err
	}
	if r.from != nil {
		spec.From = r.from
	}
	if err := p.checkMounted(pool, spec); err != nil {
		return nil, stateOf(err), err
	}
	how, err := params.accessOf(r.ProvisionOptions, p.node)
	if err != nil {
		return nil, stateOf(err), err
	}
	if state, err := p.checkNode(ctx, r, how); err != nil {
		return nil, state, err
	}
	if how.kind == VolumeNFS {
		how.server, err = p.serverOf(ctx, params)
	} else {
		mounts = nil // they are NFS' own, and kubelet would refuse them
	}
	if err != nil {
		return nil, controller.ProvisioningNoChange, fmt.Errorf("the address of the NFS server: %w", err)
	}
	// The library's cache may be behind: a volume made for a claim that is gone
	// would be made in vain.
	wanted, err := claimWantsNow(ctx, p.client, spec.Claim, r.PVName, p.taker.mine)
	if err != nil {
		return nil, controller.ProvisioningNoChange, err
	}
	if !wanted { // what is being copied for it is copied in vain
		if err := pool.Volumes.Cancel(ctx, spec); err != nil {
			return nil, stateOf(err), err
		}
		return nil, controller.ProvisioningFinished, &controller.IgnoredError{Reason: "the claim is gone, bound, or another instance's"}
	}
	v, err := pool.Volumes.Create(ctx, spec)
	if err != nil {
		return nil, stateOf(err), err
	}
	p.log.Info("made a volume", "volume", handle{pool.Volumes.Pool(), v.Name}.String(), "claim", v.Claim.String(), "bytes", v.Size)
	p.advisor.advise(r.PVC, v, r.StorageClass.Name, pool.Volumes.Pool())
	return persistentVolume(r.ProvisionOptions, v, params, how, mounts), controller.ProvisioningFinished, nil
}

// serverOf is the address that clients mount a pool's volumes from.
func (p *provisioner) serverOf(ctx context.Context, params parameters) (string, error) {
	switch {
	case params.pool.Share != nil:
		return params.pool.Share.Server, nil
	case params.server != "":
		return params.server, nil
	}
	return p.address.resolve(ctx)
}

// atLeast is said to be the capacity of a volume of so many bytes that was asked for as q: storage that limits in blocks
// gives whole ones.
func atLeast(q resource.Quantity, bytes int64) resource.Quantity {
	if q.CmpInt64(bytes) < 0 {
		return *resource.NewQuantity(bytes, resource.BinarySI)
	}
	return q
}

func persistentVolume(o controller.ProvisionOptions, v volume.Volume, params parameters, how access, mounts []string) *v1.PersistentVolume {
	pool := params.pool
	capacity := atLeast(o.PVC.Spec.Resources.Requests[v1.ResourceStorage], v.Size)
	reached, affinity := how.source(v)
	pv := &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name:   o.PVName,
			Labels: map[string]string{labelManagedBy: managedBy, labelPool: pool.Volumes.Pool()},
			Annotations: map[string]string{
				annInstance: pool.Instance,
				annVolume:   handle{pool.Volumes.Pool(), v.Name}.String(),
			},
		},
		Spec: v1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: reclaimPolicy(o.StorageClass, params),
			AccessModes:                   how.modes(o.PVC.Spec.AccessModes, pool.ZFS != nil && pool.ZFS.WidenAccessModes),
			Capacity:                      v1.ResourceList{v1.ResourceStorage: capacity},
			MountOptions:                  mounts,
			PersistentVolumeSource:        reached,
			NodeAffinity:                  affinity,
		},
	}
	if v.Owner.GID != 0 {
		pv.Annotations[annGID] = strconv.FormatUint(uint64(v.Owner.GID), 10)
	}
	return pv
}

// Delete implements controller.Provisioner.
func (p *provisioner) Delete(ctx context.Context, pv *v1.PersistentVolume) (err error) {
	defer p.observed("delete", &err)()
	pool := p.poolOf(pv)
	if pool == nil {
		return &controller.IgnoredError{Reason: "the PersistentVolume is not of a pool of this instance"}
	}
	name, err := p.volumeOf(pv)
	if err != nil {
		return err
	}
	if err := pool.Volumes.Delete(ctx, name, p.cluster); err != nil {
		return err
	}
	p.log.Info("deleted a volume", "volume", handle{pool.Volumes.Pool(), name}.String())
	return nil
}

// observed is used as: defer p.observed("delete", &err)(). What is none of ours to
// do does not count.
func (p *provisioner) observed(step string, err *error) func() {
	start := time.Now()
	return func() {
		if _, ignored := errors.AsType[*controller.IgnoredError](*err); !ignored {
			p.observe(step, time.Since(start), *err)
		}
	}
}

// poolOf gives the pool of a PersistentVolume that this instance made or adopted, nil
// of any other. It goes by the pool's identity: a pool may be given another name.
func (p *provisioner) poolOf(pv *v1.PersistentVolume) *Pool {
	for _, pool := range p.pools {
		if pool.Instance != "" && pool.Instance == pv.Annotations[annInstance] {
			return pool
		}
	}
	pool, _ := p.adopted(pv)
	return pool
}

// owns says whether this instance made or adopted a PersistentVolume.
func (p *provisioner) owns(pv *v1.PersistentVolume) bool { return p.poolOf(pv) != nil }

// volumeOf gives the volume that a PersistentVolume of ours stands for. Who can
// edit a PersistentVolume could otherwise have any volume deleted; its name cannot
// be edited.
func (p *provisioner) volumeOf(pv *v1.PersistentVolume) (volume.Name, error) {
	if pool, v := p.adopted(pv); pool != nil {
		return v.Name, p.checkAdopted(pool, v, pv)
	}
	h, err := parseHandle(pv.Annotations[annVolume])
	if err == nil && h.name.String() != pv.Name {
		err = fmt.Errorf("%w: it names volume %s of another PersistentVolume", volume.ErrForeign, h.name)
	}
	if err != nil {
		return volume.Name{}, fmt.Errorf("PersistentVolume %s: nothing is deleted until its annotation %s is correct: %w", pv.Name, annVolume, err)
	}
	return h.name, nil
}

// SupportsBlock implements controller.BlockProvisioner. It says yes so that
// Provision is asked, whose refusal says what to do.
func (p *provisioner) SupportsBlock(context.Context) bool { return true }

// stateOf tells the library what an error of the domain means for a claim. The
// library makes an event of the error's text and asks again, in each case but
// after Finished only as long as the claim exists.
func stateOf(err error) controller.ProvisioningState {
	switch {
	case errors.Is(err, volume.ErrInvalid), errors.Is(err, volume.ErrUnsupported), errors.Is(err, volume.ErrExists),
		errors.Is(err, volume.ErrForeign), errors.Is(err, volume.ErrNoSpace):
		return controller.ProvisioningFinished
	case errors.Is(err, volume.ErrBusy):
		return controller.ProvisioningNoChange
	default:
		// ErrPending, and whatever has no known outcome: something may exist, so the
		// library has to come back.
		return controller.ProvisioningInBackground
	}
}
