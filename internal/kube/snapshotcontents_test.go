package kube

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	kubetest "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-storage/berth/internal/volume"
)

// old is the record of the snapshot that aContentOfAnAdministrator names.
func old(t *testing.T, change ...func(*volume.Volume)) map[string]volume.Volume {
	t.Helper()
	spec := volume.SnapshotSpec{Name: parseName(t, "snapshot-old"), Of: parseName(t, volumeName), Namespace: "team", Cluster: clusterUID}
	v := volume.NewSnapshot(spec, volume.Volume{Name: spec.Of, Size: 5, Claim: volume.Claim{Namespace: "team", Name: "data"}}, at)
	v.State = volume.StateSnapshot
	for _, c := range change {
		c(&v)
	}
	return map[string]volume.Volume{v.Name.String(): v}
}

var (
	atTime = metav1.Unix(3, 0)
	at     = atTime.Time
)

// going is a content that the snapshot-controller has marked and that is being deleted.
func going(t *testing.T, manifest string, replace ...string) *unstructured.Unstructured {
	content := parseYAML(t, manifest, replace...)
	content.SetDeletionTimestamp(new(metav1.Now()))
	content.SetFinalizers([]string{"other/one", contentFinalizer})
	annotations := content.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[annBeingDeleted] = "yes"
	content.SetAnnotations(annotations)
	return content
}

func TestContentOfAnAdministratorGetsTheSnapshotThatThereIs(t *testing.T) {
	for name, c := range map[string]struct {
		content []string // replaced in aContentOfAnAdministrator
		record  func(*volume.Volume)
		says    string // "": it is ready
		waits   bool   // it is another instance's, or not bound yet
	}{
		"its namespace's":        {},
		"one without cluster":    {record: func(v *volume.Volume) { v.Cluster = "" }},
		"another namespace's":    {record: func(v *volume.Volume) { v.Claim.Namespace = "other" }, says: "only what is its namespace's"},
		"another cluster's":      {record: func(v *volume.Volume) { v.Cluster = "cluster-2" }, says: "only what is its namespace's"},
		"a volume":               {record: func(v *volume.Volume) { v.SnapshotOf = volume.Name{} }, says: "is a volume, not a snapshot"},
		"one that is being made": {record: func(v *volume.Volume) { v.State = volume.StateCreating }, says: "is creating"},
		"none":                   {content: []string{"snapshot-old", "snapshot-none"}, says: "snapshot snapshot-none in pool local"},
		"no handle":              {content: []string{"local/snapshot-old", "snapshot-old"}, says: "is not pool/name"},
		"another pool's":         {content: []string{"local/", "elsewhere/"}, waits: true},
		"one that is not bound":  {content: []string{", uid: 6b6b", ""}, waits: true},
		"another driver's":       {content: []string{"driver: example.com/nfs", "driver: example.com/other"}, waits: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShooting(t, parseYAML(t, aContentOfAnAdministrator, c.content...))
			s.volumes.begun = old(t)
			if c.record != nil {
				s.volumes.begun = old(t, c.record)
			}
			err := s.look()
			got := s.content("imported")
			switch {
			case c.waits:
				if err != nil || got.Status != (contentStatus{}) || s.said() != "" {
					t.Errorf("error %v, status %+v", err, got.Status)
				}
			case c.says == "":
				want := contentStatus{Snapshot: new("local/snapshot-old"), Ready: true, RestoreSize: new(int64(5)), Created: new(at.UnixNano())}
				if diff := cmp.Diff(want, got.Status); diff != "" || err != nil {
					t.Errorf("error %v, status (-want +got):\n%s", err, diff)
				}
				if got.Annotations[annInstance] != "local-instance" {
					t.Errorf("its annotations are %v: at its end nobody knew whose it is", got.Annotations)
				}
			default:
				if said := s.said(); err == nil || got.Status.Ready || got.Status.Error == nil || !strings.Contains(got.Status.Error.Message, c.says) || !strings.Contains(said, c.says) {
					t.Errorf("error %v, status %+v, said: %s", err, got.Status, said)
				}
			}
		})
	}
}

