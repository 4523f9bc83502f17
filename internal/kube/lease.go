package kube

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// The Lease: how long others wait before they take it from a holder that does
// not renew it, when a holder gives up, and how often it tries.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// leaseName is one per instance: several instances of one provisioner name (a
// pool on each node) all work, each with its own volumes. The library's own
// election has one for all of them, and ends the process, and with it the NFS
// server, when the Lease is lost.
func (f *FrontEnd) leaseName() string {
	// The name of an object is a DNS name, which a provisioner's name need not be.
	name := strings.NewReplacer("/", "-", "_", "-", ".", "-").Replace(f.o.Provisioner)
	return strings.ToLower(name) + "-" + f.id()
}

// holder is who holds the Lease: this pool on this host. A process that is
// started again there is the same holder, so that it need not wait for the Lease
// to run out; that it is the only one is what the pool's own lock is for.
func (f *FrontEnd) holder() (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("name of this host: %w", err)
	}
	return host + "_" + f.id(), nil
}

// runElected waits for the Lease, then runs term until the Lease is lost or ctx
// ends. It returns when term has, and the Lease is given back after that.
func (f *FrontEnd) runElected(ctx context.Context, term func(context.Context)) error {
	holder, err := f.holder()
	if err != nil {
		return err
	}
	holding, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	elected := make(chan context.Context)
	lock := &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: f.client.namespace, Name: f.leaseName()},
		Labels:     map[string]string{labelManagedBy: managedBy},
		Client:     advertisingLeases{f.client.lease.CoordinationV1(), f.advertise},
		LockConfig: resourcelock.ResourceLockConfig{Identity: holder},
	}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:          lock,
		LeaseDuration: leaseDuration,
		RenewDeadline: renewDeadline,
		RetryPeriod:   retryPeriod,
		// The elector would give the Lease back before it says that it is lost,
		// with the term still running, and wait for an API server that is away.
		ReleaseOnCancel: false,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(held context.Context) {
				select {
				case elected <- held:
				case <-held.Done():
				}
			},
			OnStoppedLeading: func() {},
			OnNewLeader: func(other string) {
				f.o.Log.Debug("the lease has a holder", "lease", f.leaseName(), "holder", other)
			},
		},
	})
	if err != nil {
		return fmt.Errorf("lease %s/%s: %w", f.client.namespace, f.leaseName(), err)
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		elector.Run(holding)
	}()
	select {
	case <-ctx.Done():
	case <-stopped:
	case held := <-elected:
		working, end := context.WithCancel(ctx)
		stop := context.AfterFunc(held, func() { // the Lease is lost
			f.o.Log.Warn("the lease is lost: claims wait until it is back, NFS is served on", "lease", f.leaseName())
			end()
		})
		term(working)
		stop()
		end()
	}
	release()
	<-stopped
	f.giveBack(context.WithoutCancel(ctx), lock)
	return nil
}

// advertise is what the Lease tells other instances.
func (f *FrontEnd) advertise(ctx context.Context) map[string]string {
	said, err := f.self(ctx).annotations(f.o.Provisioner)
	if err != nil {
		f.o.Log.Error("cannot tell other instances of this one", "err", err)
	}
	return said
}

// giveBack spares whoever waits for the Lease the time that it takes to run out.
func (f *FrontEnd) giveBack(ctx context.Context, lock resourcelock.Interface) {
	ctx, cancel := context.WithTimeout(ctx, renewDeadline)
	defer cancel()
	record, _, err := lock.Get(ctx)
	if err == nil && record.HolderIdentity == lock.Identity() {
		record.HolderIdentity, record.LeaseDurationSeconds = "", 1
		err = lock.Update(ctx, *record)
	}
	if err != nil {
		f.o.Log.Debug("cannot give the lease back; it runs out by itself", "lease", f.leaseName(), "err", err)
	}
}
