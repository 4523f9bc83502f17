//go:build system

package e2e

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/berth-storage/berth/test/harness"
)

// The server and the path of the article's share. What lies below the path is the site's
// root: that it is not mounted by NFS makes no difference to who makes directories there.
const (
	shareServer = "192.168.11.54"
	sharePath   = "/mnt/inspurfs"
)

// startSubdir starts "berth nfs-subdir-external-provisioner" with the environment that
// people have in their deployments, and waits until it serves.
func (s *site) startSubdir(env ...string) *harness.Berth {
	s.t.Helper()
	b := s.beginSubdir(env...)
	s.ready(b)
	return b
}

func (s *site) beginSubdir(env ...string) *harness.Berth {
	s.t.Helper()
	port, err := harness.FreePort()
	s.must(err)
	http := fmt.Sprintf("127.0.0.1:%d", port)
	env = append([]string{
		"PROVISIONER_NAME=" + s.options.Provisioner, "NFS_SERVER=" + shareServer, "NFS_PATH=" + sharePath, "KUBECONFIG=" + s.options.Kubeconfig,
	}, env...)
	p, err := harness.StartWith(env, filepath.Join(s.options.Folder, fmt.Sprintf("berth-%d.log", port)), s.options.Binary,
		"nfs-subdir-external-provisioner", "-root="+s.options.Root, "-http-listen="+http)
	s.must(err)
	b := &harness.Berth{Process: p, Options: s.options, URL: "http://" + http}
	endWithTest(s.t, b)
	return b
}

// parameters makes a class with these.
func (s *site) parameters(class string, parameters map[string]string) string {
	s.t.Helper()
	name := s.name + "-" + class
	s.class(name, func(c *storagev1.StorageClass) { c.Parameters, c.AllowVolumeExpansion = parameters, new(true) })
	return name
}

func ofClass(class string) func(*v1.PersistentVolumeClaim) {
	return func(c *v1.PersistentVolumeClaim) { c.Spec.StorageClassName = &class }
}

func annotated(key, value string) func(*v1.PersistentVolumeClaim) {
	return func(c *v1.PersistentVolumeClaim) {
		if c.Annotations == nil {
			c.Annotations = map[string]string{}
		}
		c.Annotations[key] = value
	}
}

// onShare is where a volume lies on this host.
func (s *site) onShare(pv *v1.PersistentVolume) string {
	s.t.Helper()
	below, found := strings.CutPrefix(pv.Spec.NFS.Path, sharePath+"/")
	if !found || pv.Spec.NFS.Server != shareServer {
		s.t.Fatalf("PersistentVolume %s is at %s:%s", pv.Name, pv.Spec.NFS.Server, pv.Spec.NFS.Path)
	}
	return filepath.Join(s.options.Root, below)
}

func (s *site) untilGone(path string) {
	s.t.Helper()
	s.until(path+" is gone", func() bool { _, err := os.Lstat(path); return os.IsNotExist(err) })
}

// The article's class and claim: the claim's annotation says where its volume is.
func TestNFSSubdirArticle(t *testing.T) {
	s := newSite(t, "subdir")
	manifest := fmt.Appendf(nil, `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: %[1]s-managed-nfs-storage
provisioner: %[2]s
parameters:
  pathPattern: "${.PVC.namespace}/${.PVC.annotations.nfs.io/storage-path}" # waits for nfs.io/storage-path annotation, if not specified will accept as empty string.
  archiveOnDelete: "false"
---
kind: PersistentVolumeClaim
apiVersion: v1
metadata:
  name: test-claim
  namespace: %[1]s
  annotations:
    nfs.io/storage-path: "test-path" # not required, depending on whether this annotation was shown in the storage class description
spec:
  storageClassName: %[1]s-managed-nfs-storage
  accessModes:
    - ReadWriteMany
  resources:
    requests:
      storage: 1Mi
`, s.name, s.options.Provisioner)
	s.startSubdir()
	_, err := shared.cluster.KubectlApply(t.Context(), manifest)
	s.must(err)
	pv := s.bound("test-claim")
	if want := sharePath + "/" + s.name + "/test-path"; pv.Spec.NFS.Path != want || pv.Spec.NFS.Server != shareServer {
		t.Errorf("the volume is at %+v, want %s:%s", pv.Spec.NFS, shareServer, want)
	}
	folder := s.onShare(pv)
	info, err := os.Stat(folder)
	s.must(err)
	if info.Mode() != fs.ModeDir|0o777 {
		t.Errorf("its directory is %v, as the program before made it 0777", info.Mode())
	}
	s.must(os.WriteFile(filepath.Join(folder, "SUCCESS"), nil, 0o644))
	s.deleteClaim("test-claim")
	s.volumeGone(pv.Name)
	s.untilGone(folder)
	s.until("nothing but Berth's folder is on the share", func() bool { return slices.Equal(s.list(s.options.Root), []string{".berth"}) })
}

