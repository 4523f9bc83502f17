package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"github.com/berth-storage/berth/internal/volume"
)

// Reasons of the events on a claim that grows, the same as for CSI volumes.
const (
	reasonGrowing   = "Resizing"
	reasonGrown     = "VolumeResizeSuccessful"
	reasonNotGrown  = "VolumeResizeFailed"
	growthStorage   = v1.ResourceStorage
	growthCondition = v1.PersistentVolumeClaimResizing
)

// grower gives claims the size that was asked for after they were bound. Kubernetes has
// that done by whoever made a volume that is not of CSI: its own controller only says
// that it waits. See https://kubernetes.io/docs/concepts/storage/persistent-volumes/#expanding-persistent-volumes-claims
//
// The volume grows first, then its PersistentVolume, then what the claim's status says:
// a run that was cut off is gone on with from the claim, whose status is behind.
type grower struct {
	provisioner *provisioner
	claims      corelisters.PersistentVolumeClaimLister
	volumes     corelisters.PersistentVolumeLister
	classes     storagelisters.StorageClassLister
	events      record.EventRecorder
	allowed     bool // to change PersistentVolumes and the status of claims
	queue       workqueue.TypedRateLimitingInterface[cache.ObjectName]
	log         *slog.Logger
}

// newQueue is one of objects that are tried again after longer and longer pauses.
func newQueue() workqueue.TypedRateLimitingInterface[cache.ObjectName] {
	return workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[cache.ObjectName](retryMin, retryMax))
}

// handler queues claims that may have to grow.
func (g *grower) handler() cache.ResourceEventHandler {
	look := func(object any) {
		claim, ok := object.(*v1.PersistentVolumeClaim)
		if !ok || !wantsToGrow(claim) {
			return
		}
		g.queue.Add(cache.MetaObjectToName(claim))
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: look,
		UpdateFunc: func(before, now any) {
			b, _ := before.(*v1.PersistentVolumeClaim)
			n, _ := now.(*v1.PersistentVolumeClaim)
			// What this controller itself says in the status is no reason to try again
			// before it is time to.
			if b == nil || n == nil || b.ResourceVersion == n.ResourceVersion || b.Status.Phase != n.Status.Phase || !b.Spec.Resources.Requests.Storage().Equal(requestOf(n)) {
				look(now)
			}
		},
	}
}

// run lets claims grow until ctx ends, from when all that it looks things up in is known.
func (g *grower) run(ctx context.Context, workers int, known ...cache.InformerSynced) {
	var working sync.WaitGroup
	if cache.WaitForCacheSync(ctx.Done(), known...) {
		for range workers {
			working.Go(func() {
				for g.next(ctx) {
				}
			})
		}
	}
	<-ctx.Done()
	g.queue.ShutDown()
	working.Wait()
}

// next works on one claim; false says that the queue has ended.
func (g *grower) next(ctx context.Context) bool {
	key, ended := g.queue.Get()
	if ended {
		return false
	}
	defer g.queue.Done(key)
	if err := g.look(ctx, key); err != nil && ctx.Err() == nil {
		g.log.Debug("a claim did not grow", "claim", key.String(), "err", err)
		g.queue.AddRateLimited(key)
		return true
	}
	g.queue.Forget(key)
	return true
}