func TestSnapshotIsDeletedByPolicy(t *testing.T) {
	const retain, remove = "deletionPolicy: Retain", "deletionPolicy: Delete"
	mark := []string{"uid: c1}", "uid: c1, annotations: {berth.storage/instance: local-instance}}"}
	for name, c := range map[string]struct {
		content *unstructured.Unstructured
		record  func(*volume.Volume)
		deletes string // the snapshot's name
		stays   bool   // the content does
		fails   string
	}{
		"Delete":                     {content: going(t, aContent), deletes: shotName},
		"Retain":                     {content: going(t, aContent, remove, retain)},
		"an administrator's, Delete": {content: going(t, aContentOfAnAdministrator, mark...), deletes: "snapshot-old"},
		"an administrator's, Retain": {content: going(t, aContentOfAnAdministrator, append(mark, remove, retain)...)},
		// It was never let have the snapshot that it names.
		"an administrator's that was refused": {content: going(t, aContentOfAnAdministrator)},
		"another namespace's": {
			content: going(t, aContentOfAnAdministrator, mark...), record: func(v *volume.Volume) { v.Claim.Namespace = "other" },
			stays: true, fails: "only what is its namespace's",
		},
		"a volume": {
			content: going(t, aContentOfAnAdministrator, mark...), record: func(v *volume.Volume) { v.SnapshotOf = volume.Name{} }, stays: true, fails: "is a volume",
		},
		// Made by the snapshot-controller for a volume of CSI whose class is Berth's.
		"one that Berth has not made": {content: going(t, aContent, "annotations: {berth.storage/instance: local-instance}", "annotations: {}")},
		"another instance's":          {content: going(t, aContent, "local-instance", "other-instance"), stays: true},
		"another driver's":            {content: going(t, aContent, "driver: example.com/nfs", "driver: example.com/other"), stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShooting(t, c.content)
			s.volumes.begun = old(t)
			if c.record != nil {
				s.volumes.begun = old(t, c.record)
			}
			err := s.look()
			if said := s.said(); (err != nil) != (c.fails != "") || !strings.Contains(said, c.fails) {
				t.Errorf("error %v, want %q, said: %s", err, c.fails, said)
			}
			want := []string(nil)
			if c.deletes != "" {
				want = []string{c.deletes + " " + clusterUID}
			}
			if diff := cmp.Diff(want, s.volumes.unshot); diff != "" {
				t.Errorf("deleted (-want +got):\n%s", diff)
			}
			now := s.content(c.content.GetName())
			if stays := slices.Contains(now.Finalizers, contentFinalizer); stays != c.stays || !slices.Contains(now.Finalizers, "other/one") {
				t.Errorf("the finalizers are %v", now.Finalizers)
			}
		})
	}
}

// Who can write contents could wait for a moment in which nobody knows whose a snapshot is.
func TestSnapshotIsKeptWhileNobodyKnowsWhoseItIs(t *testing.T) {
	for _, away := range []error{volume.ErrBusy, volume.ErrUnknown} {
		s := newShooting(t, going(t, aContentOfAnAdministrator, "uid: c1}", "uid: c1, annotations: {berth.storage/instance: local-instance}}"))
		s.volumes.away = fmt.Errorf("%w: the pool is away", away)
		if err := s.look(); !errors.Is(err, away) || s.volumes.unshot != nil || !slices.Contains(s.content("imported").Finalizers, contentFinalizer) {
			t.Errorf("error %v, want %v, deleted %v", err, away, s.volumes.unshot)
		}
	}
}

func TestSnapshotIsKeptWhileItsVolumeSnapshotIsThere(t *testing.T) {
	content := going(t, aContent)
	content.SetAnnotations(map[string]string{annInstance: "local-instance"}) // somebody deleted the content by hand
	s := newShooting(t, parseYAML(t, aSnapshot), parseYAML(t, aClass), content)
	if err := s.look(); err != nil || s.volumes.unshot != nil || !slices.Contains(s.content(shotContent).Finalizers, contentFinalizer) {
		t.Errorf("error %v, deleted %v", err, s.volumes.unshot)
	}
}

