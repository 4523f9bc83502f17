package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/test/harness"
)

// Names of the two provisioners.
const (
	berthName = "bench.example.com/berth"
	noopName  = "bench.example.com/noop"
)

// deletersAtOnce is as many as harness.CreateClaims has.
const deletersAtOnce = 50

// program is a provisioner that runs.
type program interface {
	Done() <-chan struct{}
	Log() string
}

// setting is where claims are made: a namespace and a class of the same name, and
// a provisioner process that serves it.
type setting struct {
	b       *bench
	name    string
	process program
	watch   *harness.Watch
	stop    context.CancelFunc // of the watch
}

// newSetting makes a setting whose provisioner is at work: it has bound a claim,
// and that one is gone again.
func (b *bench) newSetting(ctx context.Context, name, provisioner string, p program) (*setting, error) {
	namespace := &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := b.client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	if err := harness.CreateClass(ctx, b.client, name, provisioner, nil); err != nil {
		return nil, err
	}
	watching, stop := context.WithCancel(ctx)
	watch, err := harness.NewWatch(watching, b.client, name)
	s := &setting{b: b, name: name, process: p, watch: watch, stop: stop}
	if err == nil {
		_, err = s.bind(ctx, "warm-up", 1)
	}
	if err == nil {
		_, err = s.deleteAll(ctx)
	}
	if err != nil {
		stop()
		return nil, err
	}
	return s, nil
}

// bind makes n claims at once and gives the time until all of them are Bound.
func (s *setting) bind(ctx context.Context, prefix string, n int) (time.Duration, error) {
	start := time.Now()
	if err := harness.CreateClaims(ctx, s.b.client, s.name, prefix, s.name, n); err != nil {
		return 0, err
	}
	err := s.b.await(ctx, s.process, fmt.Sprintf("%d claims are bound", n), func() bool { return s.watch.Bound() == n })
	return time.Since(start), err
}

// deleteAll deletes all claims and gives the time until their PersistentVolumes
// are gone.
func (s *setting) deleteAll(ctx context.Context) (time.Duration, error) {
	claims := s.watch.Claims()
	start := time.Now()
	err := inParallel(ctx, deletersAtOnce, len(claims), func(ctx context.Context, i int) error {
		return s.b.client.CoreV1().PersistentVolumeClaims(s.name).Delete(ctx, claims[i].Name, metav1.DeleteOptions{})
	})
	if err != nil {
		return 0, err
	}
	err = s.b.await(ctx, s.process, "all PersistentVolumes are gone", func() bool { return len(s.watch.Volumes()) == 0 })
	return time.Since(start), err
}