// What tenants write into their claims gets them nowhere but into their own directory.
func TestNFSSubdirHostileClaims(t *testing.T) {
	s := newSite(t, "hostilepath")
	const pattern = "${.PVC.namespace}/${.PVC.annotations.nfs.io/storage-path}"
	class := s.parameters("pattern", map[string]string{"pathPattern": pattern, "onDelete": "delete"})
	other := filepath.Join(s.options.Root, "other-team")
	s.must(os.MkdirAll(other, 0o755))
	s.must(os.WriteFile(filepath.Join(other, "file"), nil, 0o644))
	s.startSubdir()
	s.claim("good", ofClass(class), annotated("nfs.io/storage-path", "data"))
	good := s.onShare(s.bound("good"))
	hostile := map[string]struct {
		annotation string
		words      []string
	}{
		"parents":   {"../..", []string{pattern, "/../..", "leaves the folder"}},
		"neighbour": {"../other-team", []string{pattern, "/../other-team", "leaves the folder"}},
		"hidden":    {".ssh", []string{pattern, "/.ssh", "is hidden"}},
		"own":       {"../.berth/clusters", []string{"leaves the folder"}},
		"backslash": {`..\..`, []string{"not allowed"}},
		"long":      {strings.Repeat("x", 2000), []string{"1 to 1024 bytes"}},
		"inside":    {"data/below", []string{"data/below", "good"}},
		"same":      {"data", []string{"/data", "good"}},
		"around":    {"", []string{s.name, "good"}}, // the whole namespace's folder
	}
	for name, h := range hostile {
		s.claim(name, ofClass(class), annotated("nfs.io/storage-path", h.annotation))
	}
	for name, h := range hostile {
		s.untilEvent(s.name, name, "ProvisioningFailed", h.words...)
	}
	s.claim("absolute", ofClass(class), annotated("nfs.io/storage-path", "/etc/"))
	if got, want := s.bound("absolute").Spec.NFS.Path, sharePath+"/"+s.name+"/etc"; got != want {
		t.Errorf("/etc/ gives %s, want %s", got, want)
	}
	for name := range hostile {
		s.deleteClaim(name)
	}
	s.deleteClaim("absolute")
	s.untilGone(filepath.Join(s.options.Root, s.name, "etc"))
	for _, path := range []string{good, filepath.Join(other, "file")} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	if got := s.list(s.options.Root); !slices.Equal(got, []string{".berth", s.name, "other-team"}) {
		t.Errorf("on the share are %v", got)
	}
}

