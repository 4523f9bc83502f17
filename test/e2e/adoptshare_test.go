//go:build system

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/test/harness"
)

// oldShare is a site where nfs-subdir-external-provisioner has been at work. A folder
// stands for the share. The site's own class says nothing, so that it archives.
type oldShare struct {
	*site
	share harness.Share
}

func newOldShare(t *testing.T, name string) *oldShare {
	t.Helper()
	s := newSite(t, name)
	o := &oldShare{s, harness.Share{Provisioner: s.options.Provisioner, Server: "192.168.11.54", Path: "/mnt/inspurfs"}}
	for policy, parameters := range map[string]map[string]string{
		"delete": {"archiveOnDelete": "false", "pathPattern": "${.PVC.namespace}/${.PVC.annotations.nfs.io/storage-path}"},
		"retain": {"onDelete": "retain"},
	} {
		s.class(o.classOf(policy), func(c *storagev1.StorageClass) { c.Parameters = parameters })
	}
	return o
}

// classOf is the class with a policy.
func (o *oldShare) classOf(policy string) string { return o.name + "-" + policy }

// volume makes a claim and its volume, Bound, as nfs-subdir-external-provisioner would,
// with a file, and gives the name of the PersistentVolume. edit may make it something else.
func (o *oldShare) volume(claim, class, at string, edit func(pv *v1.PersistentVolume)) string {
	o.t.Helper()
	c, err := o.client.CoreV1().PersistentVolumeClaims(o.name).Create(o.t.Context(), harness.NewClaim(o.name, claim, class), metav1.CreateOptions{})
	o.must(err)
	pv, err := harness.SubdirVolume(c, o.share, o.options.Root, at)
	o.must(err)
	o.must(os.WriteFile(filepath.Join(o.options.Root, at, "file"), []byte("data of "+claim), 0o666))
	if edit != nil {
		edit(pv)
	}
	_, err = o.client.CoreV1().PersistentVolumes().Create(o.t.Context(), pv, metav1.CreateOptions{})
	o.must(err)
	o.bound(claim)
	return pv.Name
}

// startDropIn starts "berth nfs-subdir-external-provisioner", with that program's
// environment and where the folder is, and waits until it serves claims.
func (o *oldShare) startDropIn() *harness.Berth {
	o.t.Helper()
	port, err := harness.FreePort()
	o.must(err)
	http := fmt.Sprintf("127.0.0.1:%d", port)
	p, err := harness.StartWith([]string{
		"PROVISIONER_NAME=" + o.share.Provisioner, "NFS_SERVER=" + o.share.Server, "NFS_PATH=" + o.share.Path, "KUBECONFIG=" + o.options.Kubeconfig,
	}, filepath.Join(o.options.Folder, "berth.log"), o.options.Binary, "nfs-subdir-external-provisioner", "-root="+o.options.Root, "-http-listen="+http)
	o.must(err)
	b := &harness.Berth{Process: p, Options: o.options, URL: "http://" + http}
	endWithTest(o.t, b)
	o.ready(b)
	return b
}

// comeAndGo is a volume's whole life.
func (o *oldShare) comeAndGo(name string) {
	o.t.Helper()
	pv := o.bind(name)
	o.deleteClaim(name)
	o.volumeGone(pv.Name)
}

// files are the texts of all files called "file" on the share, by their folders.
func (o *oldShare) files() map[string]string {
	o.t.Helper()
	found := map[string]string{}
	o.must(filepath.WalkDir(o.options.Root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // something is being purged
		}
		if err != nil || d.Name() != "file" {
			return err
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		at, relErr := filepath.Rel(o.options.Root, filepath.Dir(path))
		found[at] = string(text)
		return errors.Join(err, relErr)
	}))
	return found
}

// untilFiles waits until the files are these.
func (o *oldShare) untilFiles(want map[string]string) {
	o.t.Helper()
	var have map[string]string
	defer func() {
		if o.t.Failed() {
			o.t.Logf("the files are %v, want %v", have, want)
		}
	}()
	o.until("the files on the share are as they should be", func() bool {
		have = o.files()
		return maps.Equal(have, want)
	})
}

