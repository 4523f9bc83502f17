package kube

import (
	"context"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
)

const (
	// takePatience is how long each place in the order of instances waits for the
	// one before it to take a claim.
	takePatience = 3 * time.Second
	// An instance that just began leaves claims to those that were there before it:
	// they may be making volumes in the belief that they are alone.
	takeSettle = 5 * time.Second
	// An instance that is alone need not take claims. It does after this time, for
	// the case that it was not alone when the claim was first seen.
	takeAlone = 15 * time.Second
	// A claim that did not fit here is left to others for this time.
	takeAgain  = time.Minute
	takeEvery  = time.Second
	takeAtMost = 50 * time.Millisecond // between two rounds
)

// Annotations of claims that others write; see
// https://kubernetes.io/docs/reference/labels-annotations-taints/
const (
	annStorageProvisioner     = "volume.kubernetes.io/storage-provisioner"
	annBetaStorageProvisioner = "volume.beta.kubernetes.io/storage-provisioner"
	annSelectedNode           = "volume.kubernetes.io/selected-node"
)

// taker sees to it that of several instances of one provisioner name exactly one
// makes each claim's volume: the one that wrote its id on the claim, which the API
// server lets only one do.
type taker struct {
	client    kubernetes.Interface
	instances *instances
	classes   storagelisters.StorageClassLister
	log       *slog.Logger
	now       func() time.Time
	began     time.Time
	wake      chan struct{}

	mu      sync.Mutex
	pending map[types.UID]*waitingClaim
}

// waitingClaim is a claim that waits for a volume of our provisioner.
type waitingClaim struct {
	claim  *v1.PersistentVolumeClaim
	free   time.Time // since when it is nobody's who acts; zero: it is somebody's
	passed time.Time // when we let go of it
}

func newTaker(client kubernetes.Interface, i *instances, classes storagelisters.StorageClassLister, log *slog.Logger) *taker {
	return &taker{
		client: client, instances: i, classes: classes, log: log, now: time.Now, began: time.Now(),
		wake: make(chan struct{}, 1), pending: make(map[types.UID]*waitingClaim),
	}
}

// mine says whether the claim is for this instance to serve.
func (t *taker) mine(claim *v1.PersistentVolumeClaim) bool {
	owner := claim.Annotations[annInstance]
	return owner == t.instances.id || owner == "" && t.instances.alone()
}

// mayBeMine says whether no other instance has taken the claim.
func (t *taker) mayBeMine(claim *v1.PersistentVolumeClaim) bool {
	owner := claim.Annotations[annInstance]
	return owner == "" || owner == t.instances.id
}

// handler keeps t up to date from an informer of claims.
func (t *taker) handler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    t.see,
		UpdateFunc: func(_, claim any) { t.see(claim) },
		DeleteFunc: t.forget,
	}
}

func (t *taker) see(object any) {
	claim, ok := object.(*v1.PersistentVolumeClaim)
	if !ok {
		return
	}
	provisioner, found := claim.Annotations[annStorageProvisioner]
	if !found {
		provisioner = claim.Annotations[annBetaStorageProvisioner]
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if provisioner != t.instances.provisioner || claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil {
		delete(t.pending, claim.UID)
		return
	}
	if p := t.pending[claim.UID]; p != nil {
		p.claim = claim
	} else {
		t.pending[claim.UID] = &waitingClaim{claim: claim}
	}
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *taker) forget(object any) {
	if deleted, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = deleted.Obj
	}
	if claim, ok := object.(*v1.PersistentVolumeClaim); ok {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.pending, claim.UID)
	}
}

// run takes claims until ctx ends.
func (t *taker) run(ctx context.Context) {
	every := time.NewTicker(takeEvery)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		case <-t.wake:
		}
		for _, claim := range t.due() {
			t.take(ctx, claim)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(takeAtMost):
		}
	}
}