// A class that says nothing has what its claims held archived beside the volumes, as
// before. It can be listed, restored to a new claim, and removed.
func TestNFSSubdirArchives(t *testing.T) {
	s := newSite(t, "archive")
	class := s.parameters("plain", nil)
	s.startSubdir("ENABLE_LEADER_ELECTION=false")
	s.claim("data", ofClass(class))
	pv := s.bound("data")
	folder := s.onShare(pv)
	if want := s.name + "-data-" + pv.Name; filepath.Base(folder) != want {
		t.Errorf("the volume is at %s, want %s", folder, want)
	}
	s.must(os.WriteFile(filepath.Join(folder, "file"), []byte("old"), 0o644))
	s.deleteClaim("data")
	s.volumeGone(pv.Name)
	archive := filepath.Join(s.options.Root, "archived-"+filepath.Base(folder))
	if text, err := os.ReadFile(filepath.Join(archive, "file")); err != nil || string(text) != "old" {
		t.Errorf("in the archive: %q, %v", text, err)
	}
	if got := s.archives(); len(got) != 1 || got[0].Name != pv.Name || got[0].State != "archived" || got[0].Directory != archive {
		t.Errorf("berth archives list says %+v", got)
	}

	manifest := s.command(s.options.Binary, "restore", "--root", s.options.Root, "--class", class, "--claim", "again", pv.Name)
	_, err := shared.cluster.KubectlApply(t.Context(), []byte(manifest))
	s.must(err)
	again := s.bound("again")
	restored := s.onShare(again)
	if text, err := os.ReadFile(filepath.Join(restored, "file")); err != nil || string(text) != "old" {
		t.Errorf("in the restored volume: %q, %v", text, err)
	}
	s.untilGone(archive)
	if got := s.archives(); len(got) != 0 {
		t.Errorf("after it was restored berth archives list says %+v", got)
	}

	s.deleteClaim("again")
	s.volumeGone(again.Name)
	if out := s.command(s.options.Binary, "archives", "purge", "--root", s.options.Root, "--all"); !strings.Contains(out, "removed: "+s.options.Root+"/"+again.Name) {
		t.Errorf("berth archives purge says %s", out)
	}
	s.until("nothing but Berth's folder is on the share", func() bool { return slices.Equal(s.list(s.options.Root), []string{".berth"}) })
}

// listedArchive is an archive as "berth archives list" tells of it.
type listedArchive struct{ Name, State, Directory string }

func (s *site) archives() []listedArchive {
	s.t.Helper()
	var out struct{ Archives []listedArchive }
	s.must(json.Unmarshal([]byte(s.command(s.options.Binary, "archives", "list", "--root", s.options.Root, "-o", "json")), &out))
	return out.Archives
}

// An archive is its namespace's.
func TestArchivesOfAnotherNamespaceAreNotRestored(t *testing.T) {
	s, thief := newSite(t, "victim"), newSite(t, "thief")
	class := s.parameters("plain", nil)
	s.startSubdir()
	s.claim("data", ofClass(class))
	pv := s.bound("data")
	s.deleteClaim("data")
	s.volumeGone(pv.Name)
	thief.claim("mine", ofClass(class), annotated("berth.storage/restore-from", pv.Name))
	thief.untilEvent(thief.name, "mine", "ProvisioningFailed", "not ours", "only a claim of the same namespace")
	if got := s.archives(); len(got) != 1 {
		t.Errorf("berth archives list says %+v", got)
	}
}

