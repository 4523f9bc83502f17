//go:build system

package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/test/harness"
)

// shared is what the tests have in common.
var shared struct {
	node   *Node
	binary string // Berth's
}

func TestMain(m *testing.M) {
	status, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		status = 1
	}
	os.Exit(status)
}

func runTests(m *testing.M) (status int, err error) {
	ctx := context.Background()
	folder, err := os.MkdirTemp("", "berth-node-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	if shared.binary, err = harness.Program(ctx, folder, "cmd/berth"); err != nil {
		return 1, err
	}
	if shared.node, err = Start(ctx, os.Stderr); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, shared.node.Stop()) }()
	return m.Run(), nil
}

// patience is how long anything may take before a test gives up. It is no measure of
// how long it should take.
const patience = 8 * time.Minute

// provisioner is the name in the documents' classes.
const provisioner = "example.com/nfs"

// site is a test's own: a namespace and a StorageClass, and a Berth whose NFS server
// the node reaches.
type site struct {
	*Node
	t    *testing.T
	ctx  context.Context
	name string // of the namespace and the class
	// inPool lists a folder of the pool, or nothing if it is not there.
	inPool func(folder string) []string

	// Of a Berth on the host.
	options harness.Options
	berth   *harness.Berth
}

// newSite makes a site with a Berth on the host.
func newSite(t *testing.T, name string, edits ...func(*storagev1.StorageClass)) *site {
	t.Helper()
	s := newSiteWithoutBerth(t, name, edits...)
	folder, err := os.MkdirTemp("", "") //nolint:usetesting // for its short path, as those of sockets have to be
	s.must(err)
	s.options = harness.Options{
		Binary: shared.binary, Folder: folder, Root: filepath.Join(folder, "root"), Provisioner: provisioner,
		Kubeconfig: s.Cluster.Kubeconfig(),
		// A PersistentVolume does not name a port.
		NFSHost: s.Host, NFSPort: 2049,
		Ganesha: "gracePeriod: 5s",
	}
	s.must(os.Mkdir(s.options.Root, 0o755))
	s.inPool = func(folder string) (names []string) {
		entries, err := os.ReadDir(filepath.Join(s.options.Root, folder))
		if !errors.Is(err, os.ErrNotExist) {
			s.must(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	s.berth, err = harness.StartBerth(s.options)
	s.must(err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the log of Berth:\n%s", s.berth.Log())
		}
		if err := s.berth.Stop(); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(folder); err != nil {
			t.Error(err)
		}
	})
	s.must(s.berth.Ready(s.ctx))
	return s
}

func newSiteWithoutBerth(t *testing.T, name string, edits ...func(*storagev1.StorageClass)) *site {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	s := &site{Node: shared.node, t: t, ctx: ctx, name: name}
	_, err := s.Client.CoreV1().Namespaces().Create(ctx, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	s.must(err)
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, MountOptions: []string{"vers=4.1"}}
	for _, edit := range edits {
		edit(class)
	}
	_, err = s.Client.StorageV1().StorageClasses().Create(ctx, class, metav1.CreateOptions{})
	s.must(err)
	return s
}

// must fails the test on an error.
func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// until waits until done says so.
func (s *site) until(what string, done func() bool) {
	s.t.Helper()
	s.must(until(s.ctx, what, done))
}

// claim makes a claim and waits until it is bound. It gives the folder of its volume
// on the host.
func (s *site) claim(name string) (folder string) {
	s.t.Helper()
	claims := s.Client.CoreV1().PersistentVolumeClaims(s.name)
	_, err := claims.Create(s.ctx, harness.NewClaim(s.name, name, s.name), metav1.CreateOptions{})
	s.must(err)
	s.until("claim "+name+" is bound", func() bool {
		c, err := claims.Get(s.ctx, name, metav1.GetOptions{})
		s.must(err)
		folder = filepath.Join(s.options.Root, c.Spec.VolumeName)
		return c.Status.Phase == v1.ClaimBound
	})
	return folder
}

func (s *site) deleteClaim(name string) {
	s.t.Helper()
	s.must(s.Client.CoreV1().PersistentVolumeClaims(s.name).Delete(s.ctx, name, metav1.DeleteOptions{}))
}

// claimIs is the claim now, or nil if it is gone.
func (s *site) claimIs(name string) *v1.PersistentVolumeClaim {
	s.t.Helper()
	c, err := s.Client.CoreV1().PersistentVolumeClaims(s.name).Get(s.ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	s.must(err)
	return c
}

// pod is a pod of this site with the claim.
func (s *site) pod(name, claim, script string) *v1.Pod { return NewPod(s.name, name, claim, script) }

// create makes pods. Several at once take little longer than one.
func (s *site) create(pods ...*v1.Pod) {
	s.t.Helper()
	for _, pod := range pods {
		s.must(s.CreatePod(s.ctx, pod))
	}
}

// ends waits until a pod has ended, which must be with the exit code, and gives its log.
func (s *site) ends(pod *v1.Pod, code int) (log string) {
	s.t.Helper()
	outcome, err := s.AwaitPod(s.ctx, pod)
	s.must(err)
	if outcome.ExitCode != code {
		s.t.Errorf("pod %s ended with exit code %d, want %d; it printed:\n%s", pod.Name, outcome.ExitCode, code, outcome.Log)
	}
	return outcome.Log
}

// clear deletes the claim and all pods, and waits until nothing is left of the volume.
func (s *site) clear(claim string) {
	s.t.Helper()
	s.deleteClaim(claim)
	pods, err := s.Client.CoreV1().Pods(s.name).List(s.ctx, metav1.ListOptions{})
	s.must(err)
	for _, pod := range pods.Items {
		s.must(s.DeletePod(s.ctx, &pod))
	}
	for _, pod := range pods.Items {
		s.must(s.AwaitGone(s.ctx, &pod))
	}
	s.untilNothingIsLeft()
}

// untilNothingIsLeft waits until no volume is left: in the cluster, on the node and
// in the pool.
func (s *site) untilNothingIsLeft() {
	s.t.Helper()
	s.until("no claim and no PersistentVolume is left", func() bool {
		claims, err := s.Client.CoreV1().PersistentVolumeClaims(s.name).List(s.ctx, metav1.ListOptions{})
		s.must(err)
		volumes, err := s.Client.CoreV1().PersistentVolumes().List(s.ctx, metav1.ListOptions{})
		s.must(err)
		return len(claims.Items) == 0 && len(volumes.Items) == 0
	})
	s.until("nothing is left in the pool", func() bool {
		return slices.Equal(s.inPool(""), []string{".berth"}) && len(s.inPool(".berth/volumes"))+len(s.inPool(".berth/trash")) == 0
	})
	mounts, err := s.Run(s.ctx, "cat", "/proc/mounts")
	s.must(err)
	if strings.Contains(mounts, " nfs ") || strings.Contains(mounts, " nfs4 ") {
		s.t.Errorf("the node still has NFS mounted:\n%s", mounts)
	}
}