// due are the claims that are ours to take now.
func (t *taker) due() []*v1.PersistentVolumeClaim {
	now, self := t.now(), t.instances.self()
	others := t.instances.others()
	all := append([]instance{self}, others...)
	t.mu.Lock()
	defer t.mu.Unlock()
	promised := make(map[string]int64)
	for _, p := range t.pending {
		promised[p.claim.Annotations[annInstance]] += requested(p.claim)
	}
	var due []*v1.PersistentVolumeClaim
	for _, p := range t.pending {
		if owner := p.claim.Annotations[annInstance]; owner != "" && t.instances.acts(owner) {
			p.free = time.Time{}
			continue
		}
		if p.free.IsZero() {
			p.free = now
		}
		place, ok := t.place(p.claim, all, promised, self.id)
		wait, since := time.Duration(place)*takePatience, p.free
		if t.instances.alone() && p.claim.Annotations[annInstance] == "" {
			wait = takeAlone
		} else if settled := t.began.Add(takeSettle); settled.After(since) {
			since = settled
		}
		if !ok || now.Sub(since) < wait || now.Sub(p.passed) < takeAgain {
			continue
		}
		promised[self.id] += requested(p.claim)
		due = append(due, p.claim)
	}
	return due
}

// place is ours in the order of those that could serve the claim.
func (t *taker) place(claim *v1.PersistentVolumeClaim, all []instance, promised map[string]int64, id string) (int, bool) {
	d, ok := t.demandOf(claim)
	if !ok {
		return 0, false
	}
	return rank(d, all, promised, id)
}

func (t *taker) demandOf(claim *v1.PersistentVolumeClaim) (demand, bool) {
	class, err := t.classes.Get(classOf(claim))
	if err != nil {
		return demand{}, false // the library asks for the class too, and says that it is missing
	}
	return demand{size: requested(claim), pool: poolParameter(class.Parameters), node: claim.Annotations[annSelectedNode]}, true
}

// take writes our id on the claim. If that fails, the claim is seen again: another
// instance has it now, or it is tried in the next round.
func (t *taker) take(ctx context.Context, claim *v1.PersistentVolumeClaim) {
	taken := claim.DeepCopy()
	metav1.SetMetaDataAnnotation(&taken.ObjectMeta, annInstance, t.instances.id)
	_, err := t.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, taken, metav1.UpdateOptions{})
	switch {
	case err == nil:
		t.log.Debug("took a claim", "claim", claim.Namespace+"/"+claim.Name, "before", claim.Annotations[annInstance])
	case apierrors.IsConflict(err), apierrors.IsNotFound(err), ctx.Err() != nil:
	default:
		t.log.Warn("cannot take a claim; its volume is made when the claim can be updated", "claim", claim.Namespace+"/"+claim.Name, "err", err)
	}
}

// passOn lets go of a claim that does not fit here, if it fits elsewhere.
func (t *taker) passOn(ctx context.Context, claim *v1.PersistentVolumeClaim) {
	d, ok := t.demandOf(claim)
	if !ok || claim.Annotations[annInstance] != t.instances.id {
		return
	}
	for _, other := range t.instances.others() {
		if room, has := other.roomFor(d); has && room >= d.size {
			t.mu.Lock()
			if p := t.pending[claim.UID]; p != nil {
				p.passed = t.now()
			}
			t.mu.Unlock()
			free := claim.DeepCopy()
			delete(free.Annotations, annInstance)
			if _, err := t.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, free, metav1.UpdateOptions{}); err != nil {
				t.log.Debug("cannot pass on a claim", "claim", claim.Namespace+"/"+claim.Name, "err", err)
			}
			return
		}
	}
}

// requested is a claim's size in bytes; 0 if it is not one that a volume can have.
func requested(claim *v1.PersistentVolumeClaim) int64 {
	size, err := sizeOf(claim.Spec.Resources.Requests[v1.ResourceStorage])
	if err != nil {
		return 0
	}
	return size
}

func classOf(claim *v1.PersistentVolumeClaim) string {
	if name, found := claim.Annotations[v1.BetaStorageClassAnnotation]; found {
		return name
	}
	if claim.Spec.StorageClassName == nil {
		return ""
	}
	return *claim.Spec.StorageClassName
}