// The move from nfs-subdir-external-provisioner: its program is replaced, and nothing
// else. The rights are those of its own ClusterRole.
func TestAdoptionFromAShare(t *testing.T) {
	o := newOldShare(t, "adopt-share")
	remove, retain := o.classOf("delete"), o.classOf("retain")
	kept := o.volume("kept", remove, "team/kept", nil)
	gone := o.volume("gone", remove, "team/deep/gone", nil)
	archived := o.volume("archived", o.name, "team/deep/archived", nil)
	retained := o.volume("retained", retain, "team-retained-pvc", nil)
	policy := o.volume("policy", remove, "policy", func(pv *v1.PersistentVolume) {
		pv.Spec.PersistentVolumeReclaimPolicy = v1.PersistentVolumeReclaimRetain
	})
	first, second := o.volume("first", remove, "same", nil), o.volume("second", remove, "same", nil)
	outer, inner := o.volume("outer", remove, "outer", nil), o.volume("inner", remove, "outer/inner", nil)
	released := o.volume("released", remove, "released", nil)
	o.must(os.MkdirAll(filepath.Join(o.options.Root, "stray"), 0o755))
	o.must(os.WriteFile(filepath.Join(o.options.Root, "stray", "file"), []byte("mine"), 0o644))
	want := o.files()

	// Nobody deletes a claim's volume while no provisioner runs.
	o.deleteClaim("released")
	o.until("the PersistentVolume is Released", func() bool {
		return slices.ContainsFunc(o.watch.Volumes(), func(pv *v1.PersistentVolume) bool {
			return pv.Name == released && pv.Status.Phase == v1.VolumeReleased
		})
	})
	o.options.Kubeconfig = o.subdirRole()
	b := o.startDropIn()
	o.volumeGone(released)
	delete(want, "released")
	o.untilFiles(want)

	// From here on they are as Berth's own.
	for claim, name := range map[string]string{"gone": gone, "archived": archived, "retained": retained, "inner": inner, "first": first} {
		o.deleteClaim(claim)
		o.volumeGone(name)
	}
	o.deleteClaim("policy")
	o.deleteClaim("outer")
	delete(want, "team/deep/gone")
	delete(want, "outer/inner")
	delete(want, "team/deep/archived")
	want["archived-team/deep/archived"] = "data of archived"
	o.untilFiles(want)
	// The data goes with the last of those that share it.
	o.deleteClaim("second")
	o.volumeGone(second)
	delete(want, "same")
	o.untilFiles(want)

	o.must(b.Stop())
	o.startDropIn()
	o.comeAndGo("new")
	o.untilFiles(want)
	all, err := o.client.CoreV1().PersistentVolumes().List(t.Context(), metav1.ListOptions{})
	o.must(err)
	var left []string
	for _, pv := range all.Items {
		if pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.Namespace == o.name {
			left = append(left, pv.Name)
		}
	}
	slices.Sort(left)
	if expected := slices.Sorted(slices.Values([]string{kept, policy, outer})); !slices.Equal(left, expected) {
		t.Errorf("PersistentVolumes left are %v, want %v", left, expected)
	}
}

// subdirRole gives a kubeconfig with the rights of nfs-subdir-external-provisioner's ClusterRole.
func (s *site) subdirRole() string {
	s.t.Helper()
	rule := func(group, resource string, verbs ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: verbs}
	}
	return s.withRole(
		rule("", "nodes", "get", "list", "watch"),
		rule("", "persistentvolumes", "get", "list", "watch", "create", "delete"),
		rule("", "persistentvolumeclaims", "get", "list", "watch", "update"),
		rule("storage.k8s.io", "storageclasses", "get", "list", "watch"),
		rule("", "events", "create", "update", "patch"),
	)
}

// Whatever a PersistentVolume says, it gets nobody else's data deleted.
func TestHostileVolumesOfAShareAreNotAdopted(t *testing.T) {
	o := newOldShare(t, "hostile-share")
	class := o.classOf("delete")
	o.volume("victim", class, "victim/data", nil)
	path := func(p string) func(*v1.PersistentVolume) {
		return func(pv *v1.PersistentVolume) { pv.Spec.NFS.Path = p }
	}
	// By claim. Each of them has a directory of its own, whatever it says.
	for claim, edit := range map[string]func(pv *v1.PersistentVolume){
		"parent":  path("/mnt/inspurfs/parent/../victim/data"),
		"outside": path("/mnt/inspurfs/../../etc"),
		"share":   path("/mnt/inspurfs"),
		"slash":   path("/mnt/inspurfs/victim/data/"),
		"around":  path("/mnt/inspurfs/victim"),
		"berths":  path("/mnt/inspurfs/.berth"),
		"server": func(pv *v1.PersistentVolume) {
			pv.Spec.NFS.Server, pv.Spec.NFS.Path = "10.0.0.9", "/mnt/inspurfs/victim/data"
		},
	} {
		o.volume(claim, class, claim, edit)
	}
	o.volume("link", class, "link", nil)
	o.must(os.RemoveAll(filepath.Join(o.options.Root, "link")))
	o.must(os.Symlink("victim/data", filepath.Join(o.options.Root, "link")))
	want := o.files()
	o.startDropIn()
	for _, claim := range []string{"parent", "outside", "share", "slash", "around", "berths", "server", "link"} {
		o.deleteClaim(claim)
	}
	o.comeAndGo("new") // in which time all of them were looked at
	o.untilFiles(want)
}
