package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
)

var snapshotAPI = schema.GroupVersion{Group: "snapshot.storage.k8s.io", Version: "v1"}

// The claim that is cloned, grows, and is taken snapshots of.
const sourceClaim = "source"

// copies is a setting whose claims are cloned, grow, and are taken snapshots of.
type copies struct {
	*setting
	on      *served
	objects dynamic.Interface
	size    int64   // of the claim sourceClaim, and of each new one
	purges  float64 // that were waited for
	turns   int     // so far
}

// copyTimes are how long things took, in milliseconds.
type copyTimes struct{ expand, snapshot, clone, empty []float64 }

// measureCopies measures, on each storage, how long it takes from the edit of a claim's
// request until its status has it, from making a VolumeSnapshot until it is ready, and
// from making a claim that is a clone until it is bound.
func (b *bench) measureCopies(ctx context.Context) error {
	for _, s := range storages {
		took, err := b.measureCopiesOn(ctx, s)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		for _, m := range []struct {
			name string
			took []float64
		}{
			{"expand_done_p50_ms", took.expand}, {"snapshot_ready_p50_ms", took.snapshot}, {"clone_bound_p50_ms", took.clone}, {"empty_bound_p50_ms", took.empty},
		} {
			if s.name != btrfs {
				m.name += "_" + s.name
			}
			b.results.set(m.name, median(m.took))
		}
		b.say("  %s: median %.0f ms until a claim has grown, %.0f until a snapshot of %d MiB is ready, %.0f until a clone is bound, and %.0f for an empty claim",
			s.name, median(took.expand), median(took.snapshot), b.copyMiB, median(took.clone), median(took.empty))
	}
	return nil
}

func (b *bench) measureCopiesOn(ctx context.Context, s storage) (took copyTimes, err error) {
	c, err := b.startCopies(ctx, s.name, s.start, 1<<30)
	if err != nil {
		return took, err
	}
	defer func() { err = errors.Join(err, c.on.stop()) }()
	// Files as a program makes them: each is copied where the storage can only copy.
	const script = `cd "$1"; for i in $(seq "$2"); do head -c 1M /dev/urandom >"$i"; done; sync -f .`
	if err := c.fill(ctx, script, b.copyMiB); err != nil {
		return took, err
	}
	for range b.copyTurns {
		if err := c.turn(ctx, &took); err != nil {
			return took, err
		}
	}
	return took, c.end(ctx)
}

// measureBigClone measures a native clone of a large volume against an empty claim of the
// same size, now the one first and now the other.
func (b *bench) measureBigClone(ctx context.Context) (err error) {
	size := int64(b.cloneGiB) << 30
	c, err := b.startCopies(ctx, "clone", func(b *bench, ctx context.Context, provisioner string) (*served, error) {
		return b.onBtrfsOf(ctx, provisioner, 4*size)
	}, size+size/4)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.on.stop()) }()
	// A tenth of it is written to, the rest has room on the disk only.
	const script = `cd "$1"; for i in $(seq 0 9); do fallocate -l "$2"M "$i"; done; head -c "$2"M /dev/urandom >0; sync -f .`
	if err := c.fill(ctx, script, int(size>>20/10)); err != nil {
		return err
	}
	var took copyTimes
	var ratios []float64
	for range b.cloneTurns {
		if err := c.cloneTurn(ctx, &took); err != nil {
			return err
		}
		ratios = append(ratios, took.clone[len(took.clone)-1]/took.empty[len(took.empty)-1])
	}
	b.results.set("clone_bound_p50_ms_10g", median(took.clone))
	b.results.set("clone_ratio_10g_vs_empty", median(ratios))
	b.say("  %d clones of %d GiB: median %.1f ms until they are bound, %.1f for empty claims, ratio %.2f",
		b.cloneTurns, b.cloneGiB, median(took.clone), median(took.empty), median(ratios))
	return c.end(ctx)
}

// startCopies starts a Berth on a storage, with a claim of that size.
func (b *bench) startCopies(ctx context.Context, name string, start func(*bench, context.Context, string) (*served, error), size int64) (_ *copies, err error) {
	if err := errors.Join(b.needBerth(ctx), b.needCluster(ctx)); err != nil {
		return nil, err
	}
	if err := b.cluster.StartSnapshots(ctx); err != nil {
		return nil, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", b.cluster.Kubeconfig())
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	c := &copies{size: size}
	if c.objects, err = dynamic.NewForConfig(config); err != nil {
		return nil, err
	}
	name = "copies-" + strings.ReplaceAll(name, "_", "-")
	provisioner := "bench.example.com/" + name
	if c.on, err = start(b, ctx, provisioner); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.on.stop())
		}
	}()
	if c.setting, err = b.newSetting(ctx, name, provisioner, c.on); err != nil {
		return nil, err
	}
	c.purges = 1 // of the setting's own claim
	expandable := []byte(`{"allowVolumeExpansion":true}`)
	if _, err := b.client.StorageV1().StorageClasses().Patch(ctx, name, types.MergePatchType, expandable, metav1.PatchOptions{}); err != nil {
		return nil, err
	}
	class := &unstructured.Unstructured{Object: map[string]any{"driver": provisioner, "deletionPolicy": "Delete"}}
	if err := c.create(ctx, c.objects.Resource(snapshotAPI.WithResource("volumesnapshotclasses")), class, "VolumeSnapshotClass", name); err != nil {
		return nil, err
	}
	_, err = c.bindOne(ctx, sourceClaim, c.sized)
	return c, err
}

