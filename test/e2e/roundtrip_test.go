//go:build system

package e2e

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// finalizer keeps a PersistentVolume until its data is deleted.
const finalizer = "external-provisioner.volume.kubernetes.io/finalizer"

func TestRoundTrip(t *testing.T) {
	s := newSite(t, "roundtrip")
	s.start()
	s.claim("data", func(c *v1.PersistentVolumeClaim) {
		c.Spec.AccessModes = []v1.PersistentVolumeAccessMode{v1.ReadWriteMany, v1.ReadWriteOnce}
	})
	pv := s.bound("data")
	s.checkVolume(pv)
	if want := []v1.PersistentVolumeAccessMode{v1.ReadWriteMany, v1.ReadWriteOnce}; !slices.Equal(pv.Spec.AccessModes, want) {
		t.Errorf("access modes %v, want the claim's, %v", pv.Spec.AccessModes, want)
	}

	writer, reader := s.mount(), s.mount()
	file := pv.Spec.NFS.Path + "/greeting"
	text := bytes.Repeat([]byte("all aboard\n"), 200_000)
	s.must(writer.WriteFile(t.Context(), file, text, 0o644))
	got, err := reader.ReadFile(t.Context(), file)
	s.must(err)
	if !bytes.Equal(got, text) {
		t.Errorf("another client reads %d bytes, not the %d that were written", len(got), len(text))
	}

	s.deleteClaim("data")
	s.untilNothingIsLeft(reader)
	if _, err := reader.Stat(t.Context(), pv.Spec.NFS.Path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the export of a deleted volume answers %v, want NFS4ERR_NOENT", err)
	}
	if _, err := writer.Stat(t.Context(), file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file of a deleted volume answers %v, want NFS4ERR_NOENT", err)
	}
}

// checkVolume checks what every PersistentVolume of Berth says of itself.
func (s *site) checkVolume(pv *v1.PersistentVolume) {
	s.t.Helper()
	identity, err := os.ReadFile(filepath.Join(s.options.Root, ".berth", "identity"))
	s.must(err)
	for what, check := range map[string]struct{ got, want string }{
		"instance":   {pv.Annotations["berth.storage/instance"], strings.TrimSpace(string(identity))},
		"volume":     {pv.Annotations["berth.storage/volume"], "local/" + pv.Name},
		"managed-by": {pv.Labels["app.kubernetes.io/managed-by"], "berth"},
		"pool":       {pv.Labels["berth.storage/pool"], "local"},
		"capacity":   {pv.Spec.Capacity.Storage().String(), "1Mi"},
	} {
		if check.got != check.want {
			s.t.Errorf("%s of the PersistentVolume: %q, want %q", what, check.got, check.want)
		}
	}
	if !slices.Contains(pv.Finalizers, finalizer) {
		s.t.Errorf("finalizers %v, want %s among them", pv.Finalizers, finalizer)
	}
	if want := (v1.NFSVolumeSource{Server: "127.0.0.1", Path: exportPath + "/" + pv.Name}); pv.Spec.NFS == nil || *pv.Spec.NFS != want {
		s.t.Errorf("source %v, want %v", pv.Spec.NFS, want)
	}
	if pv.Spec.PersistentVolumeReclaimPolicy != v1.PersistentVolumeReclaimDelete {
		s.t.Errorf("reclaim policy %s, want Delete", pv.Spec.PersistentVolumeReclaimPolicy)
	}
	for name, value := range pv.Annotations {
		if strings.Contains(value, s.options.Root) {
			s.t.Errorf("annotation %s tells where volumes lie on the host: %s", name, value)
		}
	}
}

// What a class says holds for its volumes, and Retain keeps them.
func TestClass(t *testing.T) {
	s := newSite(t, "class")
	retain := v1.PersistentVolumeReclaimRetain
	s.class(s.name+"-kept", func(c *storagev1.StorageClass) {
		c.MountOptions = []string{"vers=4.1", "hard"}
		c.ReclaimPolicy = &retain
		c.Parameters = map[string]string{"mode": "2770", "uid": "1000", "gid": "2000", "rootSquash": "true"}
	})
	s.start()
	s.claim("kept", func(c *v1.PersistentVolumeClaim) { c.Spec.StorageClassName = new(s.name + "-kept") })
	pv := s.bound("kept")
	if !slices.Equal(pv.Spec.MountOptions, []string{"vers=4.1", "hard"}) {
		t.Errorf("mount options %v", pv.Spec.MountOptions)
	}
	if pv.Spec.PersistentVolumeReclaimPolicy != retain {
		t.Errorf("reclaim policy %s, want Retain", pv.Spec.PersistentVolumeReclaimPolicy)
	}
	if gid := pv.Annotations["pv.beta.kubernetes.io/gid"]; gid != "2000" {
		t.Errorf("kubelet is told the group %q, want 2000; annotations %v", gid, slices.Sorted(maps.Keys(pv.Annotations)))
	}

	root := s.mount()
	a, err := root.Stat(t.Context(), pv.Spec.NFS.Path)
	s.must(err)
	if a.Mode != 0o2770 || a.Owner != "1000" || a.Group != "2000" {
		t.Errorf("the directory has mode %o, owner %s, group %s", a.Mode, a.Owner, a.Group)
	}
	if err := root.WriteFile(t.Context(), pv.Spec.NFS.Path+"/file", nil, 0o644); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("root writes to a squashed export: %v", err)
	}

	s.deleteClaim("kept")
	s.until("the PersistentVolume is Released", func() bool {
		return slices.ContainsFunc(s.watch.Volumes(), func(v *v1.PersistentVolume) bool {
			return v.Name == pv.Name && v.Status.Phase == v1.VolumeReleased
		})
	})
	// Another volume's whole life passes before the kept one is looked at.
	s.comeAndGo("other")
	if got := s.contents().volumes; !slices.Equal(got, []string{pv.Name}) {
		t.Errorf("the pool has %v, want the retained volume %s", got, pv.Name)
	}
	if _, err := root.Stat(t.Context(), pv.Spec.NFS.Path); err != nil {
		t.Errorf("the retained volume is no longer exported: %v", err)
	}
}
