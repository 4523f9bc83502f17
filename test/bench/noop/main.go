// Command noop is the provisioner that Berth is measured against: the same
// library with the options that Berth gives it (internal/kube, runTerm), but its
// PersistentVolumes have no storage behind them. What it reaches is what the
// library and the control plane allow.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/kube"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "the cluster's kubeconfig `file`")
	provisioner := flag.String("provisioner", "", "the `name` that StorageClasses have")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *kubeconfig, *provisioner)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "noop:", err)
		os.Exit(1)
	}
}

// run serves claims until ctx ends.
func run(ctx context.Context, kubeconfig, provisioner string) error {
	// Of Berth's own defaults, so that the two stay comparable when those change.
	defaults := config.Default().Kubernetes
	client, err := kube.NewClient(kube.ClientOptions{Kubeconfig: kubeconfig, QPS: defaults.QPS, Burst: defaults.Burst, UserAgent: "noop"})
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, controller.DefaultResyncPeriod, informers.WithTransform(stripManagedFields))
	library := controller.NewProvisionController(ctx, client, provisioner, nothing{},
		controller.LeaderElection(false),
		controller.AddFinalizer(true),
		controller.Threadiness(defaults.Workers),
		controller.FailedProvisionThreshold(0),
		controller.FailedDeleteThreshold(0),
		controller.RateLimiter(workqueue.NewTypedItemExponentialFailureRateLimiter[string](time.Second, 2*time.Minute)),
		controller.CreateProvisionedPVLimiter(workqueue.NewTypedItemExponentialFailureRateLimiter[string](500*time.Millisecond, 30*time.Second)),
		controller.ClaimsInformer(factory.Core().V1().PersistentVolumeClaims().Informer()),
		controller.VolumesInformer(factory.Core().V1().PersistentVolumes().Informer()),
		controller.ClassesInformer(factory.Storage().V1().StorageClasses().Informer()),
	)
	factory.Start(ctx.Done())
	library.Run(ctx)
	return nil
}

func stripManagedFields(object any) (any, error) {
	if o, err := meta.Accessor(object); err == nil {
		o.SetManagedFields(nil)
	}
	return object, nil
}

// nothing is the storage.
type nothing struct{}

// Provision implements controller.Provisioner.
func (nothing) Provision(_ context.Context, o controller.ProvisionOptions) (*v1.PersistentVolume, controller.ProvisioningState, error) {
	return &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: o.PVName},
		Spec: v1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: v1.PersistentVolumeReclaimDelete,
			AccessModes:                   o.PVC.Spec.AccessModes,
			Capacity:                      v1.ResourceList{v1.ResourceStorage: o.PVC.Spec.Resources.Requests[v1.ResourceStorage]},
			PersistentVolumeSource: v1.PersistentVolumeSource{
				NFS: &v1.NFSVolumeSource{Server: "127.0.0.1", Path: "/nothing/" + o.PVName},
			},
		},
	}, controller.ProvisioningFinished, nil
}

// Delete implements controller.Provisioner.
func (nothing) Delete(context.Context, *v1.PersistentVolume) error { return nil }
