//go:build system

package deploy

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/test/harness"
)

// shareNode adds a node with the small image, on which a folder stands for a share.
func (s *site) shareNode(share string) (n *node, folder string) {
	s.t.Helper()
	folder = s.t.TempDir()
	s.must(os.Chmod(folder, 0o755))
	return s.nodeWith(shared.subdir, map[string]string{share: folder}), folder
}

// wantDir checks that there is a directory with a file that says text.
func (s *site) wantFile(path, text string) {
	s.t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != text {
		s.t.Errorf("%s reads %q, %v; want %q", path, got, err, text)
	}
}

// gone says whether nothing is there.
func gone(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, os.ErrNotExist)
}

// Volumes on a share, by the manifests of their own.
func TestNFSSubdir(t *testing.T) {
	s := newSite(t)
	n, folder := s.shareNode("nfs.example.com:/srv/share")
	s.apply("deploy/nfs-subdir")
	s.ready(n)
	s.kubectl("rollout", "status", "--timeout=1m", "-n", namespace, "deployment/berth-share")
	pv := s.claimOf(harness.NewClaim("default", "data", "berth-share"))
	if pv.Spec.NFS == nil || pv.Spec.NFS.Server != "nfs.example.com" || pv.Spec.NFS.Path != "/srv/share/default/data" {
		t.Errorf("the volume is %+v", pv.Spec.NFS)
	}
	s.must(os.WriteFile(filepath.Join(folder, "default/data/file"), []byte("data"), 0o644))
	s.deleteClaim("data")
	s.until("the directory is gone", func() bool { return gone(filepath.Join(folder, "default/data")) })
	var archived []string
	s.must(filepath.WalkDir(folder, func(path string, _ os.DirEntry, err error) error {
		if filepath.Base(path) == "file" {
			archived = append(archived, path)
		}
		return err
	}))
	if len(archived) != 1 || !strings.Contains(archived[0], "archived") && !strings.Contains(archived[0], "archive") {
		t.Errorf("the data is now at %v, want it in an archive", archived)
	}
}

// Its pod keeps to the level "baseline" of the Pod Security Standards.
func TestNFSSubdirIsBaseline(t *testing.T) {
	s := newSite(t)
	s.apply("deploy/nfs-subdir", "- target: {kind: Namespace}\n  patch: |\n    - {op: replace, path: /metadata/labels/pod-security.kubernetes.io~1enforce, value: baseline}\n")
	n, _ := s.shareNode("nfs.example.com:/srv/share")
	s.ready(n)
}

// old makes a Bound claim and its volume as nfs-subdir-external-provisioner does.
func (s *site) old(folder, claim, at, class string) *v1.PersistentVolume {
	s.t.Helper()
	c := harness.NewClaim("default", claim, class)
	c, err := shared.client.CoreV1().PersistentVolumeClaims("default").Create(s.t.Context(), c, metav1.CreateOptions{})
	s.must(err)
	pv, err := harness.SubdirVolume(c, oldShare, folder, at)
	s.must(err)
	s.must(os.WriteFile(filepath.Join(folder, at, "file"), []byte("data of "+claim), 0o666))
	_, err = shared.client.CoreV1().PersistentVolumes().Create(s.t.Context(), pv, metav1.CreateOptions{})
	s.must(err)
	return s.bound(claim)
}

// oldShare is that of the manifests that its users have.
var oldShare = harness.Share{Provisioner: "k8s-sigs.io/nfs-subdir-external-provisioner", Server: "192.168.11.54", Path: "/mnt/inspurfs"}

// newOldSite is a site whose user has nfs-subdir-external-provisioner, which is not at
// work now: its pod finds no node.
func newOldSite(t *testing.T) *site {
	s := newSite(t)
	s.namespace = "default"
	s.apply("test/deploy/testdata/nfs-subdir")
	return s
}