func TestContentStaysUntilItsSnapshotIsDeleted(t *testing.T) {
	s := newShooting(t, going(t, aContent))
	s.volumes.fail = fmt.Errorf("%w: it is being copied", volume.ErrBusy)
	if err := s.look(); !errors.Is(err, volume.ErrBusy) || !slices.Contains(s.content(shotContent).Finalizers, contentFinalizer) {
		t.Errorf("error %v, finalizers %v", err, s.content(shotContent).Finalizers)
	}
	if said := s.said(); !strings.Contains(said, "Warning SnapshotDeleteError") || !strings.Contains(said, "it is being copied") {
		t.Errorf("said: %s", said)
	}
	s.volumes.fail = nil
	if err := s.look(); err != nil || slices.Contains(s.content(shotContent).Finalizers, contentFinalizer) {
		t.Errorf("error %v, finalizers %v", err, s.content(shotContent).Finalizers)
	}
}

// The snapshot-controller may let a VolumeSnapshot go before it has seen its content, which
// it then leaves for ever.
func TestContentWhoseVolumeSnapshotIsGoneIsDropped(t *testing.T) {
	s := newShooting(t, parseYAML(t, aClass), parseYAML(t, aContent))
	if err := s.look(); err != nil {
		t.Fatal(err)
	}
	if content := s.content(shotContent); content != nil {
		t.Errorf("the content is there: %v", content)
	}
	if diff := cmp.Diff([]string{shotName + " " + clusterUID}, s.volumes.unshot); diff != "" {
		t.Errorf("deleted (-want +got):\n%s", diff)
	}

	// A snapshot that somebody may rely on is not thrown away.
	s = newShooting(t, parseYAML(t, aClass), parseYAML(t, aContent))
	s.volumes.begun = map[string]volume.Volume{shotName: {Name: parseName(t, shotName), Published: true}}
	if err := s.look(); err == nil || s.volumes.unshot != nil {
		t.Errorf("error %v, deleted %v", err, s.volumes.unshot)
	}
	if e := s.content(shotContent).Status.Error; e == nil || !strings.Contains(e.Message, "was ready once") {
		t.Errorf("the content's error is %v", e)
	}
	// One that is leaving is left to the snapshot-controller.
	s = newShooting(t, parseYAML(t, aSnapshot, "uid: 5a5a", `uid: 5a5a, deletionTimestamp: "2026-01-01T00:00:00Z", finalizers: [x/y]`), parseYAML(t, aClass), parseYAML(t, aContent))
	if err := s.look(); err != nil || s.volumes.shot != nil || s.volumes.unshot != nil {
		t.Errorf("error %v, taken %v, deleted %v", err, s.volumes.shot, s.volumes.unshot)
	}
}

// The content of a volume of CSI, whose VolumeSnapshot names a class of Berth.
func TestContentThatBerthHasNotMadeIsRefused(t *testing.T) {
	for _, change := range [][]string{
		{"annotations: {berth.storage/instance: local-instance}", "annotations: {}"}, {"local/pvc-9d9d5d0f", "vol-123"}, {"snapcontent-5a5a", "imported"},
	} {
		s := newShooting(t, parseYAML(t, aSnapshot), parseYAML(t, aClass), parseYAML(t, aContent, change...))
		_ = s.look()
		name := parseYAML(t, aContent, change...).GetName()
		if e := s.content(name).Status.Error; e == nil || !strings.Contains(e.Message, "is of no volume of Berth") {
			t.Errorf("%v: the content's error is %v", change, e)
		}
		for _, spec := range s.volumes.shot {
			if name == shotContent {
				t.Errorf("%v: taken %v", change, spec)
			}
		}
	}
}

