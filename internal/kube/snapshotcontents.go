package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-storage/berth/internal/volume"
)

// lookAtContent has a content be what it says: a snapshot that is there, or is gone. Its
// error says that it has to be tried again; whoever waits for it was told.
func (s *snapshotter) lookAtContent(ctx context.Context, key cache.ObjectName) error {
	object, err := s.contents.Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	content, err := parseObject[snapshotContent](object)
	if err != nil {
		return err
	}
	switch {
	case content.Spec.Driver != s.provisioner.name:
		return nil
	case content.DeletionTimestamp != nil:
		if err = s.end(ctx, content); err != nil && !apierrors.IsConflict(err) {
			s.events.Eventf(&content.Spec.Snapshot, v1.EventTypeWarning, reasonNotDeleted, "the snapshot is not deleted: %v", err)
		}
		return err
	case content.Status.Ready:
		return s.tellAgain(ctx, key, content)
	case content.Spec.Source.Snapshot != nil:
		err = s.admit(ctx, content)
	default:
		err = s.fill(ctx, content)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, volume.ErrPending):
		s.events.Eventf(&content.Spec.Snapshot, v1.EventTypeNormal, reasonSnapshotCopying, "%v", err)
		return err
	case apierrors.IsConflict(err), apierrors.IsNotFound(err): // the content has changed since, and comes again
		return err
	}
	s.events.Eventf(&content.Spec.Snapshot, v1.EventTypeWarning, reasonNotTaken, "no snapshot is taken: %v", err)
	return errors.Join(err, s.sayError(ctx, content, err.Error()))
}

