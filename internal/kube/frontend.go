package kube

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller/metrics"

	"github.com/berth-storage/berth/internal/volume"
)

// retryCluster is the pause between tries while the API server is away.
const retryCluster = 2 * time.Second

// Options of a FrontEnd.
type Options struct {
	Provisioner string  // as in the StorageClasses
	Pools       []*Pool // one at least that has an Instance
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
	// node is the one that this instance runs on, if it was told. Of several
	// instances the one on a pod's node is preferred for its claim.
	node string
	// saySnapshotsAreOff is said once, and not in each term.
	saySnapshotsAreOff sync.Once
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
	return &FrontEnd{o: o, client: client, node: os.Getenv(envNodeName), address: newAddressResolver(client, o.Hostname, o.NFSPort, o.NFSv3, client.inPod)}
}

// Run serves claims until ctx ends. Without the API server or the Lease it does
// nothing but try to get them back: what is exported does not depend on it.
func (f *FrontEnd) Run(ctx context.Context) error {
	r := f.askRights(ctx)
	cluster := ""
	if r.cluster {
		cluster = f.clusterID(ctx)
	}
	for ctx.Err() == nil {
		if !r.lease {
			f.runTerm(ctx, cluster, r)
			continue
		}
		if err := f.runElected(ctx, func(term context.Context) { f.runTerm(term, cluster, r) }); err != nil {
			return err
		}
	}
	return nil
}

// self is what this instance tells others.
func (f *FrontEnd) self(ctx context.Context) instance {
	i := instance{id: f.id(), node: f.node, room: make(map[string]room)}
	for _, p := range f.o.Pools {
		left, err := p.Volumes.Room(ctx)
		if err != nil && !errors.Is(err, volume.ErrBusy) { // a share that is away is told of once
			f.o.Log.Warn("cannot measure a pool; other instances are asked for volumes before this one", "pool", p.Volumes.Pool(), "err", err)
		}
		i.room[p.Volumes.Pool()] = room(left)
	}
	return i
}

// id tells the instances of a provisioner name apart: the identity of its first pool
// that has one.
func (f *FrontEnd) id() string {
	for _, p := range f.o.Pools {
		if p.Instance != "" {
			return p.Instance
		}
	}
	return ""
}

// clusterID is the uid of the namespace kube-system, which is as old as its
// cluster and never made again. It waits for the API server.
func (f *FrontEnd) clusterID(ctx context.Context) string {
	for {
		ns, err := f.client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
		if err == nil {
			return string(ns.UID)
		}
		if ctx.Err() != nil {
			return ""
		}
		f.o.Log.Warn("waiting for the API server; NFS is served meanwhile", "err", err)
		select {
		case <-ctx.Done():
			return ""
		case <-time.After(retryCluster):
		}
	}
}
