package app

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/export/fixed"
	"github.com/berth-storage/berth/internal/kube"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

// archivePool is a pool on a share that is served, with the volume pvc-live, pvc-old that
// is archived and pvc-kept that is retained.
type archivePool struct {
	*app
	config  config.Pool
	backend *dir.Backend
	manager *volume.Manager
}

func newArchivePool(t *testing.T, name string) *archivePool {
	t.Helper()
	root := t.TempDir()
	b, err := dir.Open(t.Context(), root, dir.Options{Quota: dir.QuotaOff, Cluster: "cluster-1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	c := newConfig(t)
	c.Ganesha.RunDir = t.TempDir()
	a := &archivePool{app: &app{config: c, log: newLogger(c.Log, t.Output())}, backend: b, config: config.Pool{
		Name: name, Subdir: &config.Subdir{Server: "nas", Path: "/vol", Root: root},
	}}
	a.manager = volume.NewManager(volume.Pool{Name: name, Backend: b, Server: fixed.Server{}, ExportPath: "/vol", Log: a.log})
	if _, err := a.manager.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, policy := range map[string]volume.OnDelete{
		"pvc-live": volume.OnDeleteDelete, "pvc-old": volume.OnDeleteArchive, "pvc-kept": volume.OnDeleteRetain,
	} {
		s := volumetest.Spec(t, name)
		s.OnDelete = policy
		if s.Path, err = volume.ParseRelPath("team/" + name); err != nil {
			t.Fatal(err)
		}
		if _, err := a.manager.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if name == "pvc-live" {
			continue
		}
		if err := a.manager.Delete(t.Context(), s.Name, s.Cluster); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// serve has commands reach the pool until the test ends or stop is called.
func (a *archivePool) serve(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.serveControl(ctx, a.config.Name, a.backend.Identity(), a.manager)
	}()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	for {
		select {
		case <-ended:
			t.Fatal("commands cannot reach the pool")
		default:
		}
		// That the socket is there does not say that anybody listens yet.
		if c, err := net.Dial("unix", controlSocket(runDir(a.app.config), a.backend.Identity())); err == nil {
			_ = c.Close()
			return stop
		}
		time.Sleep(time.Millisecond)
	}
}

// purge gives what PurgeArchives prints.
func (a *archivePool) purge(t *testing.T, o PurgeOptions) (string, error) {
	t.Helper()
	o.RunDir = runDir(a.app.config)
	var out strings.Builder
	err := PurgeArchives(t.Context(), []config.Pool{a.config}, o, &out)
	return out.String(), err
}

// kept are the names of what is archived or retained.
func (a *archivePool) kept(t *testing.T) string {
	t.Helper()
	all, err := archives(t.Context(), []config.Pool{a.config})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range all {
		names = append(names, l.Name)
	}
	return strings.Join(names, " ")
}

func TestArchivesAreListed(t *testing.T) {
	a := newArchivePool(t, "nas")
	var out strings.Builder
	if err := Archives(t.Context(), []config.Pool{a.config}, FormatJSON, &out); err != nil {
		t.Fatal(err)
	}
	var got struct{ Archives []ListedArchive }
	if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	byName := map[string]ListedArchive{}
	for _, l := range got.Archives {
		if since := time.Since(l.Deleted); since < 0 || since > time.Hour {
			t.Errorf("%s was deleted at %s", l.Name, l.Deleted)
		}
		l.Deleted = time.Time{}
		byName[l.Name] = l
	}
	root := a.config.Subdir.Root
	want := map[string]ListedArchive{
		"pvc-old": {
			Pool: "nas", Name: "pvc-old", Namespace: "default", Claim: "claim-pvc-old", State: "archived", Size: 1 << 20, Path: "team/pvc-old",
			Dir: filepath.Join(root, ".berth/clusters/cluster-1/archive/pvc-old/team/pvc-old"),
		},
		"pvc-kept": {
			Pool: "nas", Name: "pvc-kept", Namespace: "default", Claim: "claim-pvc-kept", State: "retained", Size: 1 << 20, Path: "team/pvc-kept",
			Dir: filepath.Join(root, "team/pvc-kept"),
		},
	}
	if diff := cmp.Diff(want, byName, cmp.AllowUnexported(ListedArchive{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	out.Reset()
	if err := Archives(t.Context(), []config.Pool{a.config}, FormatTable, &out); err != nil {
		t.Fatal(err)
	}
	for _, words := range []string{"POOL  VOLUME", "nas   pvc-old", "default/claim-pvc-old", "archived  1Mi"} {
		if !strings.Contains(out.String(), words) {
			t.Errorf("the table lacks %q:\n%s", words, out.String())
		}
	}
	out.Reset()
	if err := Archives(t.Context(), nil, FormatJSON, &out); err != nil || !strings.Contains(out.String(), `"archives": []`) {
		t.Errorf("of no pools: %v, %s", err, out.String())
	}
	if err := Archives(t.Context(), nil, "yaml", &out); err == nil {
		t.Error("the format yaml is no error")
	}
}

func TestArchivesAreRemovedByTheBerthThatRuns(t *testing.T) {
	for _, c := range []struct {
		name string
		o    PurgeOptions
		left string
	}{
		{"by name", PurgeOptions{Names: []string{"pvc-old"}}, "pvc-kept"},
		{"by pool and name", PurgeOptions{Names: []string{"nas/pvc-kept"}}, "pvc-old"},
		{"all archives, but nothing that is retained", PurgeOptions{All: true}, "pvc-kept"},
		{"those of some age", PurgeOptions{OlderThan: time.Nanosecond}, "pvc-kept"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newArchivePool(t, "nas")
			a.serve(t)
			c.o.DryRun = true
			if out, err := a.purge(t, c.o); err != nil || !strings.Contains(out, "to be removed: nas/pvc-") || len(strings.Fields(a.kept(t))) != 2 {
				t.Errorf("dry run: %v, %q; %s is left", err, out, a.kept(t))
			}
			c.o.DryRun = false
			if out, err := a.purge(t, c.o); err != nil || !strings.Contains(out, "removed: nas/pvc-") {
				t.Errorf("got error %v, printed %q", err, out)
			}
			if got := a.kept(t); got != c.left {
				t.Errorf("%s is left, want %s", got, c.left)
			}
		})
	}
	t.Run("none is old enough", func(t *testing.T) {
		a := newArchivePool(t, "nas")
		if out, err := a.purge(t, PurgeOptions{OlderThan: time.Hour}); err != nil || out != "" {
			t.Errorf("got error %v, printed %q", err, out)
		}
	})
}

func TestArchivesThatAreNotRemoved(t *testing.T) {
	a := newArchivePool(t, "nas")
	for _, o := range []PurgeOptions{{}, {All: true, OlderThan: time.Hour}, {All: true, Names: []string{"pvc-old"}}} {
		if _, err := a.purge(t, o); err == nil || !strings.Contains(err.Error(), "say which archives") {
			t.Errorf("%+v: got error %v", o, err)
		}
	}
	for _, name := range []string{"pvc-live", "pvc-none"} {
		if _, err := a.purge(t, PurgeOptions{Names: []string{name}}); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("%s: got error %v", name, err)
		}
	}
	if _, err := a.purge(t, PurgeOptions{All: true}); err == nil || !strings.Contains(err.Error(), "no Berth on this host has the pool open") {
		t.Errorf("without a Berth: got error %v", err)
	}
	stop := a.serve(t)
	socket := controlSocket(runDir(a.app.config), a.backend.Identity())
	for name, words := range map[string]string{"pvc-live": "is ready and no archive: delete its claim", ".hidden": "is not allowed"} {
		if err := deleteArchive(t.Context(), socket, name, "cluster-1"); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: got error %v, want one with %q", name, err, words)
		}
	}
	if err := deleteArchive(t.Context(), socket, "pvc-old", "cluster-2"); err == nil || !strings.Contains(err.Error(), "belongs to cluster") {
		t.Errorf("for another cluster: got error %v", err)
	}
	stop()
	if _, err := a.purge(t, PurgeOptions{All: true}); err == nil || !strings.Contains(err.Error(), "no Berth on this host") {
		t.Errorf("after Berth's end: got error %v", err)
	}
	if got := len(strings.Fields(a.kept(t))); got != 2 {
		t.Errorf("%d are left", got)
	}
}

// Whoever is not root must not reach the socket, and what a killed process left there is
// not in the way.
func TestTheSocketIsPrivate(t *testing.T) {
	a := newArchivePool(t, "nas")
	socket := controlSocket(runDir(a.app.config), a.backend.Identity())
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(socket, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := listenPrivately(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := os.Stat(filepath.Dir(socket))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the socket's folder is %v, %v", info.Mode(), err)
	}
}

func TestTheClaimThatAnArchiveIsRestoredTo(t *testing.T) {
	a := newArchivePool(t, "nas")
	pools := []config.Pool{a.config}
	var out strings.Builder
	if err := Restore(t.Context(), pools, RestoreOptions{Volume: "pvc-old", Class: "gold"}, &out); err != nil {
		t.Fatal(err)
	}
	first, claim, _ := strings.Cut(out.String(), "\n")
	if !strings.HasPrefix(first, `# Volume pvc-old of claim "default/claim-pvc-old", at "team/pvc-old", archived since 2`) {
		t.Errorf("it begins with %q", first)
	}
	const want = `apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: "claim-pvc-old"
  namespace: "default"
  annotations:
    berth.storage/restore-from: "pvc-old"
spec:
  storageClassName: "gold"
  accessModes: [ReadWriteMany]
  resources:
    requests:
      storage: "1048576"
`
	if diff := cmp.Diff(want, claim); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	out.Reset()
	if err := Restore(t.Context(), pools, RestoreOptions{Volume: "pvc-kept", Class: "gold", Claim: "again"}, &out); err != nil || !strings.Contains(out.String(), `  name: "again"`) {
		t.Errorf("got error %v, printed %s", err, out.String())
	}
	if err := Restore(t.Context(), pools, RestoreOptions{Volume: "pvc-live", Class: "gold"}, &out); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("of a volume that is in use: got error %v", err)
	}
	other := newArchivePool(t, "other")
	if err := Restore(t.Context(), append(pools, other.config), RestoreOptions{Volume: "pvc-old", Class: "gold"}, &out); err == nil || !strings.Contains(err.Error(), "as in nas/pvc-old") {
		t.Errorf("of two: got error %v", err)
	}
}

// What tenants have in their paths stays in the comment: Unicode has more ends of lines
// than one, and YAML knows them.
func TestAPathCannotAddToTheClaimThatAnArchiveIsRestoredTo(t *testing.T) {
	a := newArchivePool(t, "nas")
	s := volumetest.Spec(t, "pvc-evil")
	var err error
	if s.Path, err = volume.ParseRelPath("team/a\u2028apiVersion: v1\u2029kind: Secret\u2028---\u2028"); err != nil {
		t.Fatal(err)
	}
	s.OnDelete = volume.OnDeleteArchive
	if _, err := a.manager.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := a.manager.Delete(t.Context(), s.Name, s.Cluster); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := Restore(t.Context(), []config.Pool{a.config}, RestoreOptions{Volume: "pvc-evil", Class: "gold"}, &out); err != nil {
		t.Fatal(err)
	}
	var claim v1.PersistentVolumeClaim
	if err := yaml.UnmarshalStrict([]byte(out.String()), &claim); err != nil || claim.Kind != "PersistentVolumeClaim" || claim.Annotations[kube.AnnotationRestoreFrom] != "pvc-evil" {
		t.Errorf("%s\nis %+v, %v", out.String(), claim, err)
	}
}

// The file of a pool's identity may have been written by hand.
func TestTheSocketOfAnyIdentity(t *testing.T) {
	sockets := map[string]bool{}
	for _, identity := range []string{"", "a", "../../a", strings.Repeat("a", 300), "0c1c8b6e-5a8f-4d43-9a1f-6f0c3b0a4a11"} {
		socket := controlSocket("/run/berth", identity)
		if sockets[socket] || filepath.Dir(socket) != "/run/berth/control" || len(filepath.Base(socket)) > 16 {
			t.Errorf("the socket of %.40q is %s", identity, socket)
		}
		sockets[socket] = true
	}
}

// A pool on a share is found by its root, and its only cluster's part of it.
func TestPoolAtARoot(t *testing.T) {
	a := newArchivePool(t, "nas")
	root := a.config.Subdir.Root
	for _, cluster := range []string{"", "cluster-1"} {
		i, err := inspect(t.Context(), PoolAt(root, cluster))
		if err != nil || i.Identity != a.backend.Identity() || len(i.Reports) != 3 || len(i.Problems)+len(i.Unknown) > 0 {
			t.Errorf("cluster %q: got %+v, %v", cluster, i, err)
		}
	}
	if _, err := inspect(t.Context(), PoolAt(root, "cluster-2")); err == nil {
		t.Error("a cluster that is not there is no error")
	}
	if err := os.Mkdir(filepath.Join(root, ".berth/clusters/cluster-2"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := inspect(t.Context(), PoolAt(root, "")); err == nil || !strings.Contains(err.Error(), "cluster-1, cluster-2") {
		t.Errorf("of two clusters: got error %v", err)
	}
	local := emptyPool(t)
	if i, err := inspect(t.Context(), PoolAt(local, "")); err != nil || i.Identity == "" {
		t.Errorf("a pool of a disk: got %+v, %v", i, err)
	}
	if _, err := inspect(t.Context(), config.Pool{Subdir: &config.Subdir{Root: t.TempDir()}}); !errors.Is(err, volume.ErrForeign) {
		t.Errorf("a share without a pool: got error %v", err)
	}
}
