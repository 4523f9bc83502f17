package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"github.com/berth-storage/berth/internal/volume"
)

// Reasons of the events on a VolumeSnapshot, the same as for CSI volumes.
const (
	reasonSnapshotTaken   = "SnapshotCreated"
	reasonSnapshotCopying = "CreatingSnapshot"
	reasonNotTaken        = "SnapshotCreationFailed"
	reasonNotDeleted      = "SnapshotDeleteError"
)

// lookAgain is when a snapshot that is being copied is asked for again.
const lookAgain = 2 * time.Second

// tellings is how often the snapshot-controller is told that a content is ready.
const tellings = 8

// snapshotter takes the snapshots that VolumeSnapshots ask for. The snapshot-controller
// does that for CSI volumes only, by making a VolumeSnapshotContent for the driver to fill.
// It refuses all others, but goes by a content that is there already: Berth makes it. From then
// on Berth does to contents what the sidecar of a CSI driver does. See
// https://github.com/kubernetes-csi/external-snapshotter
type snapshotter struct {
	provisioner *provisioner
	objects     dynamic.Interface
	claims      corelisters.PersistentVolumeClaimLister
	volumes     corelisters.PersistentVolumeLister
	snapshots   cache.GenericLister
	contents    cache.GenericLister
	classes     cache.GenericLister
	events      record.EventRecorder
	// queue holds VolumeSnapshots, and contents, which have no namespace.
	queue workqueue.TypedRateLimitingInterface[cache.ObjectName]
	log   *slog.Logger
}

func newSnapshotter(p *provisioner, core informers.SharedInformerFactory, caches dynamicinformer.DynamicSharedInformerFactory,
	events record.EventRecorder,
) *snapshotter {
	lister := func(plural string) cache.GenericLister { return caches.ForResource(snapshotResource(plural)).Lister() }
	return &snapshotter{
		provisioner: p, objects: p.objects, events: events, log: p.log,
		claims: core.Core().V1().PersistentVolumeClaims().Lister(), volumes: core.Core().V1().PersistentVolumes().Lister(),
		snapshots: lister(snapshotsPlural), contents: lister(contentsPlural), classes: lister(snapshotClasses),
		queue: newQueue(),
	}
}