// The snapshot-controller waits for minutes when it has failed often, unless something changes.
func TestSnapshotControllerIsToldAgainThatAContentIsReady(t *testing.T) {
	const ready = "\nstatus: {readyToUse: true, snapshotHandle: local/snapshot-5a5a}"
	for name, c := range map[string]struct {
		snapshot, content []string // replaced
		told              bool
	}{
		"not ready":          {told: true},
		"ready":              {snapshot: []string{"\nspec:", readyStatus}},
		"another":            {snapshot: []string{"uid: 5a5a", "uid: 7c7c"}},
		"going":              {snapshot: []string{"uid: 5a5a", `uid: 5a5a, deletionTimestamp: "2026-01-01T00:00:00Z", finalizers: [x/y]`}},
		"another instance's": {content: []string{"local-instance", "other-instance"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShooting(t, parseYAML(t, aSnapshot, c.snapshot...), parseYAML(t, aClass), parseYAML(t, aContent+ready, c.content...))
			for range tellings + 1 {
				err := s.look()
				if told := s.content(shotContent).Annotations[annTold] != ""; told != c.told || (err != nil) != c.told {
					t.Errorf("told %v, want %v; error %v", told, c.told, err)
				}
				s.queue.AddRateLimited(cache.ObjectName{Name: shotContent})
			}
			if err := s.look(); err != nil {
				t.Errorf("it is told for ever: %v", err)
			}
		})
	}
}

// A crash before each write leaves what the next run finishes.
func TestSnapshotIsGoneOnWithAfterEachFailure(t *testing.T) {
	s := newShooting(t, parseYAML(t, aSnapshot), parseYAML(t, aClass))
	failures := 0
	for allowed := 0; ; allowed++ {
		left := allowed
		s.api.PrependReactor("*", "*", func(a kubetest.Action) (bool, runtime.Object, error) {
			if a.GetVerb() == "list" { // by the test itself
				return false, nil, nil
			}
			if left == 0 {
				return true, nil, errAPI
			}
			left--
			return false, nil, nil
		})
		err := s.look()
		s.api.ReactionChain = s.api.ReactionChain[1:]
		if err == nil {
			break
		}
		failures++
	}
	if failures < 3 {
		t.Errorf("only %d failures", failures)
	}
	if !s.content(shotContent).Status.Ready {
		t.Error("the content is not ready")
	}
}

// There may be thousands that wait for each other.
func TestWhatWaitsForItsTurnIsAskedForLessAndLess(t *testing.T) {
	for fail, want := range map[error]int{volume.ErrPending: 0, volume.ErrQueued: 3} {
		s := newShooting(t, parseYAML(t, aSnapshot), parseYAML(t, aClass), parseYAML(t, aContent))
		s.volumes.fail = fail
		s.read()
		key := cache.ObjectName{Name: shotContent}
		for range 3 {
			s.queue.Add(key)
			s.next(t.Context())
		}
		if got := s.queue.NumRequeues(key); got != want || len(s.volumes.shot) != 3 {
			t.Errorf("%v: the pause has grown %d times, want %d", fail, got, want)
		}
	}
}

func TestScavengerAsksForTheContentOfASnapshot(t *testing.T) {
	s := newShooting(t, parseYAML(t, aContent))
	ask := func(name string) bool {
		t.Helper()
		v := volume.Volume{Name: parseName(t, name), SnapshotOf: parseName(t, volumeName)}
		wanted, err := s.provisioner.wanted(t.Context(), s.provisioner.pools[0], v)
		if err != nil {
			t.Fatal(err)
		}
		return wanted
	}
	for name, want := range map[string]bool{shotName: true, "snapshot-gone": false, "by-hand": true} {
		if got := ask(name); got != want {
			t.Errorf("%s is wanted: %v, want %v", name, got, want)
		}
	}
	s.api.PrependReactor("get", contentsPlural, func(kubetest.Action) (bool, runtime.Object, error) { return true, nil, errAPI })
	if wanted, err := s.provisioner.wanted(t.Context(), s.provisioner.pools[0], volume.Volume{Name: parseName(t, shotName), SnapshotOf: parseName(t, volumeName)}); !wanted || err == nil {
		t.Errorf("without an answer: %v, %v", wanted, err)
	}
}