// What was retained is a new claim's of the same namespace, if its class lets it be.
func TestRetainedVolumesAreReused(t *testing.T) {
	s := newSite(t, "retain")
	class := s.parameters("keep", map[string]string{"pathPattern": "${.PVC.namespace}/kept", "onDelete": "retain"})
	s.startSubdir()
	s.claim("data", ofClass(class))
	pv := s.bound("data")
	file := filepath.Join(s.onShare(pv), "file")
	s.must(os.WriteFile(file, []byte("kept"), 0o644))
	s.deleteClaim("data")
	s.volumeGone(pv.Name)
	if got := s.archives(); len(got) != 1 || got[0].State != "retained" {
		t.Errorf("berth archives list says %+v", got)
	}
	s.claim("again", ofClass(class))
	if again := s.bound("again"); again.Name == pv.Name || again.Spec.NFS.Path != pv.Spec.NFS.Path {
		t.Errorf("the new volume is %s at %s", again.Name, again.Spec.NFS.Path)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "kept" {
		t.Errorf("the file is %q, %v", text, err)
	}
}

// With leader election, its default, a second process waits for the first one's end.
func TestNFSSubdirStandsBy(t *testing.T) {
	s := newSite(t, "subdirstandby")
	class := s.parameters("plain", map[string]string{"archiveOnDelete": "false"})
	first := s.startSubdir()
	s.claim("data", ofClass(class))
	pv := s.bound("data")
	second := s.beginSubdir("ENABLE_LEADER_ELECTION=true")
	s.until("the second process stands by", func() bool {
		return containsAll(second.Log(), []string{"standing by", fmt.Sprintf("process %d", first.PID)})
	})
	s.must(killAll(first))
	s.claim("later", ofClass(class))
	s.bound("later")
	s.deleteClaim("data")
	s.volumeGone(pv.Name)
	s.untilGone(s.onShare(pv))
}

// With the role that nfs-subdir-external-provisioner's users have Berth does what that
// did, and says what it cannot do.
func TestNFSSubdirWithTheOldRole(t *testing.T) {
	s := newSite(t, "subdirrole")
	rule := func(group, resource string, verbs ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: verbs}
	}
	s.options.Kubeconfig = s.withRole(
		rule("", "nodes", "get", "list", "watch"),
		rule("", "persistentvolumes", "get", "list", "watch", "create", "delete"),
		rule("", "persistentvolumeclaims", "get", "list", "watch", "update"),
		rule("storage.k8s.io", "storageclasses", "get", "list", "watch"),
		rule("", "events", "create", "update", "patch"),
	)
	class := s.parameters("plain", map[string]string{"archiveOnDelete": "false"})
	s.startSubdir()
	s.claim("data", ofClass(class))
	pv := s.bound("data")
	if got := s.list(filepath.Join(s.options.Root, ".berth", "clusters")); !slices.Equal(got, []string{"unknown"}) {
		t.Errorf("the clusters on the share are %v", got)
	}
	s.resize("data", "2Mi")
	s.untilEvent(s.name, "data", "VolumeResizeFailed", "persistentvolumeclaims/status")
	s.deleteClaim("data")
	s.volumeGone(pv.Name)
	s.untilGone(s.onShare(pv))
}

// Several servers and shares, and a disk, in one installation: classes choose.
func TestSeveralShares(t *testing.T) {
	s := newSite(t, "shares")
	roots := map[string]string{"nas1.example.com": t.TempDir(), "nas2.example.com": t.TempDir()}
	for i, server := range []string{"nas1.example.com", "nas2.example.com"} {
		s.options.Pool += fmt.Sprintf("\n- name: share%d\n  provisioner: %s\n  subdir: {server: %s, path: /vol, root: %s}", i+1, s.options.Provisioner, server, roots[server])
	}
	s.options.Pool = strings.TrimPrefix(s.options.Pool, "\n")
	s.options.Pool = "maxVolumes: 10\n" + s.options.Pool
	classes := map[string]string{}
	for _, pool := range []string{"local", "share1", "share2"} {
		classes[pool] = s.parameters(pool, map[string]string{"pool": pool})
	}
	s.start()
	var volumes []string
	for pool, server := range map[string]string{"local": "127.0.0.1", "share1": "nas1.example.com", "share2": "nas2.example.com"} {
		s.claim(pool, ofClass(classes[pool]))
		pv := s.bound(pool)
		volumes = append(volumes, pv.Name)
		if pv.Spec.NFS.Server != server {
			t.Errorf("the volume of pool %s is at %+v, want %s", pool, pv.Spec.NFS, server)
		}
		if root, share := roots[server]; share {
			info, err := os.Stat(filepath.Join(root, s.name+"-"+pool+"-"+pv.Name))
			s.must(err)
			if info.Mode() != fs.ModeDir|0o770 {
				t.Errorf("its directory is %v, want that of a new pool", info.Mode())
			}
		}
	}
	s.deleteAllClaims()
	for _, name := range volumes {
		s.volumeGone(name)
	}
	for _, root := range roots {
		s.until("the share is empty", func() bool { return slices.Equal(s.list(root), []string{".berth"}) })
	}
}