// handler queues objects that appear or change.
func (s *snapshotter) handler() cache.ResourceEventHandler {
	look := func(object any) {
		if u, ok := object.(*unstructured.Unstructured); ok {
			s.queue.Add(cache.MetaObjectToName(u))
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: look,
		UpdateFunc: func(before, now any) {
			b, _ := before.(*unstructured.Unstructured)
			n, _ := now.(*unstructured.Unstructured)
			// What is said in a status is no reason to try again before it is time to.
			if b == nil || n == nil || b.GetResourceVersion() == n.GetResourceVersion() || b.GetGeneration() != n.GetGeneration() ||
				n.GetDeletionTimestamp() != nil || signs(b) != signs(n) {
				look(now)
			}
		},
	}
}

// signs are the annotations that decide what is done to a content.
func signs(content *unstructured.Unstructured) [2]string {
	a := content.GetAnnotations()
	return [2]string{a[annInstance], a[annBeingDeleted]}
}

// run serves snapshots until ctx ends, from when all that they are looked up in is known.
func (s *snapshotter) run(ctx context.Context, workers int, known ...cache.InformerSynced) {
	var working sync.WaitGroup
	if cache.WaitForCacheSync(ctx.Done(), known...) {
		for range workers {
			working.Go(func() {
				for s.next(ctx) {
				}
			})
		}
	}
	<-ctx.Done()
	s.queue.ShutDown()
	working.Wait()
}

// next works on one object; false says that the queue has ended.
func (s *snapshotter) next(ctx context.Context) bool {
	key, ended := s.queue.Get()
	if ended {
		return false
	}
	defer s.queue.Done(key)
	look := s.lookAtSnapshot
	if key.Namespace == "" {
		look = s.lookAtContent
	}
	err := look(ctx, key)
	switch {
	case err == nil || ctx.Err() != nil:
		s.queue.Forget(key)
	case errors.Is(err, volume.ErrQueued):
		s.queue.AddRateLimited(key) // there may be thousands
	case errors.Is(err, volume.ErrPending):
		s.queue.Forget(key)
		s.queue.AddAfter(key, lookAgain)
	default:
		s.log.Debug("a snapshot is not as it should be", "object", key.String(), "err", err)
		s.queue.AddRateLimited(key)
	}
	return true
}

// lookAtSnapshot makes the content of a VolumeSnapshot of a claim whose volume is ours.
// Its error says that it has to be tried again; whoever waits for it was told.
func (s *snapshotter) lookAtSnapshot(ctx context.Context, key cache.ObjectName) error {
	object, err := s.snapshots.ByNamespace(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	snapshot, err := parseObject[volumeSnapshot](object)
	if err != nil {
		return err
	}
	if snapshot.Spec.Source.Claim == nil || snapshot.DeletionTimestamp != nil || snapshot.Status.Ready {
		return nil
	}
	if _, err := s.contents.Get(contentOf(snapshot.UID)); !apierrors.IsNotFound(err) {
		return err
	}
	pv, err := s.volumeFor(snapshot)
	if err != nil || pv == nil {
		return err
	}
	if err := s.makeContent(ctx, snapshot, pv); err != nil {
		s.events.Eventf(snapshot.reference(), v1.EventTypeWarning, reasonNotTaken, "no snapshot is taken of volume %s: %v", pv.Name, err)
		return err
	}
	return nil
}

// volumeFor gives the PersistentVolume of a VolumeSnapshot's claim; nil if it is not ours.
func (s *snapshotter) volumeFor(snapshot *volumeSnapshot) (*v1.PersistentVolume, error) {
	claim, err := s.claims.PersistentVolumeClaims(snapshot.Namespace).Get(*snapshot.Spec.Source.Claim)
	if err != nil {
		return nil, err
	}
	if claim.Status.Phase != v1.ClaimBound {
		return nil, fmt.Errorf("%w: claim %s/%s is not bound to a volume", volume.ErrBusy, claim.Namespace, claim.Name)
	}
	return s.volumeOfClaim(claim)
}

// volumeOfClaim gives the PersistentVolume of a claim that is bound; nil if it is not ours.
func (s *snapshotter) volumeOfClaim(claim *v1.PersistentVolumeClaim) (*v1.PersistentVolume, error) {
	pv, err := s.volumes.Get(claim.Spec.VolumeName)
	if err != nil {
		return nil, err
	}
	// A claim can be made that names any PersistentVolume; that one says whose it is.
	if !s.provisioner.owns(pv) || pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != claim.UID {
		return nil, nil
	}
	return pv, nil
}

// makeContent makes the content of a VolumeSnapshot of a volume of ours.
func (s *snapshotter) makeContent(ctx context.Context, snapshot *volumeSnapshot, pv *v1.PersistentVolume) error {
	class, err := s.classFor(snapshot)
	if err != nil {
		return err
	}
	name, err := s.provisioner.volumeOf(pv)
	if err != nil {
		return err
	}
	// The cache may be behind: a claim that was made again has another volume.
	claim, err := s.provisioner.client.CoreV1().PersistentVolumeClaims(snapshot.Namespace).Get(ctx, *snapshot.Spec.Source.Claim, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("reading its claim: %w", err)
	}
	if claim.UID != pv.Spec.ClaimRef.UID {
		return fmt.Errorf("%w: claim %s/%s was made again just now", volume.ErrBusy, claim.Namespace, claim.Name)
	}
	// Nobody would delete the content of a VolumeSnapshot that is gone.
	if now, err := s.standingOf(ctx, snapshot.reference()); err != nil || now != isWanted {
		return err
	}
	if snapshot.Spec.Class == nil {
		if err := s.patch(ctx, snapshotsPlural, snapshot.Namespace, snapshot.Name, map[string]any{
			"metadata": map[string]any{"uid": snapshot.UID}, "spec": map[string]any{"volumeSnapshotClassName": class.Name},
		}); err != nil {
			return fmt.Errorf("giving it the default VolumeSnapshotClass %s: %w", class.Name, err)
		}
	}
	pool := s.provisioner.poolOf(pv)
	content, err := newContent(metav1.ObjectMeta{
		Name: contentOf(snapshot.UID), Labels: map[string]string{labelManagedBy: managedBy, labelPool: pool.Volumes.Pool()},
		Annotations: map[string]string{annInstance: pool.Instance},
	}, contentSpec{
		Driver: s.provisioner.name, DeletionPolicy: class.DeletionPolicy, Class: &class.Name, Snapshot: *snapshot.reference(),
		Source: contentSource{Volume: new(handle{pool.Volumes.Pool(), name}.String())},
	})
	if err != nil {
		return err
	}
	_, err = s.objects.Resource(snapshotResource(contentsPlural)).Create(ctx, content, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) { // that one is looked at as such
		return fmt.Errorf("making its VolumeSnapshotContent: %w", err)
	}
	return nil
}

// classFor gives the class of a VolumeSnapshot: the one that it names, else the default one.
func (s *snapshotter) classFor(snapshot *volumeSnapshot) (*snapshotClass, error) {
	if snapshot.Spec.Class != nil {
		class, err := s.class(*snapshot.Spec.Class)
		if err != nil {
			return nil, err
		}
		if class.Driver != s.provisioner.name {
			return nil, fmt.Errorf("%w: VolumeSnapshotClass %s is of driver %s, and the claim's volume is one of %s", volume.ErrInvalid, class.Name, class.Driver, s.provisioner.name)
		}
		return class, nil
	}
	objects, err := s.classes.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	var defaults []*snapshotClass
	var names []string
	for _, object := range objects {
		class, err := parseObject[snapshotClass](object)
		if err != nil {
			return nil, err
		}
		if class.Driver == s.provisioner.name && class.Annotations[annDefaultClass] == "true" {
			defaults, names = append(defaults, class), append(names, class.Name)
		}
	}
	if len(defaults) != 1 {
		slices.Sort(names)
		return nil, fmt.Errorf("%w: the VolumeSnapshot names no VolumeSnapshotClass, and of driver %s there is not one default class but %d: %s",
			volume.ErrInvalid, s.provisioner.name, len(defaults), strings.Join(names, ", "))
	}
	return defaults[0], nil
}

func (s *snapshotter) class(name string) (*snapshotClass, error) {
	object, err := s.classes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("%w: there is no VolumeSnapshotClass %s", volume.ErrInvalid, name)
	}
	if err != nil {
		return nil, err
	}
	return parseObject[snapshotClass](object)
}

// standing is what has become of a VolumeSnapshot.
type standing int

const (
	isWanted  standing = iota
	isLeaving          // it is being deleted; the snapshot-controller has its content deleted
	isGone
)

// standingOf asks the API server and not our cache.
func (s *snapshotter) standingOf(ctx context.Context, of *v1.ObjectReference) (standing, error) {
	now, err := s.objects.Resource(snapshotResource(snapshotsPlural)).Namespace(of.Namespace).Get(ctx, of.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && now.GetUID() != of.UID:
		return isGone, nil
	case err != nil:
		return 0, fmt.Errorf("reading VolumeSnapshot %s/%s: %w", of.Namespace, of.Name, err)
	case now.GetDeletionTimestamp() != nil:
		return isLeaving, nil
	}
	return isWanted, nil
}

// patch merges change into an object, or into subresources of it.
func (s *snapshotter) patch(ctx context.Context, plural, namespace, name string, change any, subresources ...string) error {
	patch, err := json.Marshal(change)
	if err != nil {
		return err
	}
	_, err = s.objects.Resource(snapshotResource(plural)).Namespace(namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}, subresources...)
	return err
}
