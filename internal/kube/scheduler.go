package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/berth-storage/berth/internal/volume"
)

// Reasons of the events on a claim that has a schedule.
const (
	reasonBadSchedule  = "SnapshotScheduleInvalid"
	reasonNotScheduled = "ScheduledSnapshotFailed"
)

// indexScheduled finds the VolumeSnapshots of a schedule: ten thousand claims may be of one namespace.
const indexScheduled = "berth-schedule"

// scheduler makes the VolumeSnapshots of claims that have a schedule, and deletes those
// that are not to be kept. It remembers nothing: the VolumeSnapshots say when they were due.
type scheduler struct {
	*snapshotter

	storageClasses storagelisters.StorageClassLister
	scheduled      cache.Indexer // of VolumeSnapshots
	allowed        bool          // to make and delete them
	due            workqueue.TypedRateLimitingInterface[cache.ObjectName]
	// told is what is wrong with claims, so that it is said once.
	told map[cache.ObjectName]string
}

// newScheduler makes one before the VolumeSnapshots are watched.
func newScheduler(s *snapshotter, core informers.SharedInformerFactory, snapshots cache.SharedIndexInformer, allowed bool) (*scheduler, error) {
	err := snapshots.AddIndexers(cache.Indexers{indexScheduled: func(object any) ([]string, error) {
		if u, ok := object.(*unstructured.Unstructured); ok && u.GetLabels()[labelScheduleOf] != "" {
			return []string{scheduleKey(u.GetNamespace(), u.GetLabels()[labelScheduleOf])}, nil
		}
		return nil, nil
	}})
	return &scheduler{
		snapshotter: s, storageClasses: core.Storage().V1().StorageClasses().Lister(), scheduled: snapshots.GetIndexer(), allowed: allowed,
		due: newQueue(), told: make(map[cache.ObjectName]string),
	}, err
}

func scheduleKey(namespace, claim string) string { return namespace + "/" + claim }

// watch has claims looked at when they, or their scheduled snapshots, change.
func (s *scheduler) watch(core informers.SharedInformerFactory, caches dynamicinformer.DynamicSharedInformerFactory) error {
	_, err := core.Core().V1().PersistentVolumeClaims().Informer().AddEventHandler(s.ofClaims())
	_, err2 := caches.ForResource(snapshotResource(snapshotsPlural)).Informer().AddEventHandler(s.ofSnapshots())
	return errors.Join(err, err2)
}

