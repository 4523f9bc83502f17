package kube

import (
	"context"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/berth-storage/berth/internal/volume"
)

// reasonAdvisory is the reason of the event on a claim whose size nothing enforces.
const reasonAdvisory = "SizeNotEnforced"

// adviseEvery is how often that is said for the claims of one class in one namespace.
// An event for each claim would be as much work for the API server as its
// PersistentVolume.
const adviseEvery = time.Hour

// advisor tells people whose volumes are not kept to their sizes.
type advisor struct {
	events record.EventRecorder
	now    func() time.Time

	mu   sync.Mutex
	said map[string]time.Time // by namespace/class
}

func newAdvisor(events record.EventRecorder) *advisor {
	return &advisor{events: events, now: time.Now, said: map[string]time.Time{}}
}

// newRecorder makes a recorder that writes events until ctx ends.
func newRecorder(ctx context.Context, client kubernetes.Interface) record.EventRecorder {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedv1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	context.AfterFunc(ctx, broadcaster.Shutdown)
	return broadcaster.NewRecorder(scheme.Scheme, v1.EventSource{Component: managedBy})
}

// advise says that v, which was made for the claim, is not kept to its size.
func (a *advisor) advise(claim runtime.Object, v volume.Volume, class, pool string) {
	if v.Limit != volume.LimitNone || !a.due(v.Claim.Namespace+"/"+class) {
		return
	}
	a.events.Eventf(claim, v1.EventTypeNormal, reasonAdvisory,
		"Nothing keeps this volume to its size of %d bytes: it may fill pool %s, and others may. The pool's administrator can have "+
			"sizes enforced on xfs, ext4 and btrfs (docs/quotas.md). This is said once an hour for the claims of a class in a namespace.",
		v.Size, pool)
}

func (a *advisor) due(whose string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if said, found := a.said[whose]; found && now.Sub(said) < adviseEvery {
		return false
	}
	for other, said := range a.said { // so that namespaces that come and go leave nothing
		if now.Sub(said) >= adviseEvery {
			delete(a.said, other)
		}
	}
	a.said[whose] = now
	return true
}
