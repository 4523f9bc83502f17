//go:build system

package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/zfsfuse"
)

// dataset makes a parent dataset, which is destroyed with all that is in it.
func (s *site) dataset(name string, options ...string) string {
	s.t.Helper()
	if _, err := zfsDaemon(); err != nil {
		s.t.Fatal(err)
	}
	parent := zfsPool + "/" + s.name + "-" + name
	s.zfs(slices.Concat([]string{"create"}, options, []string{parent})...)
	s.t.Cleanup(func() {
		s.must(zfsfuse.Destroy(parent))
	})
	return parent
}

// startPools starts a Berth with these pools of the site's provisioner, each a name and the rest of
// its configuration, and waits until it serves.
func (s *site) startPools(pools ...string) *harness.Berth {
	s.t.Helper()
	port, err := harness.FreePort()
	s.must(err)
	listen := fmt.Sprintf("127.0.0.1:%d", port)
	text := fmt.Sprintf("kubernetes: {kubeconfig: %s}\nhttp: {listen: %q}\nserver: {hostname: 127.0.0.1}\nganesha: {listen: 127.0.0.1, port: %d, runDir: %s, gracePeriod: 0s}\npools:\n",
		s.kubeconfig, listen, s.options.NFSPort, filepath.Join(s.options.Folder, "run"))
	for _, pool := range pools {
		text += fmt.Sprintf("- {provisioner: %s, %s}\n", s.options.Provisioner, pool)
	}
	file := filepath.Join(s.options.Folder, "berth.yaml")
	s.must(os.WriteFile(file, []byte(text), 0o600))
	p, err := harness.Start(filepath.Join(s.options.Folder, "berth.log"), s.options.Binary, "serve", "--config", file)
	s.must(err)
	b := &harness.Berth{Process: p, Options: s.options, URL: "http://" + listen}
	endWithTest(s.t, b)
	s.ready(b)
	return b
}

// volumesBelow are the datasets of volumes below a parent.
func (s *site) volumesBelow(parent string) (names []string) {
	s.t.Helper()
	for _, name := range s.below(parent) {
		if name != "/.berth" {
			names = append(names, strings.TrimPrefix(name, "/"))
		}
	}
	return names
}

// mountpoint is where a volume's dataset is mounted.
func (s *site) mountpoint(parent string, pv *v1.PersistentVolume) string {
	s.t.Helper()
	return s.zfs("get", "-H", "-o", "value", "mountpoint", parent+"/"+pv.Name)
}

func (s *site) untilNoDatasets(parent string) {
	s.t.Helper()
	s.until("nothing is left below "+parent, func() bool { return len(s.volumesBelow(parent)) == 0 })
}

// What a claim's annotations say is so on its dataset, or there is none and the event
// says what would do.
func TestDatasetsOfClaims(t *testing.T) {
	s := newSite(t, "zfs")
	parent := s.dataset("a")
	s.startPools("name: a, zfs: {dataset: " + parent + ", sizing: quota}, exporter: ganesha")
	s.claim("good", annotated("pvmanager.wimsey.us/blocksize", "16384"), annotated("pvmanager.wimsey.us/atime", "off"),
		annotated("berth.storage/logbias", "throughput"), annotated("berth.storage/snapdir", "Visible"), annotated("berth.storage/casesensitive", "mixed"))
	pv := s.bound("good")
	want := map[string]string{
		"recordsize": "16384", "atime": "off", "logbias": "throughput", "snapdir": "visible", "casesensitivity": "mixed", "refquota": "1048576", "refreservation": "0",
	}
	got := map[string]string{}
	for _, property := range slices.Sorted(maps.Keys(want)) {
		got[property] = s.zfs("get", "-Hp", "-o", "value", property, parent+"/"+pv.Name)
	}
	if !maps.Equal(got, want) {
		t.Errorf("the dataset has %v, want %v", got, want)
	}
	for name, c := range map[string]struct {
		annotation, value string
		words             []string
	}{
		"blocked":  {"pvmanager.wimsey.us/compression", "gzip", []string{"compression", "pool a does not let claims use it"}},
		"policy":   {"pvmanager.wimsey.us/reclaim-policy", "Retain", []string{"reclaim-policy", "does not let claims use it"}},
		"value":    {"berth.storage/checksum", "md5", []string{"berth.storage/checksum", "md5", "fletcher4, sha256"}},
		"size":     {"berth.storage/blocksize", "1000", []string{"a power of two from 512 to 1M"}},
		"unknown":  {"pvmanager.wimsey.us/exe", "off", []string{"pvmanager.wimsey.us/exe is unknown", "did you mean", "exec"}},
		"hostile":  {"berth.storage/exec", "on' -o mountpoint=/etc '", []string{"is not a value of exec: on, off"}},
		"notthere": {"berth.storage/clone-from", "nobody", []string{"clone-from", "nobody", "does not exist"}},
	} {
		s.claim(name, annotated(c.annotation, c.value))
		s.untilEvent(s.name, name, "ProvisioningFailed", c.words...)
	}
	if have := s.volumesBelow(parent); !slices.Equal(have, []string{pv.Name}) {
		t.Errorf("the datasets are %v, want %s only", have, pv.Name)
	}
	s.deleteAllClaims()
	s.volumeGone(pv.Name)
	s.untilNoDatasets(parent)
}