// tellAgain has the snapshot-controller look at a content that is ready, if the VolumeSnapshot is
// not: after failures, as before the content was there, it waits for up to five minutes, unless
// something changes. It is told a few times only, for it may not be there.
func (s *snapshotter) tellAgain(ctx context.Context, key cache.ObjectName, content *snapshotContent) error {
	ref := &content.Spec.Snapshot
	object, err := s.snapshots.ByNamespace(ref.Namespace).Get(ref.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	snapshot, err := parseObject[volumeSnapshot](object)
	if err != nil {
		return err
	}
	if snapshot.UID != ref.UID || snapshot.Status.Ready || snapshot.DeletionTimestamp != nil || s.provisioner.poolWith(content) == nil || s.queue.NumRequeues(key) > tellings {
		return nil
	}
	if err := s.patch(ctx, contentsPlural, "", content.Name, map[string]any{"metadata": map[string]any{
		"uid": content.UID, "annotations": map[string]string{annTold: time.Now().UTC().Format(time.RFC3339Nano)},
	}}); err != nil {
		return err
	}
	return fmt.Errorf("%w: VolumeSnapshot %s/%s is not said to be ready", volume.ErrBusy, ref.Namespace, ref.Name)
}

// fill takes the snapshot of a content that Berth made.
func (s *snapshotter) fill(ctx context.Context, content *snapshotContent) error {
	pool, spec, err := s.specOf(content)
	if err != nil || pool == nil {
		return err
	}
	if wanted, err := s.stillWanted(ctx, content, pool, spec); err != nil || !wanted {
		return err
	}
	if err := s.checkClass(content); err != nil {
		return err
	}
	v, err := s.take(ctx, pool, spec)
	if err != nil {
		return err
	}
	// Copying takes its time. From the next step on the snapshot is kept, whatever is lost.
	if wanted, err := s.stillWanted(ctx, content, pool, spec); err != nil || !wanted {
		return err
	}
	if err := pool.Volumes.MarkPublished(ctx, v.Name); err != nil {
		return err
	}
	if err := s.sayReady(ctx, content, pool, v); err != nil {
		return err
	}
	how := "crash-consistent: it holds what clients had written"
	if v.Copied {
		how = "copied file by file while the volume was in use"
	}
	s.events.Eventf(&content.Spec.Snapshot, v1.EventTypeNormal, reasonSnapshotTaken, "Berth has taken a snapshot of volume %s, %s", spec.Of, how)
	s.log.Info("took a snapshot", "snapshot", handle{pool.Volumes.Pool(), v.Name}.String(), "of", spec.Of.String(), "claim", v.Claim.String())
	return nil
}

func (s *snapshotter) take(ctx context.Context, pool *Pool, spec volume.SnapshotSpec) (v volume.Volume, err error) {
	defer s.provisioner.observed("snapshot", &err)()
	return pool.Volumes.Snapshot(ctx, spec)
}

// specOf gives the snapshot that a content asks for and the pool that has the volume; no
// pool if another instance has it.
func (s *snapshotter) specOf(content *snapshotContent) (*Pool, volume.SnapshotSpec, error) {
	var of handle
	var err error
	if content.Spec.Source.Volume != nil {
		of, err = parseHandle(*content.Spec.Source.Volume)
	}
	ref := &content.Spec.Snapshot
	if err != nil || content.Annotations[annInstance] == "" || content.Name != contentOf(ref.UID) {
		return nil, volume.SnapshotSpec{}, fmt.Errorf("%w: VolumeSnapshotContent %s, which Berth has not made, is of no volume of Berth", volume.ErrForeign, content.Name)
	}
	name, err := snapshotNameOf(ref.UID)
	if err != nil {
		return nil, volume.SnapshotSpec{}, err
	}
	return s.provisioner.poolWith(content), volume.SnapshotSpec{Name: name, Of: of.name, Namespace: ref.Namespace, Cluster: s.provisioner.cluster}, nil
}

// poolWith gives the pool that the annotation of a content names; nil if it names none of
// this instance.
func (p *provisioner) poolWith(content *snapshotContent) *Pool {
	i := slices.IndexFunc(p.pools, func(p *Pool) bool {
		return p.Instance != "" && p.Instance == content.Annotations[annInstance]
	})
	if i < 0 {
		return nil
	}
	return p.pools[i]
}

// checkClass refuses the parameters of a content's class: there are none. What is passed
// over gives a snapshot that is not as somebody believes.
func (s *snapshotter) checkClass(content *snapshotContent) error {
	if content.Spec.Class == nil {
		return nil
	}
	class, err := s.class(*content.Spec.Class)
	if err != nil {
		return err
	}
	if unknown := slices.Sorted(maps.Keys(class.Parameters)); len(unknown) > 0 {
		return fmt.Errorf("%w: VolumeSnapshotClass %s: unknown parameters: %.200s; Berth's snapshots have none", volume.ErrInvalid, class.Name, strings.Join(unknown, ", "))
	}
	return nil
}

// admit lets a content that somebody made have the snapshot that it names, if that is one
// of the namespace that it shall be for.
func (s *snapshotter) admit(ctx context.Context, content *snapshotContent) error {
	if content.Spec.Snapshot.UID == "" {
		return nil // until the snapshot-controller has found the VolumeSnapshot
	}
	h, err := parseHandle(*content.Spec.Source.Snapshot)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(s.provisioner.pools, func(p *Pool) bool { return p.Volumes.Pool() == h.pool })
	if i < 0 {
		return nil // another instance's
	}
	pool := s.provisioner.pools[i]
	v, err := s.known(ctx, pool, h.name, content)
	if err != nil {
		return err
	}
	if err := pool.Volumes.MarkPublished(ctx, v.Name); err != nil {
		return err
	}
	if content.Annotations[annInstance] != pool.Instance { // what is deleted goes by it
		if err := s.patch(ctx, contentsPlural, "", content.Name, map[string]any{"metadata": map[string]any{
			"resourceVersion": content.ResourceVersion, "annotations": map[string]string{annInstance: pool.Instance},
		}}); err != nil {
			return err
		}
	}
	return s.sayReady(ctx, content, pool, v)
}

// known gives the snapshot called n if it is complete, and one that a content may stand for.
func (s *snapshotter) known(ctx context.Context, pool *Pool, n volume.Name, content *snapshotContent) (volume.Volume, error) {
	v, err := s.owned(ctx, pool, n, content)
	if err == nil && v.State != volume.StateSnapshot {
		return volume.Volume{}, fmt.Errorf("%w: snapshot %s is %s", volume.ErrBusy, n, v.State)
	}
	return v, err
}

// owned gives the snapshot called n, however far it got, if the record says that it is one that a content may stand for.
func (s *snapshotter) owned(ctx context.Context, pool *Pool, n volume.Name, content *snapshotContent) (volume.Volume, error) {
	v, err := pool.Volumes.Get(ctx, n)
	namespace := content.Spec.Snapshot.Namespace
	switch {
	case err != nil:
		return volume.Volume{}, fmt.Errorf("snapshot %s in pool %s: %w", n, pool.Volumes.Pool(), err)
	case v.SnapshotOf == volume.Name{}:
		return volume.Volume{}, fmt.Errorf("%w: %s in pool %s is a volume, not a snapshot", volume.ErrInvalid, n, pool.Volumes.Pool())
	case v.Claim.Namespace != namespace || v.Cluster != s.provisioner.cluster && v.Cluster != "":
		return volume.Volume{}, fmt.Errorf("%w: snapshot %s is of claim %s: a VolumeSnapshot of namespace %s gets only what is its namespace's in this cluster",
			volume.ErrForeign, n, v.Claim, namespace)
	}
	return v, nil
}

// sayReady writes a content's status: its snapshot is there.
func (s *snapshotter) sayReady(ctx context.Context, content *snapshotContent, pool *Pool, v volume.Volume) error {
	defer s.queue.AddAfter(cache.ObjectName{Name: content.Name}, lookAgain) // whether the VolumeSnapshot is ready too
	return s.patch(ctx, contentsPlural, "", content.Name, map[string]any{
		"metadata": map[string]any{"uid": content.UID},
		"status": contentStatus{
			Snapshot: new(handle{pool.Volumes.Pool(), v.Name}.String()), Ready: true,
			RestoreSize: new(v.Size), Created: new(v.Created.UnixNano()),
		},
	}, "status")
}

// sayError writes in a content's status why there is no snapshot, unless the content has changed
// since: another instance may have said that it is ready. The snapshot-controller copies it
// to the VolumeSnapshot.
func (s *snapshotter) sayError(ctx context.Context, content *snapshotContent, why string) error {
	if e := content.Status.Error; e != nil && e.Message == why {
		return nil
	}
	return s.patch(ctx, contentsPlural, "", content.Name, map[string]any{
		"metadata": map[string]any{"resourceVersion": content.ResourceVersion},
		"status":   contentStatus{Error: &snapshotError{why, metav1.Now()}},
	}, "status")
}

// stillWanted says whether the VolumeSnapshot of a content of ours that is not ready is there.
func (s *snapshotter) stillWanted(ctx context.Context, content *snapshotContent, pool *Pool, spec volume.SnapshotSpec) (bool, error) {
	now, err := s.standingOf(ctx, &content.Spec.Snapshot)
	if err == nil && now == isGone {
		err = s.drop(ctx, content, pool, spec)
	}
	return now == isWanted, err
}

// drop ends a content of ours whose VolumeSnapshot is gone before it was ready: if the
// snapshot-controller did not know of the content by then, it never deletes it.
func (s *snapshotter) drop(ctx context.Context, content *snapshotContent, pool *Pool, spec volume.SnapshotSpec) error {
	v, err := pool.Volumes.Get(ctx, spec.Name)
	switch {
	case err == nil && v.Published:
		// As after the cluster was restored from a backup; or the cache is behind.
		return fmt.Errorf("%w: snapshot %s was ready once, and its VolumeSnapshot %s/%s is gone: delete the VolumeSnapshotContent %s if nobody needs it",
			volume.ErrExists, spec.Name, spec.Namespace, content.Spec.Snapshot.Name, content.Name)
	case err != nil && !errors.Is(err, volume.ErrNotFound):
		return err
	}
	// First of all: without the finalizer the content is gone with the last call. A crash after
	// any of these leaves a content that comes here again.
	if err := s.deleteSnapshot(ctx, pool, spec.Name); err != nil {
		return err
	}
	if err := s.patch(ctx, contentsPlural, "", content.Name, map[string]any{"metadata": map[string]any{
		"uid": content.UID, "annotations": map[string]string{annBeingDeleted: "yes"},
	}}); err != nil {
		return err
	}
	err = s.objects.Resource(snapshotResource(contentsPlural)).Delete(ctx, content.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &content.UID}})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// end deletes the snapshot of a content that is being deleted, if its policy says so, and lets
