//go:build system

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

// storage is a pool whose volumes are snapshotted, and where they are.
type storage struct {
	pool  string // its configuration
	at    func(*v1.PersistentVolume) string
	empty func() // waits until nothing is left
	// unused does something with volumes of which others were restored that nobody uses meanwhile.
	unused func(do func(), restored ...*v1.PersistentVolume)
}

// onEach runs a test on storage that takes snapshots by itself, and on storage that copies.
func onEach(t *testing.T, test func(s *site, on storage)) {
	for name, prepare := range map[string]func(*site) storage{"zfs": onDatasets, "dir": onDirectories} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, "snapshots-"+name)
			test(s, prepare(s))
		})
	}
}

func onDatasets(s *site) storage {
	parent := s.dataset("a")
	return storage{
		pool:  "name: a, zfs: {dataset: " + parent + ", sizing: quota, node: zfs-1}, exporter: none",
		at:    func(pv *v1.PersistentVolume) string { return s.mountpoint(parent, pv) },
		empty: func() { s.untilNoDatasets(parent) },
		unused: func(do func(), restored ...*v1.PersistentVolume) {
			var clones []string
			for _, pv := range restored {
				clones = append(clones, parent+"/"+pv.Name)
			}
			s.whileUnmounted(do, clones...)
		},
	}
}

func onDirectories(s *site) storage {
	return storage{
		pool:   "name: a, dir: {root: " + s.options.Root + "}",
		at:     func(pv *v1.PersistentVolume) string { return filepath.Join(s.options.Root, pv.Name) },
		empty:  s.untilEmpty,
		unused: func(do func(), _ ...*v1.PersistentVolume) { do() },
	}
}

