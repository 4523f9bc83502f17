//go:build system

package deploy

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/sshd"
	"github.com/berth-storage/berth/test/zfsfuse"
)

// The host with ZFS that the manifests name, at an address for documentation (RFC 5737), and
// its parent dataset.
const (
	zfsHost    = "nas.example.com"
	zfsAddress = "203.0.113.7"
	zfsParent  = "tank/kubernetes"
)

// zfsDaemon is that of all tests, once one of them wants it.
var zfsDaemon = sync.OnceValues(func() (*zfsfuse.Daemon, error) {
	folder, err := os.MkdirTemp("", "")
	if err != nil {
		return nil, err
	}
	if output, err := exec.Command("ip", "addr", "add", zfsAddress+"/32", "dev", "lo").CombinedOutput(); err != nil {
		return nil, errors.New(string(output))
	}
	if err := mightyBerth(); err != nil {
		return nil, err
	}
	d, err := zfsfuse.Start(folder)
	if err == nil {
		zfsStarted = d
		_, err = d.Create("tank", 1<<30)
	}
	return d, err
})

// mightyBerth makes the account berth of the manifests. zfs-fuse has no "zfs allow", so it
// is another name of root's.
func mightyBerth() error {
	if err := sshd.OwnAccounts(); err != nil {
		return err
	}
	accounts, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return err
	}
	return os.WriteFile("/etc/passwd", bytes.Replace(accounts, []byte("berth:x:4711:4711:"), []byte("berth:x:0:0:"), 1), 0o644)
}

var zfsStarted *zfsfuse.Daemon

func stopZFS() error {
	if zfsStarted == nil {
		return nil
	}
	return zfsStarted.Stop()
}

// nas is a host with ZFS, whose sshd lets Berth's commands through and nothing else.
type nas struct {
	*sshd.Server
	s      *site
	folder string
}

// nas starts it, for the time of the test, with an empty parent dataset.
func (s *site) nas() *nas {
	s.t.Helper()
	_, err := zfsDaemon()
	s.must(err)
	n := &nas{s: s, folder: s.t.TempDir()}
	n.zfs("create", zfsParent)
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		var failed error
		done := func() bool { // it is busy for a moment after most changes
			_, failed = zfsfuse.Run("zfs", "destroy", "-R", "-f", zfsParent)
			return failed == nil
		}
		if err := harness.Until(ctx, "the datasets are gone", done); err != nil {
			s.t.Error(err, failed)
		}
	})
	script := filepath.Join(shared.repository, "deploy", "zfs-server", "berth-zfs")
	n.Server, err = sshd.Start(sshd.Options{Dir: n.folder, Address: zfsAddress + ":22", Command: script + " " + zfsParent})
	s.must(err)
	s.t.Cleanup(n.Close)
	return n
}

func (n *nas) zfs(args ...string) string {
	n.s.t.Helper()
	out, err := zfsfuse.Run("zfs", args...)
	n.s.must(err)
	return strings.TrimSpace(out)
}

// gone says whether a dataset does not exist.
func (n *nas) gone(dataset string) bool {
	_, err := zfsfuse.Run("zfs", "list", "-H", dataset)
	return err != nil && strings.Contains(err.Error(), "dataset does not exist")
}

// files are the key that n lets in, and its own, as ssh-keyscan prints it.
func (n *nas) files() (key, knownHosts []byte) {
	n.s.t.Helper()
	key, err := os.ReadFile(filepath.Join(n.folder, "client_key"))
	n.s.must(err)
	known, err := os.ReadFile(filepath.Join(n.folder, "known_hosts"))
	n.s.must(err)
	_, known, _ = bytes.Cut(known, []byte(" "))
	return key, append([]byte(zfsHost+" "), known...)
}

