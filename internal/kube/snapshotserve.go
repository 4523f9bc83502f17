package kube

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"github.com/berth-storage/berth/internal/volume"
)

// lookForSnapshots is how often it is asked whether the cluster knows VolumeSnapshots by now.
const lookForSnapshots = 15 * time.Second

// serveSnapshots serves VolumeSnapshots until ctx ends, from when the cluster knows them, and
// has them made by schedules if it may.
func (f *FrontEnd) serveSnapshots(
	ctx context.Context, p *provisioner, core informers.SharedInformerFactory, events record.EventRecorder, schedules bool,
) {
	if !f.awaitSnapshots(ctx) {
		return
	}
	caches := dynamicinformer.NewDynamicSharedInformerFactory(f.client.objects, controller.DefaultResyncPeriod)
	s := newSnapshotter(p, core, caches, events)
	scheduler, err := newScheduler(s, core, caches.ForResource(snapshotResource(snapshotsPlural)).Informer(), schedules)
	if err != nil {
		f.o.Log.Error("cannot index snapshots", "err", err)
		return
	}
	known := []cache.InformerSynced{core.Core().V1().PersistentVolumes().Informer().HasSynced, core.Core().V1().PersistentVolumeClaims().Informer().HasSynced, core.Storage().V1().StorageClasses().Informer().HasSynced}
	for _, plural := range []string{snapshotsPlural, contentsPlural, snapshotClasses} {
		objects := caches.ForResource(snapshotResource(plural)).Informer()
		err := objects.SetTransform(stripManagedFields)
		if err == nil && plural != snapshotClasses {
			_, err = objects.AddEventHandler(s.handler())
		}
		if err != nil {
			f.o.Log.Error("cannot watch snapshots", "resource", plural, "err", err)
			return
		}
		known = append(known, objects.HasSynced)
	}
	if err := scheduler.watch(core, caches); err != nil {
		f.o.Log.Error("cannot watch what schedules are for", "err", err)
		return
	}
	caches.Start(ctx.Done())
	var following sync.WaitGroup
	following.Go(func() { scheduler.follow(ctx, known...) })
	f.o.Log.Info("serving VolumeSnapshots")
	s.run(ctx, f.o.Workers, known...)
	following.Wait()
	caches.Shutdown()
}

// awaitSnapshots waits until the cluster knows VolumeSnapshots, which are no part of
// Kubernetes itself: somebody has to install them. It is false when ctx ends.
func (f *FrontEnd) awaitSnapshots(ctx context.Context) bool {
	for {
		list, err := f.client.Discovery().ServerResourcesForGroupVersion(snapshotGroup + "/" + snapshotVersion)
		if err == nil && hasAll(list, snapshotsPlural, contentsPlural, snapshotClasses) {
			return true
		}
		if err == nil || apierrors.IsNotFound(err) {
			f.saySnapshotsAreOff.Do(func() {
				f.o.Log.Info("snapshots are off: the cluster has no " + snapshotGroup + "/" + snapshotVersion + " API; they are on as soon as its definitions and the snapshot-controller are installed")
			})
		} else {
			f.o.Log.Warn("cannot ask whether the cluster knows VolumeSnapshots", "err", err)
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(lookForSnapshots):
		}
	}
}

func hasAll(list *metav1.APIResourceList, plurals ...string) bool {
	for _, plural := range plurals {
		if !slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == plural }) {
			return false
		}
	}
	return true
}

// wantsSnapshot is wanted for a snapshot that was never said to be ready: whether the content
// is there that it is taken for.
func (p *provisioner) wantsSnapshot(ctx context.Context, v volume.Volume) (bool, error) {
	uid, ours := strings.CutPrefix(v.Name.String(), snapshotPrefix)
	if !ours {
		return true, nil
	}
	_, err := p.objects.Resource(snapshotResource(contentsPlural)).Get(ctx, contentPrefix+uid, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return true, err
}
