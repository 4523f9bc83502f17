package kube

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"github.com/berth-storage/berth/internal/volume"
)

const (
	// A claim or volume that failed is tried again after retryMin, then after
	// twice as long each time. The library's own 15 s make every hiccup felt.
	retryMin = time.Second
	retryMax = 2 * time.Minute
	saveMin  = 500 * time.Millisecond
	saveMax  = 30 * time.Second

	scavengeEvery = 5 * time.Minute
)

// runTerm serves claims until ctx ends, with a controller and caches of its own,
// and returns when all its workers have stopped.
func (f *FrontEnd) runTerm(ctx context.Context, cluster string, r rights) {
	// Half of an object's size in memory is the account of who set which field.
	factory := informers.NewSharedInformerFactoryWithOptions(f.client, controller.DefaultResyncPeriod, informers.WithTransform(stripManagedFields))
	neighbours := newInstances(f.o.Provisioner, func() instance { return f.self(ctx) })
	neighbours.blind = r.blind()
	taker := newTaker(f.client, neighbours, factory.Storage().V1().StorageClasses().Lister(), f.o.Log)
	events := newRecorder(ctx, f.client)
	p := &provisioner{
		name: f.o.Provisioner, client: f.client, objects: f.client.objects, pools: f.o.Pools, volumes: factory.Core().V1().PersistentVolumes().Lister(), cluster: cluster, node: f.node, address: f.address, taker: taker,
		advisor: newAdvisor(events), log: f.o.Log, observe: f.o.Observe,
	}
	volumes, claims := factory.Core().V1().PersistentVolumes().Informer(), factory.Core().V1().PersistentVolumeClaims().Informer()
	if _, err := claims.AddEventHandler(taker.handler()); err != nil {
		f.o.Log.Error("cannot watch claims", "err", err)
		return
	}
	grower := &grower{
		provisioner: p, claims: factory.Core().V1().PersistentVolumeClaims().Lister(), volumes: factory.Core().V1().PersistentVolumes().Lister(),
		classes: factory.Storage().V1().StorageClasses().Lister(), events: events, allowed: r.growth, queue: newQueue(), log: f.o.Log,
	}
	if _, err := claims.AddEventHandler(grower.handler()); err != nil {
		f.o.Log.Error("cannot watch claims", "err", err)
		return
	}
	if err := f.watchNeighbours(ctx, neighbours); err != nil {
		f.o.Log.Error("cannot watch other instances", "err", err)
		return
	}
	published := f.markPublished(ctx, p)
	if _, err := volumes.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: published, UpdateFunc: func(_, o any) { published(o) }}); err != nil {
		f.o.Log.Error("cannot watch PersistentVolumes", "err", err)
		return
	}
	static := newStatics(f.client, f.address, f.o.Pools, f.o.Log)
	if _, err := volumes.AddEventHandler(static.handler()); err != nil {
		f.o.Log.Error("cannot watch PersistentVolumes", "err", err)
		return
	}
	library := controller.NewProvisionController(ctx, tolerant{f.client}, f.o.Provisioner, p,
		controller.LeaderElection(false),
		controller.AddFinalizer(r.finalizers),
		controller.Threadiness(f.o.Workers),
		controller.VolumeName(namer{factory.Storage().V1().StorageClasses().Lister(), f.o.Pools}.name),
		controller.FailedProvisionThreshold(f.o.FailedRetryThreshold),
		controller.FailedDeleteThreshold(0), // a volume that cannot be deleted now must not be left for ever
		controller.RateLimiter(workqueue.NewTypedItemExponentialFailureRateLimiter[string](retryMin, retryMax)),
		// Without it the library deletes the volume when saving its PersistentVolume
		// failed five times, also if the last try timed out but went through.
		controller.CreateProvisionedPVLimiter(workqueue.NewTypedItemExponentialFailureRateLimiter[string](saveMin, saveMax)),
		controller.ClaimsInformer(filtered{claims, ofClaims(taker.mine)}),
		controller.VolumesInformer(filtered{volumes, ofVolumes(p.owns)}),
		controller.ClassesInformer(factory.Storage().V1().StorageClasses().Informer()),
		controller.MetricsInstance(f.o.Metrics),
	)
	for _, pool := range f.o.Pools {
		pool.Volumes.AskWanted(func(ctx context.Context, v volume.Volume) (bool, error) { return p.wanted(ctx, pool, v) })
	}
	var workers sync.WaitGroup
	library.ControllerWaitGroup(&workers)
	workers.Go(func() { f.scavenge(ctx, p) })
	workers.Go(func() { taker.run(ctx) })
	workers.Go(func() { static.run(ctx, volumes) })
	workers.Go(func() {
		grower.run(ctx, f.o.Workers, volumes.HasSynced, claims.HasSynced, factory.Storage().V1().StorageClasses().Informer().HasSynced)
	})
	if r.snapshots {
		workers.Go(func() { f.serveSnapshots(ctx, p, factory, events, r.schedules) })
	}
	factory.Start(ctx.Done())
	f.o.Log.Info("serving claims")
	library.Run(ctx)
	workers.Wait()
	factory.Shutdown()
}

