//go:build system

package e2e

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/nfs4"
	"github.com/berth-storage/berth/test/zfsfuse"
)

const zfsPool = "e2e"

// zfsDaemon is that of all tests, once one of them wants it.
var zfsDaemon = sync.OnceValues(func() (*zfsfuse.Daemon, error) {
	folder, err := os.MkdirTemp("", "")
	if err != nil {
		return nil, err
	}
	d, err := zfsfuse.Start(folder)
	if err == nil {
		zfsStarted = d
		_, err = d.Create(zfsPool, 1<<30)
	}
	return d, err
})

var zfsStarted *zfsfuse.Daemon

func stopZFS() error {
	if zfsStarted == nil {
		return nil
	}
	return zfsStarted.Stop()
}

// parentDataset has the site's pool be of datasets, below one of its own that is not made yet.
func (s *site) parentDataset(more string) string {
	s.t.Helper()
	if _, err := zfsDaemon(); err != nil {
		s.t.Fatal(err)
	}
	parent := zfsPool + "/" + s.name
	s.options.Storage = fmt.Sprintf("zfs: {dataset: %s, %s}", parent, more)
	s.options.Pool = "exporter: ganesha"
	return parent
}

// zfs runs zfs, which must do what it is told.
func (s *site) zfs(args ...string) string {
	s.t.Helper()
	out, err := zfsfuse.Run("zfs", args...)
	s.must(err)
	return strings.TrimSpace(out)
}

// whileUnmounted does something with the source of clones that are not mounted meanwhile. zfs-fuse renames no
// dataset that has mounted ones. It unmounts them itself, but in a thread that is not done when it looks whether
// they are: it refuses, mounts them again, and may do the same at each try, for minutes.
func (s *site) whileUnmounted(do func(), clones ...string) {
	s.t.Helper()
	each := func(command string) {
		for _, clone := range clones { // not at once, or zfs-fuse hangs
			s.until(command+"ing "+clone+", which is busy for a moment", func() bool {
				_, err := zfsfuse.Run("zfs", command, clone)
				return err == nil
			})
		}
	}
	each("unmount")
	do()
	each("mount")
}

// below are the datasets below one, without its name.
func (s *site) below(parent string) (names []string) {
	s.t.Helper()
	for line := range strings.Lines(s.zfs("list", "-H", "-r", "-o", "name", "-t", "filesystem,snapshot", parent)) {
		if name, found := strings.CutPrefix(strings.TrimSpace(line), parent); found && name != "" {
			names = append(names, name)
		}
	}
	return names
}

// datasets is what "berth volumes" says of the pool below a dataset.
func (s *site) datasets(parent string) (volumes []listed, unknown []string) {
	s.t.Helper()
	var out struct {
		Pools []struct {
			Volumes           []listed
			Problems, Unknown []string
		}
	}
	s.must(json.Unmarshal([]byte(s.command(s.options.Binary, "volumes", "--dataset", parent, "-o", "json")), &out))
	if len(out.Pools) != 1 || len(out.Pools[0].Problems) > 0 {
		s.t.Fatalf("berth volumes says %+v", out)
	}
	return out.Pools[0].Volumes, out.Pools[0].Unknown
}

// A claim's volume is a dataset: it ends at the claim's size, grows with it, and is there after
// Berth was killed. When it is deleted nothing of it is left.
func TestDatasets(t *testing.T) {
	s := newSite(t, "datasets")
	parent := s.parentDataset("sizing: quota")
	s.zfs("create", parent)
	b := s.start()
	class := s.parameters("zfs", map[string]string{"compression": "gzip"})
	s.claim("data", ofClass(class), ofSize("16Mi"))
	pv := s.bound("data")
	if got := s.zfs("get", "-Hp", "-o", "value", "refquota,refreservation,compression", parent+"/"+pv.Name); got != "16777216\n0\ngzip" {
		t.Errorf("the dataset has refquota, refreservation and compression %q", got)
	}
	c := s.mount()
	data := make([]byte, 12<<20)
	_, err := rand.Read(data)
	s.must(err)
	file := pv.Spec.NFS.Path + "/data"
	s.must(c.WriteFile(t.Context(), file, data, 0o644))
	handle, err := c.FileHandle(t.Context(), file)
	s.must(err)
	if err := c.WriteFile(t.Context(), pv.Spec.NFS.Path+"/more", data, 0o644); !errors.Is(err, nfs4.ErrDQuot) {
		t.Errorf("writing 24 MiB to a volume of 16: got error %v, want %v", err, nfs4.ErrDQuot)
	}
	s.must(c.Remove(t.Context(), pv.Spec.NFS.Path+"/more"))

	s.must(killAll(b))
	b = s.start()
	if _, err := c.StatHandle(t.Context(), handle); err != nil {
		t.Errorf("the file handle that a client had before Berth was killed: %v", err)
	}
	s.resize("data", "32Mi")
	s.untilGrown("data", "32Mi")
	s.must(c.WriteFile(t.Context(), pv.Spec.NFS.Path+"/more", data, 0o644))

	s.zfs("create", parent+"/theirs")
	s.until("the volume is listed as published", func() bool {
		all, unknown := s.datasets(parent)
		return len(all) == 1 && all[0].Published && slices.Equal(unknown, []string{parent + "/theirs"})
	})
	s.until("their dataset is destroyed, which is busy for a moment", func() bool {
		_, err := zfsfuse.Run("zfs", "destroy", parent+"/theirs")
		return err == nil
	})

	s.deleteClaim("data")
	s.volumeGone(pv.Name)
	if _, err := c.StatHandle(t.Context(), handle); err == nil {
		t.Error("what was deleted is still reached by an old handle")
	}
	s.until("only the pool is left", func() bool { return slices.Equal(s.below(parent), []string{"/.berth"}) })
	s.must(b.Stop())
}

