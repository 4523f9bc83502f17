package kube

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
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
	// Claims that were seen within this time after we were left alone may have been
	// hidden from the library, because to it we were not.
	takeAlone = 15 * time.Second
	// A claim that did not fit here is left to others for this time, and one that
	// the API server did not let us take for that.
	takeAgain  = time.Minute
	takeRefuse = 10 * time.Second
	// A claim whose owner had it for this time most likely cannot be served at all,
	// and does not count as room that is promised.
	takeServed = time.Minute
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
	claim *v1.PersistentVolumeClaim
	size  int64     // bytes
	seen  time.Time // at first
	free  time.Time // since when it is nobody's who acts; zero: it is somebody's
	held  time.Time // since when it is somebody's; zero: it is not
	until time.Time // when we may take it again
}

func (p *waitingClaim) owner() string { return p.claim.Annotations[annInstance] }

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
	p := t.pending[claim.UID]
	if provisioner != t.instances.provisioner || claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil {
		if p != nil && claim.Spec.VolumeName != "" {
			p.claim = claim
			t.made(p)
		}
		delete(t.pending, claim.UID)
		return
	}
	if p == nil {
		p = &waitingClaim{seen: t.now()}
		t.pending[claim.UID] = p
	}
	p.claim, p.size = claim, requested(claim)
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
		t.takeAll(ctx, t.due())
		select {
		case <-ctx.Done():
			return
		case <-time.After(takeAtMost):
		}
	}
}

// takeAll takes claims until it is time to look again whose they are.
func (t *taker) takeAll(ctx context.Context, due []*waitingClaim) {
	began := t.now()
	for _, p := range due {
		if !t.take(ctx, p) || t.now().Sub(began) > takeEvery {
			return
		}
	}
}

// due are the claims that are ours to take now, first those that are ours by the
// order. All instances go through the claims in the same way, so that each of them
// knows whose the others are.
func (t *taker) due() []*waitingClaim {
	now, all := t.now(), t.instances.all()
	byID := make(map[string]instance)
	for _, i := range all {
		byID[i.id] = i
	}
	alone := t.instances.alone()
	t.mu.Lock()
	defer t.mu.Unlock()
	var free []*waitingClaim
	for _, p := range t.pending {
		owner := p.owner()
		i, acts := byID[owner]
		switch d, ok := t.demandOf(p); {
		case alone && owner == "" && !t.hidden(p):
			p.free = time.Time{} // the library has it
		case acts:
			p.free = time.Time{}
			if p.held.IsZero() {
				p.held = now
			}
			if ok && now.Sub(p.held) < takeServed {
				i.promise(d)
			}
		case ok && (owner == "" || !t.instances.blind):
			free = append(free, p)
		}
	}
	slices.SortFunc(free, func(a, b *waitingClaim) int {
		return cmp.Or(a.claim.CreationTimestamp.Compare(b.claim.CreationTimestamp.Time), cmp.Compare(a.claim.UID, b.claim.UID))
	})
	return t.choose(free, all)
}

// hidden says whether the library may not know of a claim that nobody took, because
// we were not alone when it was seen.
func (t *taker) hidden(p *waitingClaim) bool {
	_, company := t.instances.changes()
	return !company.IsZero() && p.seen.Before(company.Add(takeAlone))
}

// choose gives those of the claims that are ours to take now. All is ours to change.
func (t *taker) choose(free []*waitingClaim, all []instance) []*waitingClaim {
	now, us := t.now(), all[0]
	joined, _ := t.instances.changes()
	var first, late []*waitingClaim
	for _, p := range free {
		if p.free.IsZero() {
			p.free, p.held = now, time.Time{}
		}
		d, _ := t.demandOf(p)
		best := slices.MinFunc(all, d.compare)
		// Whoever joins changes the order.
		since := slices.MaxFunc([]time.Time{p.free, joined, t.began.Add(takeSettle)}, time.Time.Compare)
		waited := now.Sub(since)
		switch {
		case now.Before(p.until) || waited < 0:
			best.promise(d)
		case best.id == us.id:
			us.promise(d)
			first = append(first, p)
		case waited >= takePatience && waited >= time.Duration(place(d, us, all))*takePatience:
			us.promise(d)
			late = append(late, p)
		default:
			best.promise(d)
		}
	}
	return append(first, late...)
}