// look has the claim of that name grow if it wants to and its volume is ours. Its error
// says that it has to be tried again; whoever waits for the claim was told.
func (g *grower) look(ctx context.Context, key cache.ObjectName) error {
	claim, err := g.claims.PersistentVolumeClaims(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil || !wantsToGrow(claim) {
		return err
	}
	pv, err := g.volumes.Get(claim.Spec.VolumeName)
	if apierrors.IsNotFound(err) {
		return nil // lost; if it is only not seen yet, a resync comes back to it
	}
	if err != nil || !g.provisioner.owns(pv) || pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != claim.UID {
		return err
	}
	if !asksForMore(claim) {
		return g.takenBack(ctx, claim, pv)
	}
	wish := claim.Spec.Resources.Requests.Storage().String()
	if _, begun := claim.Status.AllocatedResourceStatuses[growthStorage]; !begun && g.allowed {
		g.events.Eventf(claim, v1.EventTypeNormal, reasonGrowing, "Berth makes volume %s grow to %s", pv.Name, wish)
	}
	v, err := g.grow(ctx, claim, pv)
	if apierrors.IsConflict(err) {
		return err // the claim has changed since: only the next try shows what is wanted
	}
	if err != nil {
		g.events.Eventf(claim, v1.EventTypeWarning, reasonNotGrown, "volume %s does not grow to %s: %v", pv.Name, wish, err)
		return err
	}
	g.log.Info("a volume has grown", "volume", pv.Name, "claim", key.String(), "bytes", v.Size)
	advice := ""
	if v.Limit == volume.LimitNone {
		advice = "; nothing keeps it to that size, which is advisory"
	}
	g.events.Eventf(claim, v1.EventTypeNormal, reasonGrown, "volume %s has grown to %s%s", pv.Name, wish, advice)
	return nil
}

// grow does the three steps, each of which changes nothing if it was done before.
func (g *grower) grow(ctx context.Context, claim *v1.PersistentVolumeClaim, pv *v1.PersistentVolume) (v volume.Volume, err error) {
	defer g.provisioner.observed("grow", &err)()
	if !g.allowed {
		return v, fmt.Errorf("%w: Berth's role lacks the verb patch for persistentvolumes or persistentvolumeclaims/status; see docs/operating.md", volume.ErrUnsupported)
	}
	if claim, err = g.patchStatus(ctx, claim, growing(v1.PersistentVolumeClaimControllerResizeInProgress, nil)); err != nil {
		return v, err
	}
	if v, err = g.growVolume(ctx, claim, pv); err != nil {
		if infeasible(err) {
			_, statusErr := g.patchStatus(ctx, claim, growing(v1.PersistentVolumeClaimControllerResizeInfeasible, err))
			err = errors.Join(err, statusErr)
		}
		return v, err
	}
	return v, g.tell(ctx, claim, pv, atLeast(requestOf(claim), v.Size))
}

// takenBack ends the growth of a claim whose request was lowered to what it had. Its volume
// may have grown before that, and is never made smaller: then the claim has more than it asks for.
func (g *grower) takenBack(ctx context.Context, claim *v1.PersistentVolumeClaim, pv *v1.PersistentVolume) error {
	capacity := *claim.Status.Capacity.Storage()
	if name, err := g.provisioner.volumeOf(pv); err == nil && g.allowed {
		v, err := g.provisioner.poolOf(pv).Volumes.Get(ctx, name)
		if err != nil && !errors.Is(err, volume.ErrNotFound) {
			return err
		}
		capacity = atLeast(capacity, v.Size)
	}
	return g.tell(ctx, claim, pv, capacity)
}

// tell says what a claim's volume has: the PersistentVolume first, whose capacity nobody waits for.
func (g *grower) tell(ctx context.Context, claim *v1.PersistentVolumeClaim, pv *v1.PersistentVolume, capacity resource.Quantity) error {
	if now := pv.Spec.Capacity[growthStorage]; g.allowed && now.Cmp(capacity) < 0 {
		patch, err := json.Marshal(map[string]any{"spec": map[string]any{"capacity": v1.ResourceList{growthStorage: capacity}}})
		if err != nil {
			return err
		}
		if _, err := g.provisioner.client.CoreV1().PersistentVolumes().Patch(ctx, pv.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("changing the PersistentVolume: %w", err)
		}
	}
	_, err := g.patchStatus(ctx, claim, func(s *v1.PersistentVolumeClaimStatus, c *v1.PersistentVolumeClaim) {
		noGrowth(s, c)
		if s.Capacity == nil {
			s.Capacity = v1.ResourceList{}
		}
		s.Capacity[growthStorage] = capacity
	})
	return err
}

func (g *grower) growVolume(ctx context.Context, claim *v1.PersistentVolumeClaim, pv *v1.PersistentVolume) (volume.Volume, error) {
	class, err := g.classes.Get(classOf(claim))
	switch {
	case apierrors.IsNotFound(err), err == nil && (class.AllowVolumeExpansion == nil || !*class.AllowVolumeExpansion):
		return volume.Volume{}, fmt.Errorf("%w: its StorageClass %q does not say allowVolumeExpansion", volume.ErrUnsupported, classOf(claim))
	case err != nil:
		return volume.Volume{}, err
	}
	size, err := sizeOf(requestOf(claim))
	if err != nil {
		return volume.Volume{}, err
	}
	name, err := g.provisioner.volumeOf(pv)
	if err != nil {
		return volume.Volume{}, err
	}
	return g.provisioner.poolOf(pv).Volumes.Grow(ctx, name, g.provisioner.cluster, size)
}

// infeasible says whether only somebody's doing can help: asking for less, or making room.
func infeasible(err error) bool {
	for _, e := range []error{volume.ErrNoSpace, volume.ErrUnsupported, volume.ErrInvalid, volume.ErrForeign, volume.ErrConflict, volume.ErrNotFound} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// growing says in a claim's status how far its growth has got, and what is in its way. What was in the
// way of another size is not said any more.
func growing(how v1.ClaimResourceStatus, why error) statusChange {
	return func(s *v1.PersistentVolumeClaimStatus, claim *v1.PersistentVolumeClaim) {
		if s.AllocatedResources == nil {
			s.AllocatedResources = v1.ResourceList{}
		}
		if s.AllocatedResourceStatuses == nil {
			s.AllocatedResourceStatuses = map[v1.ResourceName]v1.ClaimResourceStatus{}
		}
		request := requestOf(claim)
		if last := s.AllocatedResources[growthStorage]; !last.Equal(request) {
			noGrowth(s, claim)
		}
		s.AllocatedResources[growthStorage] = request
		s.AllocatedResourceStatuses[growthStorage] = how
		setCondition(s, growthCondition, "")
		if why != nil {
			setCondition(s, v1.PersistentVolumeClaimControllerResizeError, why.Error())
		}
	}
}

// noGrowth takes away what growing says.
func noGrowth(s *v1.PersistentVolumeClaimStatus, _ *v1.PersistentVolumeClaim) {
	delete(s.AllocatedResources, growthStorage)
	delete(s.AllocatedResourceStatuses, growthStorage)
	var others []v1.PersistentVolumeClaimCondition
	for _, c := range s.Conditions {
		if c.Type != growthCondition && c.Type != v1.PersistentVolumeClaimControllerResizeError {
			others = append(others, c)
		}
	}
	s.Conditions = others
}

// setCondition says that a condition is so, from now on if it was not.
func setCondition(s *v1.PersistentVolumeClaimStatus, what v1.PersistentVolumeClaimConditionType, message string) {
	for i, c := range s.Conditions {
		if c.Type == what {
			s.Conditions[i].Message = message
			return
		}
	}
	s.Conditions = append(s.Conditions, v1.PersistentVolumeClaimCondition{
		Type: what, Status: v1.ConditionTrue, LastTransitionTime: metav1.Now(), Message: message,
	})
}

type statusChange func(*v1.PersistentVolumeClaimStatus, *v1.PersistentVolumeClaim)

// patchStatus changes the claim's status, unless it has changed since it was read, and
// returns the claim as it is then.
func (g *grower) patchStatus(ctx context.Context, claim *v1.PersistentVolumeClaim, change statusChange) (*v1.PersistentVolumeClaim, error) {
	if !g.allowed {
		return claim, nil
	}
	changed := claim.DeepCopy()
	change(&changed.Status, changed)
	before, err := json.Marshal(v1.PersistentVolumeClaim{Status: claim.Status})
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(v1.PersistentVolumeClaim{Status: changed.Status, ObjectMeta: metav1.ObjectMeta{ResourceVersion: claim.ResourceVersion, UID: claim.UID}})
	if err != nil {
		return nil, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, v1.PersistentVolumeClaim{})
	if err != nil {
		return nil, err
	}
	patched, err := g.provisioner.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Patch(ctx, claim.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return nil, fmt.Errorf("changing the claim's status: %w", err)
	}
	return patched, nil
}

// wantsToGrow says whether a claim asks for more than it has, or did and was left in the
// middle of that.
func wantsToGrow(claim *v1.PersistentVolumeClaim) bool {
	_, begun := claim.Status.AllocatedResourceStatuses[growthStorage]
	return claim.Status.Phase == v1.ClaimBound && claim.DeletionTimestamp == nil && (begun || asksForMore(claim))
}

func asksForMore(claim *v1.PersistentVolumeClaim) bool {
	request := requestOf(claim)
	return request.Cmp(*claim.Status.Capacity.Storage()) > 0
}

func requestOf(claim *v1.PersistentVolumeClaim) resource.Quantity {
	return *claim.Spec.Resources.Requests.Storage()
}
