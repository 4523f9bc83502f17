package kube

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes/fake"
	kubetest "k8s.io/client-go/testing"
	"k8s.io/klog/v2"
)

const leaseOfLocal = "example-com-nfs-local-instance"

// leaseClient is one that, as the API server does and the fake does not, refuses
// an update of something that was changed since it was read.
type leaseClient struct {
	*fake.Clientset
	failing atomic.Pointer[func(kubetest.Action) error]
}

// fail has calls on Leases fail as f says; nil ends that.
func (c *leaseClient) fail(f func(kubetest.Action) error) { c.failing.Store(&f) }

func newLeaseClient(objects ...runtime.Object) *leaseClient {
	client := &leaseClient{Clientset: newClient(objects...)}
	version := 0
	client.PrependReactor("update", "leases", func(action kubetest.Action) (bool, runtime.Object, error) {
		update := action.(kubetest.UpdateAction)
		lease := update.GetObject().(*coordinationv1.Lease)
		old, err := client.Tracker().Get(action.GetResource(), lease.Namespace, lease.Name)
		if err != nil {
			return true, nil, err
		}
		if old.(*coordinationv1.Lease).ResourceVersion != lease.ResourceVersion {
			return true, nil, apierrors.NewConflict(action.GetResource().GroupResource(), lease.Name, errors.New("it has changed"))
		}
		version++
		lease.ResourceVersion = strconv.Itoa(version)
		return true, lease, client.Tracker().Update(action.GetResource(), lease, lease.Namespace)
	})
	client.PrependReactor("*", "leases", func(action kubetest.Action) (bool, runtime.Object, error) {
		f := client.failing.Load()
		if f == nil || *f == nil {
			return false, nil, nil
		}
		err := (*f)(action)
		return err != nil, nil, err
	})
	return client
}

// newElection makes a front end whose Lease is kept by client, and a context in
// which the Kubernetes libraries log nothing.
func newElection(t *testing.T, client *leaseClient) (*FrontEnd, context.Context) {
	pool, _ := newPool("local")
	f := NewFrontEnd(Client{Interface: client, lease: client, namespace: "storage"}, Options{
		Provisioner: provisioned, Pools: []*Pool{pool}, Log: quiet(),
	})
	return f, klog.NewContext(t.Context(), logr.Discard())
}

func getLease(t *testing.T, client *leaseClient) *coordinationv1.Lease {
	t.Helper()
	lease, err := client.CoordinationV1().Leases("storage").Get(context.Background(), leaseOfLocal, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

// leaseHolder is who holds the Lease; "" if it was given back.
func leaseHolder(t *testing.T, client *leaseClient) string {
	t.Helper()
	if holder := getLease(t, client).Spec.HolderIdentity; holder != nil {
		return *holder
	}
	return ""
}

// term is one that lasts until its context ends, and then as long as it is held.
type term struct {
	began, ended time.Time
	linger       time.Duration
	atEnd        func()
}

func (r *term) run(ctx context.Context) {
	r.began = time.Now()
	<-ctx.Done()
	time.Sleep(r.linger)
	if r.atEnd != nil {
		r.atEnd()
	}
	r.ended = time.Now()
}

// pass lets time pass in a bubble of synctest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// elect runs one term and gives a channel that is closed when runElected returned.
func elect(ctx context.Context, t *testing.T, f *FrontEnd, r *term) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f.runElected(ctx, r.run); err != nil {
			t.Error(err)
		}
	}()
	return done
}

func TestLeaseIsGivenBackAfterTheTermHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newLeaseClient()
		f, ctx := newElection(t, client)
		ctx, cancel := context.WithCancel(ctx)
		holder, err := f.holder()
		if err != nil {
			t.Fatal(err)
		}
		atEnd := ""
		// Workers may take longer to end than a Lease lasts that nobody renews.
		r := &term{linger: 3 * leaseDuration, atEnd: func() { atEnd = leaseHolder(t, client) }}
		done := elect(ctx, t, f, r)
		pass(time.Minute)
		if r.began.IsZero() || !r.ended.IsZero() || leaseHolder(t, client) != holder {
			t.Fatalf("after a minute: term %+v, held by %q", r, leaseHolder(t, client))
		}
		cancel()
		<-done
		if r.ended.IsZero() || atEnd != holder {
			t.Errorf("when the term ended at %v the Lease was held by %q, want %q", r.ended, atEnd, holder)
		}
		if got := leaseHolder(t, client); got != "" {
			t.Errorf("the Lease is still held by %q", got)
		}
	})
}