// Whoever has nfs-subdir-external-provisioner changes the image, and nothing else: the
// volumes that it made are Berth's then.
func TestManifestsOfNFSSubdirWithAnotherImage(t *testing.T) {
	s := newOldSite(t)
	folder := t.TempDir()
	s.must(os.Chmod(folder, 0o755))
	s.old(folder, "old", "default/old-path", "managed-nfs-storage")
	kept := s.old(folder, "kept", "default/kept-path", "managed-nfs-storage")
	n := s.nodeWith(shared.subdir, map[string]string{oldShare.Server + ":" + oldShare.Path: folder})
	running := s.ready(n)
	s.until("the volumes are adopted", func() bool { return strings.Contains(running.Log(), "volumes=2") })

	// The article's claim, whose annotation is its path.
	claim := harness.NewClaim("default", "test-claim", "managed-nfs-storage")
	claim.Annotations = map[string]string{"nfs.io/storage-path": "test-path"}
	pv := s.claimOf(claim)
	if pv.Spec.NFS.Server != oldShare.Server || pv.Spec.NFS.Path != "/mnt/inspurfs/default/test-path" {
		t.Errorf("the volume is %s:%s", pv.Spec.NFS.Server, pv.Spec.NFS.Path)
	}
	info, err := os.Stat(filepath.Join(folder, "default/test-path"))
	s.must(err)
	if info.Mode().Perm() != 0o777 {
		t.Errorf("its mode is %s", info.Mode())
	}
	for claim, at := range map[string]string{"old": "default/old-path", "test-claim": "default/test-path"} {
		s.deleteClaim(claim)
		s.until("the directory is gone", func() bool { return gone(filepath.Join(folder, at)) })
	}
	s.wantFile(filepath.Join(folder, "default/kept-path/file"), "data of kept")

	// What Berth does without is told, and nothing any more when the role has it.
	const without = "Berth works without a permission that it should have; see deploy/rbac"
	for _, resource := range []string{"namespaces", "leases", "persistentvolumes"} {
		if !strings.Contains(running.Log(), without) || !strings.Contains(running.Log(), "resource="+resource) {
			t.Errorf("the log does not say that it lacks %s", resource)
		}
	}
	s.apply("deploy/from-nfs-subdir")
	s.kubectl("rollout", "restart", "deployment/nfs-client-provisioner")
	s.kubectl("rollout", "status", "--timeout=1m", "deployment/nfs-client-provisioner")
	again := s.ready(n)
	s.until("it serves claims", func() bool { return strings.Contains(again.Log(), "serving claims") })
	if strings.Contains(again.Log(), without) {
		t.Errorf("with all permissions the log says:\n%s", again.Log())
	}
	// What was adopted without them is still Berth's.
	s.deleteClaim("kept")
	s.until("the directory is gone", func() bool { return gone(filepath.Join(folder, "default/kept-path")) })
	if slices.ContainsFunc(s.volumes(), func(v v1.PersistentVolume) bool { return v.Name == kept.Name }) {
		t.Errorf("the PersistentVolume %s is still there", kept.Name)
	}
}

// The page about moving is followed to the letter.
func TestMovingFromNFSSubdir(t *testing.T) {
	s := newOldSite(t)
	folder := t.TempDir()
	s.must(os.Chmod(folder, 0o755))
	pv := s.old(folder, "old", "default/old-path", "managed-nfs-storage")
	work := t.TempDir()
	s.must(os.Mkdir(filepath.Join(work, ".kube"), 0o700))
	for from, to := range map[string]string{
		"deploy": filepath.Join(shared.repository, "deploy"), "test": filepath.Join(shared.repository, "test"), ".kube/config": shared.cluster.Kubeconfig(),
	} {
		s.must(os.Symlink(to, filepath.Join(work, from)))
	}
	s.deleteAfterwards(filepath.Join(shared.repository, "deploy/from-nfs-subdir"))

	var variables, printed string
	var n *node
	for _, block := range blocksOf(t, "migrate-nfs-subdir.md", "console") {
		for command := range strings.Lines(block) {
			command = strings.TrimSpace(command)
			switch words := strings.Fields(command); {
			case words[0] == "mount": // a folder stands for the share
				s.must(exec.CommandContext(t.Context(), "mount", "--bind", folder, words[len(words)-1]).Run())
				continue
			case words[0] == "export":
				variables += command + "\n"
				continue
			case strings.HasPrefix(command, "kubectl logs"):
				s.until("the volume is adopted", func() bool { return strings.Contains(s.ready(n).Log(), "volumes=1") })
				continue
			}
			cmd := exec.CommandContext(t.Context(), "sh", "-c", variables+command)
			cmd.Dir = work
			cmd.Env = append(os.Environ(), "HOME="+work, "PATH="+shared.cluster.Dir+":"+filepath.Join(shared.subdir.Rootfs, "usr/bin")+":"+os.Getenv("PATH"))
			output, err := cmd.CombinedOutput()
			if printed += string(output); err != nil {
				t.Fatalf("%s: %v\n%s", command, err, output)
			}
			if strings.HasPrefix(command, "kubectl set image") { // now there is a node that has it
				n = s.nodeWith(shared.subdir, map[string]string{oldShare.Server + ":" + oldShare.Path: folder})
			}
		}
	}
	if want := pv.Name + ": to be adopted: claim default/old, 1048576 bytes, default/old-path, on deletion: delete\n"; !strings.Contains(printed, want) {
		t.Errorf("%q is not said in:\n%s", want, printed)
	}
	s.deleteClaim("old")
	s.until("the directory is gone", func() bool { return gone(filepath.Join(folder, "default/old-path")) })
}