// remove takes the namespace, with its events, and the class away.
func (s *setting) remove(ctx context.Context) error {
	s.stop()
	namespaces := s.b.client.CoreV1().Namespaces()
	if err := errors.Join(
		namespaces.Delete(ctx, s.name, metav1.DeleteOptions{}),
		s.b.client.StorageV1().StorageClasses().Delete(ctx, s.name, metav1.DeleteOptions{}),
	); err != nil {
		return err
	}
	return harness.Until(ctx, "the namespace "+s.name+" is gone", func() bool {
		_, err := namespaces.Get(ctx, s.name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// awaitEmpty waits until the pool at root has purged all volumes.
func (b *bench) awaitEmpty(ctx context.Context, p *harness.Process, root string) error {
	var failed error
	err := b.await(ctx, p, "the pool is empty", func() bool {
		records, err := os.ReadDir(filepath.Join(root, dir.Private, "volumes"))
		failed = err
		return err != nil || len(records) == 0
	})
	if err := errors.Join(err, failed); err != nil {
		return err
	}
	left, err := os.ReadDir(root)
	if err == nil && len(left) > 1 { // the one is Berth's own folder
		err = fmt.Errorf("all volumes are deleted and %d directories are left in the pool", len(left)-1)
	}
	return err
}

// measureSingle measures claims that are made one at a time, each from the call
// that creates it until it is seen Bound.
func (b *bench) measureSingle(ctx context.Context) (err error) {
	if err := errors.Join(b.needBerth(ctx), b.needCluster(ctx)); err != nil {
		return err
	}
	root, err := b.newPool()
	if err != nil {
		return err
	}
	berth, err := b.startBerth(root, berthName)
	if err != nil {
		return err
	}
	defer berth.Kill()
	if err := berth.Ready(ctx); err != nil {
		return err
	}
	s, err := b.newSetting(ctx, "single", berthName, berth.Process)
	if err != nil {
		return err
	}
	var took []float64
	for i := range b.singles {
		t, err := s.bindOne(ctx, fmt.Sprintf("claim-%d", i))
		if err != nil {
			return err
		}
		took = append(took, milliseconds(t))
	}
	b.results.set("single_claim_bound_ms", median(took))
	b.say("  %d claims: median %.1f ms", b.singles, median(took))
	if _, err := s.deleteAll(ctx); err != nil {
		return err
	}
	return errors.Join(s.remove(ctx), berth.Stop())
}

// bindOne makes one claim, and gives the time until it is Bound. It is followed by a
// watch of its own, for the polling of others would be a good part of what is measured.
func (s *setting) bindOne(ctx context.Context, name string, edits ...func(*v1.PersistentVolumeClaim)) (time.Duration, error) {
	claims := s.b.client.CoreV1().PersistentVolumeClaims(s.name)
	claim := harness.NewClaim(s.name, name, s.name)
	for _, edit := range edits {
		edit(claim)
	}
	create := func() error {
		_, err := claims.Create(ctx, claim, metav1.CreateOptions{})
		return err
	}
	return timeUntil(ctx, "claim "+name+" is bound", name, claims.Watch, create, func(event watch.Event) bool {
		claim, ok := event.Object.(*v1.PersistentVolumeClaim)
		return ok && claim.Status.Phase == v1.ClaimBound
	})
}

// timeUntil gives the time from before do is called until a watch of the object of that name
// shows what is waited for.
func timeUntil(ctx context.Context, what, name string, begin func(context.Context, metav1.ListOptions) (watch.Interface, error), do func() error, shows func(watch.Event) bool) (time.Duration, error) {
	events, err := begin(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return 0, err
	}
	defer events.Stop()
	start := time.Now()
	if err := do(); err != nil {
		return 0, err
	}
	for {
		select {
		case event, open := <-events.ResultChan():
			if !open || event.Type == watch.Error {
				return 0, fmt.Errorf("the watch until %s ended: %v", what, event.Object)
			}
			if shows(event) {
				return time.Since(start), nil
			}
		case <-ctx.Done():
			return 0, fmt.Errorf("waiting until %s: %w", what, context.Cause(ctx))
		}
	}
}

// measureRSS measures the memory of the Berth process with many volumes bound,
// when it has nothing to do.
func (b *bench) measureRSS(ctx context.Context) error {
	if err := errors.Join(b.needBerth(ctx), b.needCluster(ctx)); err != nil {
		return err
	}
	root, err := b.newPool()
	if err != nil {
		return err
	}
	berth, err := b.startBerth(root, berthName)
	if err != nil {
		return err
	}
	defer berth.Kill()
	if err := berth.Ready(ctx); err != nil {
		return err
	}
	s, err := b.newSetting(ctx, "rss", berthName, berth.Process)
	if err != nil {
		return err
	}
	defer s.stop()
	if _, err := s.bind(ctx, "claim", b.resting); err != nil {
		return err
	}
	busy, err := memory(berth.PID, "VmRSS")
	if err != nil {
		return err
	}
	b.say("  %d volumes are bound; waiting %s for Berth to come to rest from %.1f MiB", b.resting, b.restPatience, busy)
	select {
	case <-time.After(b.restPatience):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	rest, err := memory(berth.PID, "VmRSS")
	if err != nil {
		return err
	}
	peak, err := memory(berth.PID, "VmHWM")
	if err != nil {
		return err
	}
	b.results.set("rss_mib_1000", rest)
	b.say("  %.1f MiB at rest, %.1f at the peak", rest, peak)
	return berth.Stop()
}

// memory reads a line of /proc/PID/status, in MiB; see proc(5).
func memory(pid int, line string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, found := strings.Cut(string(text), line+":")
	var kib float64
	if _, err := fmt.Sscan(rest, &kib); err != nil || !found {
		return 0, fmt.Errorf("no %s of process %d: %w", line, pid, err)
	}
	return kib / 1024, nil
}