func TestALostLeaseEndsTheTermAndTheNextOneBegins(t *testing.T) {
	for name, lose := range map[string]func(t *testing.T, client *leaseClient){
		"taken by another": func(t *testing.T, client *leaseClient) {
			lease := getLease(t, client)
			lease.Spec.HolderIdentity = new("other")
			lease.Spec.RenewTime = new(metav1.NowMicro())
			if _, err := client.CoordinationV1().Leases("storage").Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		},
		"it cannot be renewed": func(_ *testing.T, client *leaseClient) {
			client.fail(func(action kubetest.Action) error {
				if action.GetVerb() == "update" {
					return errAPI
				}
				return nil
			})
		},
		"the API server is away": func(_ *testing.T, client *leaseClient) {
			client.fail(func(kubetest.Action) error { return errAPI })
		},
		"the API server is stuck": func(_ *testing.T, client *leaseClient) {
			client.fail(func(kubetest.Action) error {
				time.Sleep(3 * time.Second) // each call, so that the last one ends after the deadline
				return errAPI
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := newLeaseClient()
				f, ctx := newElection(t, client)
				ctx, cancel := context.WithCancel(ctx)
				first := &term{}
				done := elect(ctx, t, f, first)
				pass(time.Minute)
				lose(t, client)
				lost := time.Now()
				<-done
				// From then on another may hold it.
				if took := first.ended.Sub(lost); took < 0 || took > leaseDuration {
					t.Errorf("the term ended %v after the Lease was lost, want %v at the most", took, leaseDuration)
				}
				second := &term{}
				done = elect(ctx, t, f, second)
				pass(time.Minute)
				client.fail(nil)
				pass(time.Minute)
				holder, err := f.holder()
				if err != nil {
					t.Fatal(err)
				}
				if second.began.IsZero() || leaseHolder(t, client) != holder {
					t.Errorf("the next term began at %v, the Lease is held by %q", second.began, leaseHolder(t, client))
				}
				cancel()
				<-done
			})
		})
	}
}

// The term goes on until it learns of the loss and has ended: nobody may be told
// before that the Lease is free.
func TestLeaseIsNotGivenBackWhenItIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newLeaseClient()
		f, ctx := newElection(t, client)
		// Renewing fails until the elector gives up, and then the API server is back.
		client.fail(func(action kubetest.Action) error {
			if action.GetVerb() == "update" && *action.(kubetest.UpdateAction).GetObject().(*coordinationv1.Lease).Spec.HolderIdentity != "" {
				return errAPI
			}
			return nil
		})
		atEnd := ""
		r := &term{linger: leaseDuration / 2, atEnd: func() { atEnd = leaseHolder(t, client) }}
		<-elect(ctx, t, f, r)
		if holder, err := f.holder(); err != nil || atEnd != holder {
			t.Errorf("when the term ended the Lease was held by %q, want %q, %v", atEnd, holder, err)
		}
	})
}

func TestWaitingForTheLeaseEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newLeaseClient(&coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: "storage", Name: leaseOfLocal},
			Spec: coordinationv1.LeaseSpec{
				HolderIdentity: new("other"), LeaseDurationSeconds: new(int32(3600)), RenewTime: new(metav1.NowMicro()), AcquireTime: new(metav1.NowMicro()),
			},
		})
		f, ctx := newElection(t, client)
		ctx, cancel := context.WithCancel(ctx)
		r := &term{}
		done := elect(ctx, t, f, r)
		pass(time.Minute)
		cancel()
		<-done
		if !r.began.IsZero() || leaseHolder(t, client) != "other" {
			t.Errorf("a term began at %v, the Lease is held by %q", r.began, leaseHolder(t, client))
		}
	})
}

// A process that was killed and is started again is the same holder.
func TestTheSameHolderNeedNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newLeaseClient()
		f, ctx := newElection(t, client)
		holder, err := f.holder()
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.CoordinationV1().Leases("storage").Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: "storage", Name: leaseOfLocal},
			Spec: coordinationv1.LeaseSpec{
				HolderIdentity: &holder, LeaseDurationSeconds: new(int32(3600)), RenewTime: new(metav1.NowMicro()), AcquireTime: new(metav1.NowMicro()),
			},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(ctx)
		start := time.Now()
		r := &term{}
		done := elect(ctx, t, f, r)
		pass(time.Minute)
		cancel()
		<-done
		if waited := r.began.Sub(start); waited != 0 {
			t.Errorf("waited %v", waited)
		}
	})
}

func TestTwoInstancesOfOneProvisionerHaveTwoLeases(t *testing.T) {
	one, _ := newPool("one")
	two, _ := newPool("two")
	names := map[string]bool{}
	for _, pool := range []*Pool{one, two} {
		for _, provisioner := range []string{"example.com/nfs", "nfs", "Example.Com/NFS_1", "fuseim.pri/ifs"} {
			f := NewFrontEnd(Client{}, Options{Provisioner: provisioner, Pools: []*Pool{pool}})
			names[f.leaseName()] = true
			if wrong := validation.IsDNS1123Subdomain(f.leaseName()); len(wrong) > 0 {
				t.Errorf("%q: Lease %q is not a name: %v", provisioner, f.leaseName(), wrong)
			}
		}
	}
	if len(names) != 8 {
		t.Errorf("the Leases are %v, want 8", names)
	}
}