// ofClaims queues claims that appear or change.
func (s *scheduler) ofClaims() cache.ResourceEventHandler {
	look := func(object any) {
		if key, err := cache.DeletionHandlingObjectToName(object); err == nil {
			s.due.Add(key)
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: look, UpdateFunc: func(_, now any) { look(now) }, DeleteFunc: look}
}

// ofSnapshots queues the claims of scheduled VolumeSnapshots.
func (s *scheduler) ofSnapshots() cache.ResourceEventHandler {
	look := func(object any) {
		if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = gone.Obj
		}
		snapshot, err := parseObject[volumeSnapshot](object)
		if err == nil && snapshot.Labels[labelScheduleOf] != "" && snapshot.Spec.Source.Claim != nil {
			s.due.Add(cache.NewObjectName(snapshot.Namespace, *snapshot.Spec.Source.Claim))
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: look, UpdateFunc: func(_, now any) { look(now) }, DeleteFunc: look}
}

// follow has schedules followed until ctx ends, from when all that they are looked up in is known.
// One goroutine is enough: others take the snapshots.
func (s *scheduler) follow(ctx context.Context, known ...cache.InformerSynced) {
	context.AfterFunc(ctx, s.due.ShutDown)
	if !cache.WaitForCacheSync(ctx.Done(), known...) {
		return
	}
	for s.nextClaim(ctx) {
	}
}

// nextClaim works on one claim; false says that the queue has ended.
func (s *scheduler) nextClaim(ctx context.Context) bool {
	key, ended := s.due.Get()
	if ended {
		return false
	}
	defer s.due.Done(key)
	next, err := s.lookAtClaim(ctx, key)
	if err != nil && ctx.Err() == nil {
		s.log.Debug("a claim has not the snapshots that its schedule says", "claim", key.String(), "err", err)
		s.due.AddRateLimited(key)
		return true
	}
	s.due.Forget(key)
	if !next.IsZero() {
		s.due.AddAfter(key, time.Until(next))
	}
	return true
}

// lookAtClaim does what the schedule of a claim says, and gives when there is something to do
// again. Its error says that it has to be tried again; whoever waits for it was told.
func (s *scheduler) lookAtClaim(ctx context.Context, key cache.ObjectName) (next time.Time, err error) {
	claim, err := s.claims.PersistentVolumeClaims(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		s.tell(key, nil, "", nil)
		return next, nil
	}
	if err != nil || claim.Status.Phase != v1.ClaimBound || claim.DeletionTimestamp != nil {
		return next, err
	}
	pv, err := s.volumeOfClaim(claim)
	if apierrors.IsNotFound(err) {
		return next, nil // lost; if it is only not seen yet, a resync comes back to it
	}
	if err != nil || pv == nil {
		return next, err
	}
	plan, err := s.scheduleOf(claim)
	if err != nil || plan == nil {
		s.tell(key, claim, reasonBadSchedule, err)
		return next, nil // until somebody changes it
	}
	next, err = s.keepTo(ctx, plan, claim)
	s.tell(key, claim, reasonNotScheduled, err)
	return next, err
}

func (s *scheduler) scheduleOf(claim *v1.PersistentVolumeClaim) (*schedule, error) {
	var class *storagev1.StorageClass
	if name := classOf(claim); name != "" {
		var err error
		if class, err = s.storageClasses.Get(name); err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
	}
	return scheduleOf(claim, class)
}

// tell makes an event of what is wrong with a claim's schedule, unless it was said before.
func (s *scheduler) tell(key cache.ObjectName, claim *v1.PersistentVolumeClaim, reason string, err error) {
	if err == nil {
		delete(s.told, key)
		return
	}
	if text := err.Error(); s.told[key] != text {
		s.told[key] = text
		s.events.Eventf(claim, v1.EventTypeWarning, reason, "no scheduled snapshot is taken: %v", err)
	}
}

// keepTo brings a claim's snapshots to what its schedule says, and gives when to do that again.
func (s *scheduler) keepTo(ctx context.Context, plan *schedule, claim *v1.PersistentVolumeClaim) (next time.Time, err error) {
	if !s.allowed {
		return next, fmt.Errorf("%w: Berth's role lacks the verb create or delete for volumesnapshots; see docs/operating.md", volume.ErrUnsupported)
	}
	objects, err := s.scheduled.ByIndex(indexScheduled, scheduleKey(claim.Namespace, string(claim.UID)))
	if err != nil {
		return next, err
	}
	var own []scheduled
	for _, object := range objects {
		if snapshot, ours := parseScheduled(object, claim); ours {
			own = append(own, snapshot)
		}
	}
	newestFirst(own)
	now := time.Now()
	gone, expires := plan.surplus(own, now)
	for _, snapshot := range gone {
		if err := s.remove(ctx, claim, snapshot); err != nil {
			return next, err
		}
	}
	since := claim.CreationTimestamp.Time
	if len(own) > 0 {
		since = own[0].at
	}
	due, next := plan.due(since, now)
	if !expires.IsZero() && expires.Before(next) {
		next = expires.Add(time.Second)
	}
	if due.IsZero() {
		return next, nil
	}
	// Else one that cannot be taken, or takes longer than until the next, would become many.
	if len(own) > 0 && !own[0].ready && !own[0].leaving {
		return next, fmt.Errorf("%w: VolumeSnapshot %s is not ready yet; its events say why. The next one is taken when it is, or when it is deleted", volume.ErrBusy, own[0].name)
	}
	return next, s.create(ctx, plan, claim, due)
}

// create makes the VolumeSnapshot of a claim that is due at a time, if it is not there.
func (s *scheduler) create(ctx context.Context, plan *schedule, claim *v1.PersistentVolumeClaim, at time.Time) error {
	var snapshot volumeSnapshot
	snapshot.Spec.Class = plan.class
	class, err := s.classFor(&snapshot) // before something is made that can never be ready
	if err != nil {
		return err
	}
	// The cache may be behind: a VolumeSnapshot of another claim of the name is not this one's.
	now, err := s.provisioner.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Get(ctx, claim.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && (now.UID != claim.UID || now.DeletionTimestamp != nil) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the claim: %w", err)
	}
	name, objects := scheduledName(claim.Name, at), s.objects.Resource(snapshotResource(snapshotsPlural)).Namespace(claim.Namespace)
	_, err = objects.Create(ctx, newScheduled(claim, name, class.Name, at), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		there, err := objects.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("reading VolumeSnapshot %s: %w", name, err)
		}
		if _, ours := parseScheduled(there, claim); !ours {
			return fmt.Errorf("%w: there is a VolumeSnapshot %s that is not of this schedule", volume.ErrConflict, name)
		}
		return nil // made before, and the cache does not know it yet
	}
	if err != nil {
		return fmt.Errorf("making VolumeSnapshot %s: %w", name, err)
	}
	s.log.Info("a snapshot is due", "claim", cache.MetaObjectToName(claim).String(), "snapshot", name)
	return nil
}

// newScheduled is a VolumeSnapshot that can be made.
func newScheduled(claim *v1.PersistentVolumeClaim, name, class string, at time.Time) *unstructured.Unstructured {
	snapshot := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": snapshotGroup + "/" + snapshotVersion, "kind": snapshotKind,
		"spec": map[string]any{
			"volumeSnapshotClassName": class, "source": map[string]any{"persistentVolumeClaimName": claim.Name},
		},
	}}
	snapshot.SetNamespace(claim.Namespace)
	snapshot.SetName(name)
	snapshot.SetLabels(map[string]string{labelManagedBy: managedBy, labelScheduleOf: string(claim.UID)})
	snapshot.SetAnnotations(map[string]string{annScheduledAt: at.UTC().Format(time.RFC3339)})
	return snapshot
}

// remove deletes a VolumeSnapshot of a schedule, and not another one of its name.
func (s *scheduler) remove(ctx context.Context, claim *v1.PersistentVolumeClaim, snapshot scheduled) error {
	err := s.objects.Resource(snapshotResource(snapshotsPlural)).Namespace(claim.Namespace).Delete(ctx, snapshot.name,
		metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(snapshot.uid))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("deleting VolumeSnapshot %s, which is not to be kept: %w", snapshot.name, err)
	}
	if err == nil {
		s.log.Info("a scheduled snapshot is not kept any longer", "claim", cache.MetaObjectToName(claim).String(), "snapshot", snapshot.name)
	}
	return nil
}