// secret makes a Secret with these files.
func (n *nas) secret(namespace, name string) {
	n.s.t.Helper()
	key, known := n.files()
	secrets := shared.client.CoreV1().Secrets(namespace)
	_, err := secrets.Create(n.s.t.Context(), &v1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string][]byte{"id_ed25519": key, "known_hosts": known},
	}, metav1.CreateOptions{})
	n.s.must(err)
	n.s.t.Cleanup(func() { _ = secrets.Delete(context.Background(), name, metav1.DeleteOptions{}) })
}

// followsWithZFS prepares what the page of hosts with ZFS has its reader do elsewhere: its
// keys are those of a host that there is.
func (s *site) followsWithZFS() {
	s.t.Helper()
	n := s.nas()
	s.nodeWith(shared.zfs, nil)
	key, known := n.files()
	for name, text := range map[string][]byte{"id_ed25519": key, "known_hosts": known} {
		file := filepath.Join(shared.repository, name)
		s.must(os.WriteFile(file, text, 0o600))
		s.t.Cleanup(func() { s.must(os.Remove(file)) })
	}
}

// Berth in the cluster makes datasets of a host that it reaches over ssh, and may do nothing
// else there. Its pod keeps to the level "restricted" of the Pod Security Standards.
func TestZFSOverSSH(t *testing.T) {
	s := newSite(t)
	n := s.nas()
	node := s.nodeWith(shared.zfs, nil)         // which ends last, with the pods of the namespace
	s.kubectl("create", "namespace", namespace) // which is deleted with the rest
	n.secret(namespace, "berth-zfs-ssh")
	text, err := os.ReadFile(filepath.Join(shared.repository, "deploy", "zfs-ssh", "berth.yaml"))
	s.must(err)
	// There is no NFS server here that ZFS could share by.
	own := strings.NewReplacer("    shareOptions: rw=@10.0.0.0/8\n", "    node: nas\n  exporter: none\n").Replace(string(text))
	if !strings.Contains(own, "exporter: none") {
		t.Fatalf("the configuration has changed:\n%s", text)
	}
	folder := t.TempDir()
	relative, err := filepath.Rel(folder, filepath.Join(shared.repository, "deploy", "zfs-ssh"))
	s.must(err)
	s.must(os.WriteFile(filepath.Join(folder, "berth.yaml"), []byte(own), 0o600))
	s.must(os.WriteFile(filepath.Join(folder, "kustomization.yaml"), []byte("resources: ["+relative+"]\nnamespace: "+namespace+`
configMapGenerator:
- {name: berth-zfs, behavior: replace, files: [berth.yaml]}
patches:
- target: {kind: Namespace}
  patch: |
    - {op: replace, path: /metadata/labels/pod-security.kubernetes.io~1enforce, value: restricted}
`), 0o600))
	s.deleteAfterwards(folder)
	t.Cleanup(func() {
		if t.Failed() {
			s.showLogs()
			t.Log(n.Log())
		}
	})
	s.kubectl("apply", "--validate=strict", "-k", folder)
	s.ready(node)
	s.kubectl("rollout", "status", "--timeout=1m", "-n", namespace, "deployment/berth-zfs")
	pv := s.claimOf(harness.NewClaim("default", "data", "berth-zfs"))
	dataset := zfsParent + "/" + pv.Name
	at := n.zfs("get", "-H", "-o", "value", "mountpoint", dataset)
	if pv.Spec.HostPath == nil || pv.Spec.HostPath.Path != at {
		t.Errorf("the volume is %+v, its dataset is mounted at %s", pv.Spec.PersistentVolumeSource, at)
	}
	if got := n.zfs("get", "-Hp", "-o", "value", "refquota", dataset); got != "1048576" {
		t.Errorf("its refquota is %s", got)
	}
	s.deleteClaim("data")
	s.until("its dataset is gone", func() bool { return n.gone(dataset) && n.gone(zfsParent+"/.berth/"+pv.Name) })
}