func (c *copies) create(ctx context.Context, api dynamic.ResourceInterface, object *unstructured.Unstructured, kind, name string) error {
	object.SetGroupVersionKind(snapshotAPI.WithKind(kind))
	object.SetName(name)
	_, err := api.Create(ctx, object, metav1.CreateOptions{})
	return err
}

func (c *copies) sized(claim *v1.PersistentVolumeClaim) {
	claim.Spec.Resources.Requests[v1.ResourceStorage] = *resource.NewQuantity(c.size, resource.BinarySI)
}

// fill runs a script in a shell where the volume to be cloned is, with its directory and a
// number as its arguments.
func (c *copies) fill(ctx context.Context, script string, n int) error {
	claim, err := c.b.client.CoreV1().PersistentVolumeClaims(c.name).Get(ctx, sourceClaim, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if _, err := c.on.Run(ctx, "sh", "-ec", script, "sh", path.Join(c.on.folder, claim.Spec.VolumeName), fmt.Sprint(n)); err != nil {
		return fmt.Errorf("filling a volume: %w", err)
	}
	return nil
}

// turn measures everything once, and deletes what it has made.
func (c *copies) turn(ctx context.Context, took *copyTimes) error {
	if err := timed(&took.expand, func() (time.Duration, error) { return c.expand(ctx) }); err != nil {
		return err
	}
	name := fmt.Sprint("snapshot-", c.turns)
	if err := timed(&took.snapshot, func() (time.Duration, error) { return c.snapshot(ctx, name) }); err != nil {
		return err
	}
	if err := c.snapshots().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := c.awaitPurges(ctx, 1); err != nil {
		return err
	}
	return c.cloneTurn(ctx, took)
}

// cloneTurn makes a clone and an empty claim, now the one first and now the other.
func (c *copies) cloneTurn(ctx context.Context, took *copyTimes) error {
	clone := func() error { return c.bindAndDelete(ctx, "clone", &took.clone, c.sized, fromSource) }
	empty := func() error { return c.bindAndDelete(ctx, "empty", &took.empty, c.sized) }
	c.turns++
	if c.turns%2 == 0 {
		clone, empty = empty, clone
	}
	if err := clone(); err != nil {
		return err
	}
	return empty()
}

func fromSource(claim *v1.PersistentVolumeClaim) {
	claim.Spec.DataSource = &v1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: sourceClaim}
}

// bindAndDelete measures one claim, and waits until nothing of it is left.
func (c *copies) bindAndDelete(ctx context.Context, kind string, took *[]float64, edits ...func(*v1.PersistentVolumeClaim)) error {
	name := fmt.Sprintf("%s-%d", kind, c.turns)
	if err := timed(took, func() (time.Duration, error) { return c.bindOne(ctx, name, edits...) }); err != nil {
		return err
	}
	if err := c.b.client.CoreV1().PersistentVolumeClaims(c.name).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return c.awaitPurges(ctx, 1)
}

// awaitPurges waits until nothing is left of so many things more that were deleted.
func (c *copies) awaitPurges(ctx context.Context, n float64) error {
	c.purges += n
	var failed error
	err := c.b.await(ctx, c.on, "everything that was deleted is purged", func() bool {
		var done float64
		done, failed = c.on.purges(ctx)
		return failed != nil || done >= c.purges
	})
	return errors.Join(err, failed)
}

// expand has the claim grow, and gives the time until its status says that it has.
func (c *copies) expand(ctx context.Context) (time.Duration, error) {
	claims := c.b.client.CoreV1().PersistentVolumeClaims(c.name)
	c.size += 1 << 20
	patch := fmt.Appendf(nil, `{"spec":{"resources":{"requests":{"storage":"%d"}}}}`, c.size)
	edit := func() error {
		_, err := claims.Patch(ctx, sourceClaim, types.MergePatchType, patch, metav1.PatchOptions{})
		return err
	}
	return timeUntil(ctx, "the claim has grown", sourceClaim, claims.Watch, edit, func(event watch.Event) bool {
		claim, ok := event.Object.(*v1.PersistentVolumeClaim)
		return ok && claim.Status.Capacity.Storage().CmpInt64(c.size) >= 0
	})
}

func (c *copies) snapshots() dynamic.ResourceInterface {
	return c.objects.Resource(snapshotAPI.WithResource("volumesnapshots")).Namespace(c.name)
}

// snapshot makes a VolumeSnapshot of the claim, and gives the time until it is ready.
func (c *copies) snapshot(ctx context.Context, name string) (time.Duration, error) {
	create := func() error {
		return c.create(ctx, c.snapshots(), &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{
			"volumeSnapshotClassName": c.name, "source": map[string]any{"persistentVolumeClaimName": sourceClaim},
		}}}, "VolumeSnapshot", name)
	}
	return timeUntil(ctx, "snapshot "+name+" is ready", name, c.snapshots().Watch, create, func(event watch.Event) bool {
		object, ok := event.Object.(*unstructured.Unstructured)
		if !ok {
			return false
		}
		ready, _, err := unstructured.NestedBool(object.Object, "status", "readyToUse")
		return ready && err == nil
	})
}

// end deletes the claim, and waits until nothing is left.
func (c *copies) end(ctx context.Context) error {
	if _, err := c.deleteAll(ctx); err != nil {
		return err
	}
	if err := c.awaitPurges(ctx, 1); err != nil {
		return err
	}
	return errors.Join(c.remove(ctx), c.objects.Resource(snapshotAPI.WithResource("volumesnapshotclasses")).Delete(ctx, c.name, metav1.DeleteOptions{}))
}

// timed adds what is measured to took, in milliseconds.
func timed(took *[]float64, measure func() (time.Duration, error)) error {
	t, err := measure()
	if err == nil {
		*took = append(*took, milliseconds(t))
	}
	return err
}