// What is wrong with the parent is said at the start, with the command that mends it.
func TestParentDatasetIsChecked(t *testing.T) {
	s := newSite(t, "parent")
	parent := s.parentDataset("sizing: quota")
	command := regexp.MustCompile(`\((zfs [^);]*)`)
	for range 2 { // it is not there, and then not mounted
		b := s.begin(s.options)
		s.checkRefusal(b.Process, "pool local", parent)
		mend := command.FindStringSubmatch(lastLines(b.Log(), 1))
		if mend == nil {
			t.Fatalf("no command is told that mends it: %s", lastLines(b.Log(), 1))
		}
		s.command(strings.Fields(mend[1])...)
		if b = s.start(); s.zfs("get", "-H", "-o", "value", "mounted", parent) != "yes" {
			t.Error("it serves a dataset that is not mounted")
		}
		s.checkRefusal(s.begin(s.second()).Process, parent, "in use")
		s.must(b.Stop())
		s.zfs("unmount", parent)
	}
}

// startZFSProvisioner starts "berth zfs-provisioner" without exports, and waits until it serves.
func (s *site) startZFSProvisioner(parent string, env ...string) *harness.Berth {
	s.t.Helper()
	port, err := harness.FreePort()
	s.must(err)
	p, err := harness.StartWith(append([]string{
		"ZFS_PARENT_DATASET=" + parent, "ZFS_PROVISIONER_NAME=" + s.options.Provisioner, "ZFS_KUBE_CONF=" + s.options.Kubeconfig,
		"ZFS_METRICS_ADDR=127.0.0.1", fmt.Sprintf("ZFS_METRICS_PORT=%d", port), "ZFS_ENABLE_EXPORT=false", "NODE_NAME=zfs-node",
	}, env...), filepath.Join(s.options.Folder, "berth.log"), s.options.Binary, "zfs-provisioner")
	s.must(err)
	b := &harness.Berth{Process: p, Options: s.options, URL: fmt.Sprintf("http://127.0.0.1:%d", port)}
	endWithTest(s.t, b)
	s.ready(b)
	return b
}

// In the place of the fork of kubernetes-zfs-provisioner that makes local volumes.
func TestZFSProvisionerOfLocalVolumes(t *testing.T) {
	s := newSite(t, "zfslocal")
	parent := s.parentDataset("")
	s.zfs("create", parent)
	retain := v1.PersistentVolumeReclaimRetain
	s.class(s.name+"-retain", func(c *storagev1.StorageClass) { c.ReclaimPolicy = &retain })
	b := s.startZFSProvisioner(parent)

	s.claim("data", ofSize("8Mi"))
	pv := s.bound("data")
	at := s.zfs("get", "-H", "-o", "value", "mountpoint", parent+"/"+pv.Name)
	if pv.Spec.Local == nil || pv.Spec.Local.Path != at || pv.Spec.NodeAffinity == nil || !strings.Contains(pv.Spec.NodeAffinity.String(), "zfs-node") {
		t.Errorf("the PersistentVolume is %+v, want one at %s on zfs-node", pv.Spec, at)
	}
	if got := s.zfs("get", "-Hp", "-o", "value", "refquota,refreservation,sharenfs", parent+"/"+pv.Name); got != "8388608\n8388608\noff" {
		t.Errorf("the dataset has refquota, refreservation and sharenfs %q", got)
	}
	s.must(os.WriteFile(filepath.Join(at, "file"), []byte("data"), 0o600))
	s.claim("kept", ofClass(s.name+"-retain"))
	if kept := s.bound("kept"); kept.Spec.PersistentVolumeReclaimPolicy != retain {
		t.Errorf("the policy of a class that retains came to be %s", kept.Spec.PersistentVolumeReclaimPolicy)
	}
	line := fmt.Sprintf(`zfs_provisioner_persistent_volume_capacity{hostname="",parent="%[1]s",persistent_volume="%[1]s/%[2]s"} 8.388608e+06`, parent, pv.Name)
	s.must(b.Stop()) // metrics are measured at the start, then each minute
	b = s.startZFSProvisioner(parent, "ZFS_KUBE_RECLAIM_POLICY=Retain")
	s.until("the program's own metric tells of the volume", func() bool {
		text, err := b.Metrics(t.Context())
		return err == nil && strings.Contains(text, line)
	})
	s.claim("always")
	if pv := s.bound("always"); pv.Spec.PersistentVolumeReclaimPolicy != retain {
		t.Errorf("with ZFS_KUBE_RECLAIM_POLICY=Retain the policy is %s", pv.Spec.PersistentVolumeReclaimPolicy)
	}
	s.deleteClaim("data")
	s.volumeGone(pv.Name)
	s.until("its dataset is gone", func() bool { return !slices.Contains(s.below(parent), "/"+pv.Name) && len(s.below(parent)) == 3 })
}
