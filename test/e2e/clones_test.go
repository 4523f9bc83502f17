//go:build system

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// fill writes random files below a folder and gives the checksum of each.
func (s *site) fill(folder string) map[string]string {
	s.t.Helper()
	random := rand.NewChaCha8([32]byte{})
	for i := range 20 {
		file := filepath.Join(folder, fmt.Sprint("d", i%3), fmt.Sprint("f", i))
		s.must(os.MkdirAll(filepath.Dir(file), 0o755))
		f, err := os.Create(file)
		s.must(err)
		_, err = io.CopyN(f, random, int64(1000*i*i))
		s.must(err)
		s.must(f.Close())
	}
	return s.checksums(folder)
}

func (s *site) checksums(folder string) map[string]string {
	s.t.Helper()
	sums := map[string]string{}
	s.must(filepath.WalkDir(folder, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		sum := sha256.Sum256(data)
		sums[strings.TrimPrefix(path, folder)] = hex.EncodeToString(sum[:])
		return err
	}))
	return sums
}

// A claim that is to be a copy has what its source had, whatever becomes of that; when
// the last is deleted nothing is left.
func TestClonesOfClaims(t *testing.T) {
	s := newSite(t, "zfsclones")
	parent := s.dataset("a")
	at := func(pv *v1.PersistentVolume) string { return s.mountpoint(parent, pv) }
	// Nobody exports these: where ZFS is a program, as here, it cannot rename the dataset that a clone in use comes from.
	s.startPools("name: a, zfs: {dataset: " + parent + ", sizing: quota, node: zfs-1}, exporter: none")
	s.claim("source", ofSize("32Mi"))
	source := s.bound("source")
	had := s.fill(at(source))
	s.claim("copy", ofSize("32Mi"), annotated("pvmanager.wimsey.us/clone-from", "source"))
	copied := s.bound("copy")
	s.must(os.Remove(filepath.Join(at(source), "d0", "f3")))
	s.claim("again", ofSize("64Mi"), func(c *v1.PersistentVolumeClaim) {
		c.Spec.DataSource = &v1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "copy"}
	})
	again := s.bound("again")
	for name, pv := range map[string]*v1.PersistentVolume{"the copy": copied, "its copy": again} {
		if got := s.checksums(at(pv)); !maps.Equal(got, had) {
			t.Errorf("%s has %v, want %v", name, got, had)
		}
	}
	if got := s.zfs("get", "-Hp", "-o", "value", "refquota", parent+"/"+again.Name); got != "67108864" {
		t.Errorf("the limit of a larger copy is %s", got)
	}

	// None of these gets anything, least of all an empty volume.
	before := s.volumesBelow(parent)
	for _, refused := range []struct {
		name string
		edit func(*v1.PersistentVolumeClaim)
		word string
	}{
		{"smaller", func(c *v1.PersistentVolumeClaim) {
			c.Annotations = nil
			c.Spec.DataSource = &v1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "source"}
			c.Spec.Resources.Requests[v1.ResourceStorage] = resource.MustParse("1Mi")
		}, "a copy cannot be smaller"},
		{"unbound", annotated("berth.storage/clone-from", "smaller"), "is not bound to a volume yet"},
	} {
		s.claim(refused.name, refused.edit)
		s.untilEvent(s.name, refused.name, "ProvisioningFailed", refused.word)
	}
	if have := s.volumesBelow(parent); !slices.Equal(have, before) {
		t.Errorf("there are the datasets %v, want %v", have, before)
	}

	// The source goes, and its copies stay. Other orders are tried where there is no cluster.
	s.whileUnmounted(func() {
		s.deleteClaim("source")
		s.volumeGone(source.Name)
	}, parent+"/"+copied.Name, parent+"/"+again.Name)
	for name, pv := range map[string]*v1.PersistentVolume{"the copy": copied, "its copy": again} {
		if got := s.checksums(at(pv)); !maps.Equal(got, had) {
			t.Errorf("without the source %s has %v, want %v", name, got, had)
		}
	}
	s.deleteClaim("again")
	s.volumeGone(again.Name)
	if got := s.checksums(at(copied)); !maps.Equal(got, had) {
		t.Errorf("without its copy the copy has %v, want %v", got, had)
	}
	s.must(os.WriteFile(filepath.Join(at(copied), "new"), []byte("x"), 0o644))
	s.deleteAllClaims()
	s.untilCount("all PersistentVolumes are gone", 0, s.countVolumes)
	s.untilNoDatasets(parent)
}