// place says how many of all come before us.
func place(d demand, us instance, all []instance) (n int) {
	for _, other := range all {
		if d.compare(other, us) < 0 {
			n++
		}
	}
	return n
}

// demandOf is what a claim needs; ok is false if nobody can make its volume now.
func (t *taker) demandOf(p *waitingClaim) (d demand, ok bool) {
	class, err := t.classes.Get(classOf(p.claim))
	if err != nil || class.Provisioner != t.instances.provisioner {
		return demand{}, false // the library looks at the class too
	}
	d = demand{size: p.size, pool: parameter(class.Parameters, "pool"), node: p.claim.Annotations[annSelectedNode]}
	waits := class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
	return d, !waits || d.node != ""
}

// made counts a claim whose volume was just made. It needs the lock.
func (t *taker) made(p *waitingClaim) {
	if d, ok := t.demandOf(p); ok {
		t.instances.made(p.owner(), d)
	}
}

// take writes our id on the claim, unless another instance has it now. It says
// whether it makes sense to go on with others.
func (t *taker) take(ctx context.Context, p *waitingClaim) bool {
	t.mu.Lock()
	claim, owner := p.claim, p.owner()
	t.mu.Unlock()
	if owner != "" && t.instances.acts(owner) {
		return true
	}
	taken := claim.DeepCopy()
	metav1.SetMetaDataAnnotation(&taken.ObjectMeta, annInstance, t.instances.id)
	taken, err := t.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, taken, metav1.UpdateOptions{})
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err == nil:
		t.log.Debug("took a claim", "claim", claim.Namespace+"/"+claim.Name, "before", owner)
		if p.claim == claim { // and not newer: it need not be taken again until it is seen
			p.claim = taken
		}
		return true
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return true // it is seen again
	case ctx.Err() != nil:
		return false
	}
	p.until = t.now().Add(takeRefuse)
	t.log.Warn("cannot take a claim; its volume is made when the claim can be updated", "claim", claim.Namespace+"/"+claim.Name, "err", err)
	return false
}

// passOn lets go of a claim that cannot be served here, if it fits elsewhere.
func (t *taker) passOn(ctx context.Context, claim *v1.PersistentVolumeClaim) {
	d, ok := t.demandOf(&waitingClaim{claim: claim, size: requested(claim)})
	if !ok || claim.Annotations[annInstance] != t.instances.id ||
		!slices.ContainsFunc(t.instances.others(), func(other instance) bool { return other.fits(d) }) {
		return
	}
	t.mu.Lock()
	if p := t.pending[claim.UID]; p != nil {
		p.until = t.now().Add(takeAgain)
	}
	t.mu.Unlock()
	free := claim.DeepCopy()
	delete(free.Annotations, annInstance)
	if _, err := t.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, free, metav1.UpdateOptions{}); err != nil {
		t.log.Debug("cannot pass on a claim", "claim", claim.Namespace+"/"+claim.Name, "err", err)
	}
}

// giveTo has the instance with that id serve a claim, if it acts and has a pool that the claim's class names;
// ok says whether it will.
func (t *taker) giveTo(ctx context.Context, claim *v1.PersistentVolumeClaim, id string) (ok bool) {
	if id == "" || t.instances.blind || id == t.instances.id {
		return false
	}
	d, _ := t.demandOf(&waitingClaim{claim: claim, size: requested(claim)})
	if !slices.ContainsFunc(t.instances.others(), func(o instance) bool { return o.id == id && o.serves(d) }) {
		return false // it would give the claim back
	}
	given := claim.DeepCopy()
	metav1.SetMetaDataAnnotation(&given.ObjectMeta, annInstance, id)
	if _, err := t.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, given, metav1.UpdateOptions{}); err != nil {
		t.log.Debug("cannot give a claim to another instance; this is tried again", "claim", claim.Namespace+"/"+claim.Name, "instance", id, "err", err)
	}
	return true
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
