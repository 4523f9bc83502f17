package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// annStatic is on PersistentVolumes of directories that were there before Berth: the
// identity of the pool that publishes them. They have no volume, and so no annVolume:
// nothing of Berth deletes what they stand for.
const annStatic = "berth.storage/static"

// retryStatic is the pause after a PersistentVolume could not be made.
const retryStatic = 5 * time.Second

// Static is a directory that was there before Berth, to be published as a
// PersistentVolume.
type Static struct {
	Name         string   // of the PersistentVolume
	Path         string   // what clients mount
	Capacity     string   // a quantity
	AccessModes  []string // of Kubernetes
	StorageClass string   // by which claims may ask for it; "": none
	MountOptions []string
	ReadOnly     bool
}

// statics keeps the PersistentVolumes of the pools' static directories: each is there as
// long as its pool's configuration names it, and is left as it is when that does not.
type statics struct {
	client  kubernetes.Interface
	address addressResolver
	log     *slog.Logger
	want    map[string]wantedStatic // by name
	pools   map[string]bool         // by identity
	changed chan struct{}           // holds one token while there may be something to do
	told    map[string]bool         // what was told in this term
}

type wantedStatic struct {
	Static
	pool *Pool
}

func newStatics(client kubernetes.Interface, address addressResolver, pools []*Pool, log *slog.Logger) *statics {
	s := &statics{
		client: client, address: address, log: log, want: map[string]wantedStatic{}, pools: map[string]bool{},
		changed: make(chan struct{}, 1), told: map[string]bool{},
	}
	for _, p := range pools {
		if p.Instance != "" {
			s.pools[p.Instance] = true
		}
		for _, d := range p.Static {
			s.want[d.Name] = wantedStatic{d, p}
		}
	}
	return s
}

// handler has changes of PersistentVolumes looked at.
func (s *statics) handler() cache.ResourceEventHandler {
	look := func(object any) {
		if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = gone.Obj
		}
		pv, ok := object.(*v1.PersistentVolume)
		if !ok {
			return
		}
		if _, wanted := s.want[pv.Name]; !wanted && !s.ours(pv) {
			return
		}
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: look, UpdateFunc: func(_, o any) { look(o) }, DeleteFunc: look}
}

func (s *statics) ours(pv *v1.PersistentVolume) bool { return s.pools[pv.Annotations[annStatic]] }

// run keeps the PersistentVolumes until ctx ends. It goes by what volumes has.
func (s *statics) run(ctx context.Context, volumes cache.SharedInformer) {
	if !cache.WaitForCacheSync(ctx.Done(), volumes.HasSynced) {
		return
	}
	for {
		var again <-chan time.Time
		if err := s.sync(ctx, volumes.GetStore()); err != nil && ctx.Err() == nil {
			s.log.Warn("cannot publish all static directories yet", "err", err, "retryIn", retryStatic)
			again = time.After(retryStatic)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		case <-again:
		}
	}
}

// sync makes the PersistentVolumes that are missing, and tells of those that are not as
// they should be.
func (s *statics) sync(ctx context.Context, have cache.Store) error {
	var failed []error
	for _, name := range slices.Sorted(maps.Keys(s.want)) {
		d := s.want[name]
		object, exists, err := have.GetByKey(name)
		if err == nil && !exists {
			err = s.create(ctx, d)
		}
		failed = append(failed, err)
		if pv, ok := object.(*v1.PersistentVolume); ok {
			s.check(pv, d)
		}
	}
	for _, object := range have.List() {
		pv, ok := object.(*v1.PersistentVolume)
		if !ok || !s.ours(pv) {
			continue
		}
		if _, wanted := s.want[pv.Name]; !wanted {
			s.tell(pv.Name, "the configuration does not publish this PersistentVolume's directory any more: it is not exported, the data is as it was",
				"do", "delete the PersistentVolume when no claim needs it")
		}
	}
	return errors.Join(failed...)
}

func (s *statics) create(ctx context.Context, d wantedStatic) error {
	server, err := s.address.resolve(ctx)
	if err != nil {
		return fmt.Errorf("the address of the NFS server: %w", err)
	}
	capacity, err := resource.ParseQuantity(d.Capacity)
	if err != nil {
		return fmt.Errorf("PersistentVolume %s: capacity %q: %w", d.Name, d.Capacity, err)
	}
	var modes []v1.PersistentVolumeAccessMode
	for _, mode := range d.AccessModes {
		modes = append(modes, v1.PersistentVolumeAccessMode(mode))
	}
	pv := &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name:        d.Name,
			Labels:      map[string]string{labelManagedBy: managedBy, labelPool: d.pool.Volumes.Pool()},
			Annotations: map[string]string{annStatic: d.pool.Instance},
		},
		Spec: v1.PersistentVolumeSpec{
			// What was there before Berth is not Berth's to delete.
			PersistentVolumeReclaimPolicy: v1.PersistentVolumeReclaimRetain,
			AccessModes:                   modes,
			Capacity:                      v1.ResourceList{v1.ResourceStorage: capacity},
			StorageClassName:              d.StorageClass,
			MountOptions:                  d.MountOptions,
			PersistentVolumeSource: v1.PersistentVolumeSource{
				NFS: &v1.NFSVolumeSource{Server: server, Path: d.Path, ReadOnly: d.ReadOnly},
			},
		},
	}
	if _, err := s.client.CoreV1().PersistentVolumes().Create(ctx, pv, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("PersistentVolume %s: %w", d.Name, err)
	}
	s.log.Info("published a static directory", "persistentVolume", d.Name, "path", d.Path)
	return nil
}

// check tells what is wrong with the PersistentVolume that has d's name.
func (s *statics) check(pv *v1.PersistentVolume, d wantedStatic) {
	switch nfs := pv.Spec.NFS; {
	case pv.Annotations[annStatic] != d.pool.Instance:
		s.tell(pv.Name, "a static directory is not published: there is a PersistentVolume of that name which this pool has not made",
			"path", d.Path, "do", "give the directory another name in the pool's configuration")
	case nfs == nil || nfs.Path != d.Path || nfs.ReadOnly != d.ReadOnly:
		s.tell(pv.Name, "the PersistentVolume of a static directory is not as the configuration says, and cannot be changed",
			"path", d.Path, "do", "delete it when no claim needs it; it is made again")
	}
}

// tell warns, once in a term.
func (s *statics) tell(name, message string, args ...any) {
	if !s.told[name+message] {
		s.told[name+message] = true
		s.log.Warn(message, append([]any{"persistentVolume", name}, args...)...)
	}
}