// snapshots has the cluster of all tests serve VolumeSnapshots, with classes for this site.
func (s *site) snapshots() {
	s.t.Helper()
	s.must(shared.cluster.StartSnapshots(s.t.Context()))
	for _, class := range []struct{ name, policy, isDefault string }{{s.name, "Delete", "true"}, {s.name + "-retain", "Retain", "false"}} {
		s.apply(fmt.Sprintf(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotClass
metadata: {name: %s, annotations: {snapshot.storage.kubernetes.io/is-default-class: %q}}
driver: %s
deletionPolicy: %s
`, class.name, class.isDefault, s.options.Provisioner, class.policy))
	}
}

func (s *site) apply(manifest string) {
	s.t.Helper()
	_, err := shared.cluster.KubectlApply(s.t.Context(), []byte(manifest), "-n", s.name)
	s.must(err)
}

func (s *site) kubectl(args ...string) string {
	s.t.Helper()
	out, err := shared.cluster.Kubectl(s.t.Context(), append([]string{"-n", s.name}, args...)...)
	s.must(err)
	return string(out)
}

// snapshot makes a VolumeSnapshot of a claim; class "": the default one.
func (s *site) snapshot(name, claim, class string) {
	s.t.Helper()
	if class != "" {
		class = "volumeSnapshotClassName: " + class + ", "
	}
	s.apply(fmt.Sprintf(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: %s}
spec: {%ssource: {persistentVolumeClaimName: %s}}
`, name, class, claim))
}

// snapshotReady waits until a VolumeSnapshot is, and gives its content's name.
func (s *site) snapshotReady(name string) (content string) {
	s.t.Helper()
	s.kubectl("wait", "--for=jsonpath={.status.readyToUse}=true", "--timeout="+patience.String(), "volumesnapshot/"+name)
	return s.kubectl("get", "volumesnapshot", name, "-o", "jsonpath={.status.boundVolumeSnapshotContentName}")
}

// restore makes a claim from a VolumeSnapshot.
func (s *site) restore(name, snapshot, size string) {
	s.t.Helper()
	s.claim(name, ofSize(size), fromSnapshot(snapshot))
}

func fromSnapshot(name string) func(*v1.PersistentVolumeClaim) {
	return func(c *v1.PersistentVolumeClaim) {
		c.Spec.DataSource = &v1.TypedLocalObjectReference{APIGroup: new("snapshot.storage.k8s.io"), Kind: "VolumeSnapshot", Name: name}
	}
}

// A VolumeSnapshot holds what its claim held, and so do claims that are restored from it,
// whatever is deleted first; at the end nothing is left. The cluster may know
// VolumeSnapshots only when Berth runs already.
func TestSnapshotsOfClaims(t *testing.T) { onEach(t, snapshotsOfClaims) }

func snapshotsOfClaims(s *site, on storage) {
	t, at := s.t, on.at
	s.startPools(on.pool)
	s.claim("data", ofSize("32Mi"))
	data := s.bound("data")
	s.snapshots()
	had := s.fill(at(data))
	before := time.Now().Truncate(time.Second)
	s.snapshot("first", "data", "")
	content := s.snapshotReady("first")
	var status struct {
		RestoreSize  string
		CreationTime time.Time
		Error        any
	}
	s.must(json.Unmarshal([]byte(s.kubectl("get", "volumesnapshot", "first", "-o", "jsonpath={.status}")), &status))
	if status.RestoreSize != "32Mi" || status.CreationTime.Before(before) || status.CreationTime.After(time.Now()) || status.Error != nil {
		t.Errorf("the status is %+v", status)
	}
	s.must(os.Remove(filepath.Join(at(data), "d0", "f3")))
	s.restore("again", "first", "48Mi")
	again := s.bound("again")
	if got := s.checksums(at(again)); !maps.Equal(got, had) {
		t.Errorf("restored were %v, want %v", got, had)
	}

	// None of these gets anything, least of all an empty volume.
	for _, refused := range []struct{ name, snapshot, size, words string }{
		{"smaller", "first", "31Mi", "a copy cannot be smaller"}, {"none", "missing", "32Mi", "does not exist"},
	} {
		s.restore(refused.name, refused.snapshot, refused.size)
		s.untilEvent(s.name, refused.name, "ProvisioningFailed", refused.words)
		s.deleteClaim(refused.name)
	}
	s.apply("{apiVersion: snapshot.storage.k8s.io/v1, kind: VolumeSnapshotClass, metadata: {name: " + s.name + "-odd}, driver: " + s.options.Provisioner +
		", deletionPolicy: Delete, parameters: {colour: blue}}")
	s.snapshot("odd", "data", s.name+"-odd")
	s.untilEvent(s.name, "odd", "SnapshotCreationFailed", "unknown parameters: colour")
	s.until("its status says why", func() bool {
		return strings.Contains(s.kubectl("get", "volumesnapshot", "odd", "-o", "jsonpath={.status.error.message}"), "unknown parameters: colour")
	})
	s.kubectl("delete", "--timeout="+patience.String(), "volumesnapshot", "odd")

	on.unused(func() {
		s.deleteClaim("data")
		s.volumeGone(data.Name)
	}, again)
	s.kubectl("delete", "--timeout="+patience.String(), "volumesnapshot", "first")
	if _, err := shared.cluster.Kubectl(t.Context(), "get", "volumesnapshotcontent", content); err == nil || !strings.Contains(err.Error(), "NotFound") {
		t.Errorf("its content is still there: %v", err)
	}
	if got := s.checksums(at(again)); !maps.Equal(got, had) {
		t.Errorf("after its snapshot is deleted the restored claim has %v, want %v", got, had)
	}
	s.deleteClaim("again")
	s.volumeGone(again.Name)
	on.empty()
}

// A snapshot that is retained is found again by a content that names it, and only by those
// whose namespace it is of.
func TestSnapshotsThatAreRetained(t *testing.T) {
	s, other := newSite(t, "retained"), newSite(t, "stranger")
	on := onDatasets(s)
	at := on.at
	s.startPools(on.pool)
	s.snapshots()
	s.claim("data", ofSize("32Mi"))
	data := s.bound("data")
	had := s.fill(at(data))
	s.snapshot("kept", "data", s.name+"-retain")
	content := s.snapshotReady("kept")
	handle := s.kubectl("get", "volumesnapshotcontent", content, "-o", "jsonpath={.status.snapshotHandle}")
	s.kubectl("delete", "--timeout="+patience.String(), "volumesnapshot", "kept")
	s.kubectl("delete", "--timeout="+patience.String(), "volumesnapshotcontent", content)
	s.deleteClaim("data")
	s.volumeGone(data.Name)

	imported := func(s *site, provisioner, policy string) {
		t.Helper()
		s.apply(fmt.Sprintf(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotContent
metadata: {name: %[1]s}
spec: {driver: %[2]s, deletionPolicy: %[3]s, source: {snapshotHandle: %[4]s}, volumeSnapshotRef: {name: found, namespace: %[1]s}}
---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: found}
spec: {source: {volumeSnapshotContentName: %[1]s}}
`, s.name, provisioner, policy, handle))
	}
	imported(other, s.options.Provisioner, "Delete")
	other.untilEvent(other.name, "found", "SnapshotCreationFailed", "only what is its namespace's")
	other.kubectl("delete", "--timeout="+patience.String(), "volumesnapshot", "found")

	imported(s, s.options.Provisioner, "Delete")
	s.snapshotReady("found")
	s.restore("again", "found", "32Mi")
	again := s.bound("again")
	if got := s.checksums(at(again)); !maps.Equal(got, had) {
		t.Errorf("restored were %v, want %v", got, had)
	}
	s.deleteClaim("again")
	s.volumeGone(again.Name)
	s.kubectl("delete", "--timeout="+patience.String(), "volumesnapshot", "found")
	on.empty()
}

// Whenever Berth is killed, each VolumeSnapshot gets one snapshot, and each that is deleted
// takes its own along.
func TestSnapshotsSurviveKills(t *testing.T) { onEach(t, snapshotsSurviveKills) }

func snapshotsSurviveKills(s *site, on storage) {
	t := s.t
	b := s.startPools(on.pool)
	s.snapshots()
	s.claim("data", ofSize("32Mi"))
	data := s.bound("data")
	s.fill(on.at(data))
	const rounds = 6
	random := rand.New(rand.NewPCG(1, 2))
	// killed ends Berth at some moment after do, and starts it again.
	killed := func(do func()) {
		t.Helper()
		do()
		time.Sleep(time.Duration(random.IntN(400)) * time.Millisecond)
		s.must(killAll(b))
		b = s.startPools(on.pool)
	}
	names := make([]string, rounds)
	for i := range names {
		names[i] = fmt.Sprint("shot", i)
		killed(func() { s.snapshot(names[i], "data", "") })
	}
	var contents []string
	for _, name := range names {
		contents = append(contents, s.snapshotReady(name))
	}
	slices.Sort(contents)
	if len(slices.Compact(contents)) != rounds {
		t.Errorf("the contents of %d VolumeSnapshots are %v", rounds, contents)
	}
	for _, name := range names {
		killed(func() { s.kubectl("delete", "--wait=false", "volumesnapshot", name) })
	}
	s.kubectl("wait", "--for=delete", "--timeout="+patience.String(), "volumesnapshot", "--all")
	s.deleteClaim("data")
	s.volumeGone(data.Name)
	on.empty()
}