// watchNeighbours has i told of the Leases of other instances until ctx ends, and
// returns when it knows those that there are.
func (f *FrontEnd) watchNeighbours(ctx context.Context, i *instances) error {
	if i.blind {
		return nil
	}
	factory := informers.NewSharedInformerFactoryWithOptions(f.client, 0, informers.WithNamespace(f.client.namespace), informers.WithTransform(stripManagedFields),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = labelManagedBy + "=" + managedBy }))
	leases := factory.Coordination().V1().Leases().Informer()
	registration, err := leases.AddEventHandler(i.handler())
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	cache.WaitForCacheSync(ctx.Done(), registration.HasSynced)
	return nil
}

// filtered hides from the library what is not this instance's. It would put its
// finalizer on each PersistentVolume that bears the provisioner's name, also on
// those of another instance, or of the program that Berth takes the place of, where
// nobody would ever remove it; and it would make volumes for claims that another
// instance has taken.
type filtered struct {
	cache.SharedIndexInformer
	ours func(any) bool
}

func (f filtered) AddEventHandlerWithResyncPeriod(h cache.ResourceEventHandler, resync time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	ours := func(object any) bool {
		if deleted, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = deleted.Obj
		}
		return f.ours(object)
	}
	return f.SharedIndexInformer.AddEventHandlerWithResyncPeriod(cache.FilteringResourceEventHandler{FilterFunc: ours, Handler: h}, resync)
}

func ofClaims(ours func(*v1.PersistentVolumeClaim) bool) func(any) bool {
	return func(object any) bool {
		claim, ok := object.(*v1.PersistentVolumeClaim)
		return ok && ours(claim)
	}
}

func ofVolumes(ours func(*v1.PersistentVolume) bool) func(any) bool {
	return func(object any) bool {
		pv, ok := object.(*v1.PersistentVolume)
		return ok && ours(pv)
	}
}

func stripManagedFields(object any) (any, error) {
	// One that has none may be shared with who else watches.
	if o, err := meta.Accessor(object); err == nil && o.GetManagedFields() != nil {
		o.SetManagedFields(nil)
	}
	return object, nil
}

// markPublished is called for each PersistentVolume that appears or changes, and
// once for each that is there at the start.
func (f *FrontEnd) markPublished(ctx context.Context, p *provisioner) func(any) {
	return func(object any) {
		pv, ok := object.(*v1.PersistentVolume)
		if !ok {
			return
		}
		pool := p.poolOf(pv)
		name, err := p.volumeOf(pv)
		if pool == nil || err != nil {
			return
		}
		// If it fails it is tried again when the PersistentVolume is bound, and at
		// each resync; meanwhile the scavenger asks whether there is one.
		// Of a pool that is away there may be thousands.
		err = pool.Volumes.MarkPublished(ctx, name)
		if err != nil && !errors.Is(err, volume.ErrNotFound) && !errors.Is(err, volume.ErrBusy) && ctx.Err() == nil {
			f.o.Log.Warn("cannot record that a PersistentVolume exists", "volume", name, "err", err)
		}
	}
}

// scavenge looks for volumes that a crash left behind: once now, then regularly.
func (f *FrontEnd) scavenge(ctx context.Context, p *provisioner) {
	every := time.NewTicker(min(scavengeEvery, max(f.o.ScavengeAfter, time.Second)))
	defer every.Stop()
	for {
		for _, pool := range f.o.Pools {
			wanted := func(ctx context.Context, v volume.Volume) (bool, error) { return p.wanted(ctx, pool, v) }
			_, err := pool.Volumes.Scavenge(ctx, p.cluster, f.o.ScavengeAfter, wanted)
			if err != nil && ctx.Err() == nil {
				f.o.Log.Warn("looking for volumes that were never handed out", "pool", pool.Volumes.Pool(), "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
	}
}

// wanted is a volume.Wanted for pool.
func (p *provisioner) wanted(ctx context.Context, pool *Pool, v volume.Volume) (bool, error) {
	if v.SnapshotOf != (volume.Name{}) {
		return p.wantsSnapshot(ctx, v)
	}
	pv, err := p.client.CoreV1().PersistentVolumes().Get(ctx, v.Name.String(), metav1.GetOptions{})
	switch {
	case err == nil:
		// Another instance may have made this claim's volume; then ours is a
		// left-over, unless it was published too: then the PersistentVolume is ours, from when
		// the pool had another identity. One that does not say whose it is may be ours.
		instance := pv.Annotations[annInstance]
		return v.Published || instance == "" || instance == pool.Instance, nil
	case !apierrors.IsNotFound(err):
		return false, fmt.Errorf("reading PersistentVolume %s: %w", v.Name, err)
	}
	// Also a claim that another instance has taken: until a PersistentVolume of that one
	// is there, saving ours may be under way, and without its data it would be bound.
	anybodys := func(*v1.PersistentVolumeClaim) bool { return true }
	return claimWants(ctx, p.client, v.Claim, v.Name.String(), anybodys, metav1.GetOptions{})
}
