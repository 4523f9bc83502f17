//go:build system

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/test/nfs4"
)

// staticDir makes a directory with a file in it, and gives its entry in a pool's list.
func (s *site) staticDir(more string) (dir, entry string) {
	s.t.Helper()
	dir = s.t.TempDir()
	s.must(errors.Join(os.Chmod(dir, 0o777), os.WriteFile(filepath.Join(dir, "file"), []byte("mine"), 0o666)))
	return dir, fmt.Sprintf(`{"path": %q, "capacity": "1Mi"%s}`, dir, more)
}

// claimOf makes a claim of a PersistentVolume that is there, and waits until it is Bound.
func (s *site) claimOf(name, volume string) {
	s.t.Helper()
	s.claim(name, func(c *v1.PersistentVolumeClaim) { c.Spec.StorageClassName, c.Spec.VolumeName = new(""), volume })
	if pv := s.bound(name); pv.Name != volume {
		s.t.Errorf("claim %s has volume %s, want %s", name, pv.Name, volume)
	}
}

// published waits until a PersistentVolume is there, other than one with the uid not.
func (s *site) published(name string, not string) (pv *v1.PersistentVolume) {
	s.t.Helper()
	s.until("PersistentVolume "+name+" is there", func() bool {
		var err error
		pv, err = s.client.CoreV1().PersistentVolumes().Get(s.t.Context(), name, metav1.GetOptions{})
		return err == nil && string(pv.UID) != not
	})
	return pv
}

// Directories that were there before Berth are published, and their data is never touched.
func TestStaticDirectories(t *testing.T) {
	s := newSite(t, "static")
	home, homeEntry := s.staticDir(fmt.Sprintf(`, "name": "%s-home"`, s.name))
	media, mediaEntry := s.staticDir(fmt.Sprintf(`, "name": "%s-media", "exportPath": "/%[1]s/media", "readOnly": true`, s.name))
	missing := fmt.Sprintf(`{"path": "/nonexistent-%s", "capacity": "1Mi"}`, s.name)
	s.options.Pool = "static: [" + homeEntry + ", " + mediaEntry + ", " + missing + "]"
	homePV, mediaPV := s.name+"-home", s.name+"-media"
	t.Cleanup(func() { s.deleteVolumes(homePV, mediaPV) })
	b := s.start()

	pv := s.published(homePV, "")
	if want := (v1.NFSVolumeSource{Server: "127.0.0.1", Path: home}); *pv.Spec.NFS != want || pv.Spec.PersistentVolumeReclaimPolicy != v1.PersistentVolumeReclaimRetain ||
		!slices.Equal(pv.Spec.AccessModes, []v1.PersistentVolumeAccessMode{v1.ReadWriteMany}) || pv.Spec.Capacity.Storage().String() != "1Mi" {
		t.Errorf("PersistentVolume %s is %+v", pv.Name, pv.Spec)
	}
	s.claimOf("home", homePV)
	c := s.mount()
	if text, err := c.ReadFile(t.Context(), home+"/file"); err != nil || string(text) != "mine" {
		t.Errorf("its file reads %q, %v", text, err)
	}
	s.must(c.WriteFile(t.Context(), home+"/new", []byte("ours"), 0o644))
	if text, err := os.ReadFile(filepath.Join(home, "new")); err != nil || string(text) != "ours" {
		t.Errorf("on disk is %q, %v", text, err)
	}
	handle, err := c.FileHandle(t.Context(), home+"/file")
	s.must(err)

	// What may be read only.
	if pv := s.published(mediaPV, ""); pv.Spec.NFS.Path != "/"+s.name+"/media" || !pv.Spec.NFS.ReadOnly {
		t.Errorf("PersistentVolume %s is %+v", pv.Name, pv.Spec.NFS)
	}
	if text, err := c.ReadFile(t.Context(), "/"+s.name+"/media/file"); err != nil || string(text) != "mine" {
		t.Errorf("what may be read only reads %q, %v", text, err)
	}
	if err := c.WriteFile(t.Context(), "/"+s.name+"/media/file", []byte("x"), 0o644); !errors.Is(err, nfs4.ErrROFS) {
		t.Errorf("writing what may be read only: %v, want %v", err, nfs4.ErrROFS)
	}

	// Volumes of the pool come and go beside them, and so do claims and PersistentVolumes.
	s.comeAndGo("data")
	s.deleteClaim("home")
	s.deleteVolumes(homePV)
	s.published(homePV, string(pv.UID))
	s.claimOf("again", homePV)
	s.must(b.Stop())

	// The next start exports home only. Its handles are the same.
	s.options.Pool = "static: [" + homeEntry + "]"
	b = s.start()
	if _, err := c.StatHandle(t.Context(), handle); err != nil {
		t.Errorf("the file handle that a client had: %v", err)
	}
	if attr, err := c.Stat(t.Context(), "/"+s.name+"/media"); err == nil {
		t.Errorf("what the configuration does not name any more is exported: %v", attr)
	}
	s.until("the log tells of the PersistentVolume that is left", func() bool {
		return strings.Contains(b.Log(), "does not publish this PersistentVolume") && strings.Contains(b.Log(), "persistentVolume="+mediaPV)
	})
	s.published(mediaPV, "")
	for _, dir := range []string{home, media} {
		if text, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(text) != "mine" {
			t.Errorf("the file in %s reads %q, %v", dir, text, err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(home, "new")); err != nil || string(text) != "ours" {
		t.Errorf("the file that a pod wrote reads %q, %v", text, err)
	}
}

// deleteVolumes deletes PersistentVolumes, whatever claims they have.
func (s *site) deleteVolumes(names ...string) {
	s.t.Helper()
	for _, name := range names {
		err := s.client.CoreV1().PersistentVolumes().Delete(context.WithoutCancel(s.t.Context()), name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			s.t.Error(err)
		}
	}
}