// oldDataset makes a Bound claim and its volume as ccremer's kubernetes-zfs-provisioner does.
func (n *nas) oldDataset(claim string) *v1.PersistentVolume {
	n.s.t.Helper()
	c := harness.NewClaim("default", claim, "zfs-nfs")
	c, err := shared.client.CoreV1().PersistentVolumeClaims("default").Create(n.s.t.Context(), c, metav1.CreateOptions{})
	n.s.must(err)
	name := "pvc-" + string(c.UID)
	dataset := zfsParent + "/" + name
	n.zfs("create", "-o", "refquota=1048576", "-o", "refreservation=1048576", "-o", "io.kubernetes.pv.zfs:managed_by=pv.kubernetes.io/zfs", dataset)
	_, err = shared.client.CoreV1().PersistentVolumes().Create(n.s.t.Context(), &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{
			"pv.kubernetes.io/provisioned-by":       "pv.kubernetes.io/zfs",
			"zfs.pv.kubernetes.io/zfs-dataset-path": dataset, "zfs.pv.kubernetes.io/zfs-host": zfsHost,
		}},
		Spec: v1.PersistentVolumeSpec{
			StorageClassName: "zfs-nfs", PersistentVolumeReclaimPolicy: v1.PersistentVolumeReclaimDelete,
			AccessModes:            []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce, v1.ReadOnlyMany, v1.ReadWriteMany},
			Capacity:               v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Mi")},
			ClaimRef:               &v1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: "default", Name: claim, UID: c.UID},
			PersistentVolumeSource: v1.PersistentVolumeSource{NFS: &v1.NFSVolumeSource{Server: zfsHost, Path: n.zfs("get", "-H", "-o", "value", "mountpoint", dataset)}},
		},
	}, metav1.CreateOptions{})
	n.s.must(err)
	return n.s.bound(claim)
}

// The part of the page about moving that is for the cluster is followed to the letter.
func TestMovingFromZFSProvisioner(t *testing.T) {
	s := newSite(t)
	s.namespace = "default"
	n := s.nas()
	n.secret("default", "kubernetes-zfs-provisioner")
	s.apply("test/deploy/testdata/zfs-provisioner")
	pv := n.oldDataset("old")
	s.deleteAfterwards(filepath.Join(shared.repository, "deploy/from-zfs-provisioner"))
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(n.Log())
		}
	})
	ran := 0
	var node *node
	for _, block := range blocksOf(t, "migrate-zfs.md", "console") {
		for command := range strings.Lines(block) {
			if command = strings.TrimSpace(command); !strings.HasPrefix(command, "kubectl ") || strings.Contains(command, "$NAME") {
				continue // for the host itself, or for the way back
			}
			switch {
			case strings.HasPrefix(command, "kubectl set image"): // now there is a node that has it
				node = s.nodeWith(shared.zfs, nil)
			case strings.HasPrefix(command, "kubectl logs"):
				s.until("the volume is adopted", func() bool { return strings.Contains(s.ready(node).Log(), "volumes=1") })
				continue
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			cmd := exec.CommandContext(ctx, "sh", "-c", command)
			cmd.Dir = shared.repository
			cmd.Env = append(os.Environ(), "PATH="+shared.cluster.Dir+":"+os.Getenv("PATH"))
			output, err := cmd.CombinedOutput()
			cancel()
			if err != nil {
				s.showLogs() // as long as there is a node
				t.Fatalf("%s: %v\n%s", command, err, output)
			}
			ran++
		}
	}
	if ran != 5 {
		t.Errorf("the page has %d commands for the cluster", ran)
	}
	running := s.ready(node)
	dataset := zfsParent + "/" + pv.Name
	if record := n.zfs("get", "-H", "-o", "value", "berth:record", dataset); !strings.Contains(record, `"origin":"zfs-provisioner"`) {
		t.Errorf("its record is %s", record)
	}
	if without := "Berth works without a permission that it should have"; strings.Contains(running.Log(), without) {
		t.Errorf("the log says that it lacks a permission:\n%s", running.Log())
	}
	s.deleteClaim("old")
	s.until("its dataset is gone", func() bool { return n.gone(dataset) && n.gone(zfsParent+"/.berth/"+pv.Name) })
}
