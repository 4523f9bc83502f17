package kube

import (
	"context"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller/metrics"
)

// retryCluster is the pause between tries while the API server is away.
const retryCluster = 2 * time.Second

// Options of a FrontEnd.
type Options struct {
	Provisioner string  // as in the StorageClasses
	Pools       []*Pool // one at least
	Workers     int     // claims, and volumes, that are worked on at the same time
	// FailedRetryThreshold is after how many failures a claim is given up; 0: never.
	FailedRetryThreshold int
	ScavengeAfter        time.Duration // age of a volume that nobody asked for again

	Hostname string // of the NFS server in PersistentVolumes; "": found out
	NFSPort  int
	NFSv3    bool

	Log     *slog.Logger
	Observe func(operation string, took time.Duration, err error) // may not be nil
	Metrics metrics.Metrics                                       // the library's own
}

// FrontEnd serves the claims of one provisioner name.
type FrontEnd struct {
	o       Options
	client  Client
	address addressResolver
}

// registerOnce keeps the library from writing to client-go's one scheme each time
// that a controller is made: clients read it meanwhile, and a map that is read while
// it is written to ends the process. What is registered is in there since the start.
var registerOnce = sync.OnceFunc(func() {
	v1.AddToScheme = func(*runtime.Scheme) error { return nil }
})

// NewFrontEnd makes a FrontEnd that does nothing before Run.
func NewFrontEnd(client Client, o Options) *FrontEnd {
	registerOnce()
	return &FrontEnd{o: o, client: client, address: newAddressResolver(client, o.Hostname, o.NFSPort, o.NFSv3, client.inPod)}
}

// Run serves claims until ctx ends. Without the API server or the Lease it does
// nothing but try to get them back: what is exported does not depend on it.
func (f *FrontEnd) Run(ctx context.Context) error {
	cluster := f.clusterID(ctx)
	for ctx.Err() == nil {
		if err := f.runElected(ctx, func(term context.Context) { f.runTerm(term, cluster) }); err != nil {
			return err
		}
	}
	return nil
}

// clusterID is the uid of the namespace kube-system, which is as old as its
// cluster and never made again. It waits for the API server.
func (f *FrontEnd) clusterID(ctx context.Context) string {
	for {
		ns, err := f.client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
		switch {
		case err == nil:
			return string(ns.UID)
		case ctx.Err() != nil:
			return ""
		case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
			f.o.Log.Error("no claim can be served: give Berth's service account the verb get on the namespace kube-system, whose uid names the cluster", "err", err)
		default:
			f.o.Log.Warn("waiting for the API server; NFS is served meanwhile", "err", err)
		}
		select {
		case <-ctx.Done():
			return ""
		case <-time.After(retryCluster):
		}
	}
}