// PersistentVolumes of each type are as Kubernetes wants them, and bound.
func TestTypesOfDatasets(t *testing.T) {
	s := newSite(t, "zfstypes")
	parent := s.dataset("a")
	types := map[string]string{"hostPath": "hostpath", "local": "local", "auto": "AUTO", "nfs": "Nfs"}
	for kind, spelt := range types {
		s.class(s.name+"-"+strings.ToLower(kind), func(c *storagev1.StorageClass) {
			c.Parameters = map[string]string{"type": spelt, "parentDataset": parent, "hostname": "zfs-1", "reserveSpace": "false", "blocksize": "8K", "zfs-provisioner-count": "1"}
		})
	}
	s.startPools("name: a, zfs: {dataset: "+parent+", widenAccessModes: true}, exporter: ganesha, pvNameFormat: '{class}-{namespace}-{name}-{tag}'", "name: b, dir: {root: "+s.options.Root+"}")
	for kind := range types {
		name, class := strings.ToLower(kind), s.name+"-"+strings.ToLower(kind)
		s.claim(name, ofClass(class), func(c *v1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce}
		})
		pv := s.bound(name)
		claim, err := s.client.CoreV1().PersistentVolumeClaims(s.name).Get(t.Context(), name, metav1.GetOptions{})
		s.must(err)
		if want := class + "-" + s.name + "-" + name + "-" + string(claim.UID)[:8]; pv.Name != want {
			t.Errorf("%s: the PersistentVolume is %s, want %s", kind, pv.Name, want)
		}
		at, modes := s.mountpoint(parent, pv), 1
		switch source := pv.Spec.PersistentVolumeSource; kind {
		case "local":
			if source.Local == nil || source.Local.Path != at {
				t.Errorf("%s: got %+v, want %s", kind, source, at)
			}
		case "nfs":
			modes = 3
			if source.NFS == nil || source.NFS.Server != "zfs-1" || source.NFS.Path != "/a/"+pv.Name {
				t.Errorf("%s: got %+v", kind, source.NFS)
			}
		default:
			if source.HostPath == nil || source.HostPath.Path != at {
				t.Errorf("%s: got %+v, want %s", kind, source, at)
			}
		}
		if (pv.Spec.NodeAffinity == nil) != (kind == "nfs") || len(pv.Spec.AccessModes) != modes {
			t.Errorf("%s: node affinity %+v, access modes %v", kind, pv.Spec.NodeAffinity, pv.Spec.AccessModes)
		}
		dataset := parent + "/" + pv.Name
		if got := s.zfs("get", "-Hp", "-o", "value", "recordsize,refquota,refreservation", dataset); got != "8192\n1048576\n0" {
			t.Errorf("%s: recordsize, refquota and refreservation are %q", kind, got)
		}
		info, err := os.Stat(at)
		s.must(err)
		if !info.IsDir() || info.Mode().Perm() != 0o777 {
			t.Errorf("%s: %s is %v", kind, at, info.Mode())
		}
	}
	s.deleteAllClaims()
	s.untilCount("all PersistentVolumes are gone", 0, s.countVolumes)
	s.untilNoDatasets(parent)
}

// The next pool is taken when one is full, also that of a claim that needs less than it
// has in all.
func TestDatasetsOfSeveralPoolsForAClass(t *testing.T) {
	s := newSite(t, "zfspools")
	small, large := s.dataset("small", "-o", "quota=32M"), s.dataset("large")
	s.startPools("name: small, classes: ["+s.name+"], zfs: {dataset: "+small+", claimAnnotations: [reclaim-policy]}, exporter: ganesha",
		"name: large, classes: ["+s.name+"], zfs: {dataset: "+large+", claimAnnotations: [reclaim-policy]}, reclaimPolicy: Retain, exporter: ganesha")
	s.claim("first", ofSize("16Mi"))
	first := s.bound("first")
	s.claim("second", ofSize("24Mi"))
	second := s.bound("second")
	if !slices.Equal(s.volumesBelow(small), []string{first.Name}) || !slices.Equal(s.volumesBelow(large), []string{second.Name}) {
		t.Errorf("%s and %s lie in %v and %v", first.Name, second.Name, s.volumesBelow(small), s.volumesBelow(large))
	}
	if second.Spec.PersistentVolumeReclaimPolicy != v1.PersistentVolumeReclaimRetain || first.Spec.PersistentVolumeReclaimPolicy != v1.PersistentVolumeReclaimDelete {
		t.Errorf("the reclaim policies are %s and %s", first.Spec.PersistentVolumeReclaimPolicy, second.Spec.PersistentVolumeReclaimPolicy)
	}
	s.claim("recycled", ofSize("24Mi"), annotated("pvmanager.wimsey.us/reclaim-policy", "Recycle"))
	s.untilEvent(s.name, "recycled", "ProvisioningFailed", "reclaim-policy", "Recycle", "Delete", "Retain")
	s.claim("deleted", ofSize("24Mi"), annotated("pvmanager.wimsey.us/reclaim-policy", "Delete"), func(c *v1.PersistentVolumeClaim) {
		c.Spec.StorageClassName = new(s.parameters("large", map[string]string{"pool": "none,large"}))
	})
	if pv := s.bound("deleted"); pv.Spec.PersistentVolumeReclaimPolicy != v1.PersistentVolumeReclaimDelete {
		t.Errorf("the claim's reclaim policy is %s", pv.Spec.PersistentVolumeReclaimPolicy)
	}
	s.deleteAllClaims()
	s.volumeGone(first.Name)
	s.untilNoDatasets(small)
	s.until("what is retained is all that is left", func() bool { return slices.Equal(s.volumesBelow(large), []string{second.Name}) })
	s.must(s.client.CoreV1().PersistentVolumes().Delete(t.Context(), second.Name, metav1.DeleteOptions{}))
}