// the content go.
func (s *snapshotter) end(ctx context.Context, content *snapshotContent) error {
	if !slices.Contains(content.Finalizers, contentFinalizer) {
		return nil
	}
	_, released := content.Annotations[annBeingDeleted]
	unbound := content.Spec.Source.Snapshot != nil && content.Spec.Snapshot.UID == ""
	if !released && !unbound {
		return nil // its VolumeSnapshot has to be deleted first
	}
	if content.Annotations[annInstance] != "" { // else it never had a snapshot
		pool := s.provisioner.poolWith(content)
		if pool == nil {
			return nil // another instance's
		}
		if content.Spec.DeletionPolicy == deletionIsDelete {
			if err := s.endSnapshot(ctx, pool, content); err != nil {
				return err
			}
		}
	}
	others := slices.DeleteFunc(slices.Clone(content.Finalizers), func(f string) bool { return f == contentFinalizer })
	err := s.patch(ctx, contentsPlural, "", content.Name, map[string]any{"metadata": map[string]any{
		"resourceVersion": content.ResourceVersion, "finalizers": others,
	}})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// endSnapshot deletes the snapshot that a content stands for, and no other one.
func (s *snapshotter) endSnapshot(ctx context.Context, pool *Pool, content *snapshotContent) error {
	var name volume.Name
	if text := content.Spec.Source.Snapshot; text != nil {
		h, err := parseHandle(*text)
		if err != nil {
			return err
		}
		name = h.name
	} else {
		_, spec, err := s.specOf(content)
		if err != nil {
			return err
		}
		name = spec.Name
	}
	// What is half made, or not yet begun but asked for, is ended too.
	if _, err := s.owned(ctx, pool, name, content); err != nil && !errors.Is(err, volume.ErrNotFound) {
		return err
	}
	return s.deleteSnapshot(ctx, pool, name)
}

func (s *snapshotter) deleteSnapshot(ctx context.Context, pool *Pool, n volume.Name) (err error) {
	defer s.provisioner.observed("deleteSnapshot", &err)()
	if err := pool.Volumes.DeleteSnapshot(ctx, n, s.provisioner.cluster); err != nil {
		return err
	}
	s.log.Info("deleted a snapshot", "snapshot", handle{pool.Volumes.Pool(), n}.String())
	return nil
}
