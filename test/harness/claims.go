package harness

import (
	"context"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// NewClient makes a client of the cluster of kubeconfig, without a rate limit.
func NewClient(kubeconfig string) (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	return kubernetes.NewForConfig(config)
}

// CreateClass makes a StorageClass.
func CreateClass(ctx context.Context, client kubernetes.Interface, name, provisioner string, parameters map[string]string) error {
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, Parameters: parameters}
	_, err := client.StorageV1().StorageClasses().Create(ctx, class, metav1.CreateOptions{})
	return err
}

// NewClaim is a claim of 1 MiB that many pods may write to.
func NewClaim(namespace, name, class string) *v1.PersistentVolumeClaim {
	return &v1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1.PersistentVolumeClaimSpec{
			StorageClassName: &class,
			AccessModes:      []v1.PersistentVolumeAccessMode{v1.ReadWriteMany},
			Resources: v1.VolumeResourceRequirements{
				Requests: v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Mi")},
			},
		},
	}
}

// CreateClaims makes n claims, named prefix-0 and so on, many at a time.
func CreateClaims(ctx context.Context, client kubernetes.Interface, namespace, prefix, class string, n int) error {
	const atOnce = 50
	failed := make(chan error, n)
	slots := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			claim := NewClaim(namespace, fmt.Sprintf("%s-%d", prefix, i), class)
			if _, err := client.CoreV1().PersistentVolumeClaims(namespace).Create(ctx, claim, metav1.CreateOptions{}); err != nil {
				failed <- err
			}
		})
	}
	all.Wait()
	close(failed)
	return <-failed // nil if there was none
}

// Watch follows the claims of a namespace, and all PersistentVolumes. It goes by
// informers, because a plain watch may be dropped when much happens at once.
type Watch struct {
	claims  cache.SharedIndexInformer
	volumes cache.SharedIndexInformer
}

// NewWatch starts a Watch that ends with ctx.
func NewWatch(ctx context.Context, client kubernetes.Interface, namespace string) (*Watch, error) {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
	w := &Watch{
		claims:  factory.Core().V1().PersistentVolumeClaims().Informer(),
		volumes: factory.Core().V1().PersistentVolumes().Informer(),
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), w.claims.HasSynced, w.volumes.HasSynced) {
		return nil, fmt.Errorf("watching namespace %s: %w", namespace, ctx.Err())
	}
	return w, nil
}

// Claims are the claims now.
func (w *Watch) Claims() []*v1.PersistentVolumeClaim {
	var all []*v1.PersistentVolumeClaim
	for _, o := range w.claims.GetStore().List() {
		all = append(all, o.(*v1.PersistentVolumeClaim))
	}
	return all
}

// Volumes are the PersistentVolumes now, of all namespaces' claims.
func (w *Watch) Volumes() []*v1.PersistentVolume {
	var all []*v1.PersistentVolume
	for _, o := range w.volumes.GetStore().List() {
		all = append(all, o.(*v1.PersistentVolume))
	}
	return all
}

// Bound counts the claims that are Bound.
func (w *Watch) Bound() int {
	bound := 0
	for _, c := range w.Claims() {
		if c.Status.Phase == v1.ClaimBound {
			bound++
		}
	}
	return bound
}

// Until waits until done says so; what is said in the error if ctx ends first.
func Until(ctx context.Context, what string, done func() bool) error {
	for !done() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w", what, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}
