//go:build system

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/nfs4"
)

// patience is how long anything may take before a test gives up. It is no
// measure of how long it should take.
const patience = 4 * time.Minute

// site is what a test has for itself: a namespace, a StorageClass of the same
// name, a provisioner, and the root of a pool that Berth serves on its own port.
type site struct {
	t          *testing.T
	client     kubernetes.Interface
	kubeconfig string
	name       string
	options    harness.Options // of its Berth
	watch      *harness.Watch
}

// sites are counted, so that a test that is run again gets new names.
var sites atomic.Int32

// newSite makes a site on the cluster of all tests.
func newSite(t *testing.T, name string) *site {
	t.Helper()
	return newSiteOn(t, shared.kubeconfig, shared.client, name)
}

func newSiteOn(t *testing.T, kubeconfig string, client kubernetes.Interface, name string) *site {
	t.Helper()
	s := &site{t: t, client: client, kubeconfig: kubeconfig, name: fmt.Sprintf("%s-%d", name, sites.Add(1))}
	port, err := harness.FreePort()
	s.must(err)
	s.options = harness.Options{
		Binary: shared.binary, Folder: newFolder(t), Root: filepath.Join(t.TempDir(), "root"),
		Provisioner: "e2e.berth.storage/" + s.name, Kubeconfig: kubeconfig, NFSPort: port,
		Ganesha: "gracePeriod: 0s", // nobody has to wait for clients that do not come back
	}
	s.must(os.Mkdir(s.options.Root, 0o755))
	namespace := &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.name}}
	_, err = client.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{})
	s.must(err)
	s.watch, err = harness.NewWatch(t.Context(), client, s.name)
	s.must(err)
	s.class(s.name)
	return s
}

// class makes a StorageClass of this site's provisioner. That comes before Berth is
// started: a claim that the controller manager sees before its class waits 15 s.
func (s *site) class(name string, edits ...func(*storagev1.StorageClass)) {
	s.t.Helper()
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: s.options.Provisioner}
	for _, edit := range edits {
		edit(class)
	}
	_, err := s.client.StorageV1().StorageClasses().Create(s.t.Context(), class, metav1.CreateOptions{})
	s.must(err)
}

// must fails the test on an error.
func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// until waits until done says so, and fails the test if that takes for ever.
func (s *site) until(what string, done func() bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	s.must(harness.Until(ctx, what, done))
}

// untilCount waits until count gives want.
func (s *site) untilCount(what string, want int, count func() int) {
	s.t.Helper()
	last := 0
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	if err := harness.Until(ctx, what, func() bool { last = count(); return last == want }); err != nil {
		s.t.Fatalf("%v: there are %d, want %d", err, last, want)
	}
}

// start starts Berth and waits until it serves NFS.
func (s *site) start() *harness.Berth {
	s.t.Helper()
	b := s.begin(s.options)
	s.ready(b)
	return b
}

// begin starts a Berth, which ends with the test at the latest.
func (s *site) begin(o harness.Options) *harness.Berth {
	s.t.Helper()
	b, err := harness.StartBerth(o)
	s.must(err)
	endWithTest(s.t, b)
	return b
}

// endWithTest has the test end b.
func endWithTest(t *testing.T, b *harness.Berth) {
	t.Cleanup(func() {
		if err := killAll(b); err != nil {
			t.Error(err)
		}
	})
}

// newFolder makes a folder for a Berth, and has the log in it read at the end of the
// test. Its path is short, as those of sockets have to be; t.TempDir's may not be.
func newFolder(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "") //nolint:usetesting // for its short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if text, err := os.ReadFile(filepath.Join(folder, "berth.log")); err == nil { // not every one starts
			checkLog(t, string(text))
		}
		if err := os.RemoveAll(folder); err != nil {
			t.Error(err)
		}
	})
	return folder
}

// checkLog looks for what the race detector says, and shows the end of the log of a
// Berth whose test has failed.
func checkLog(t *testing.T, text string) {
	t.Helper()
	if _, race, found := strings.Cut(text, "WARNING: DATA RACE\n"); found {
		race, _, _ = strings.Cut(race, "\n=====") // the end of the first one
		t.Errorf("Berth has a data race:\n%s", race)
	}
	if t.Failed() {
		t.Logf("the end of the log of Berth:\n%s", lastLines(text, 60))
	}
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func (s *site) ready(b *harness.Berth) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	s.must(b.Ready(ctx))
}

// mount gives a client of this site's NFS server. Like a hard mount it waits for
// a server that is away.
func (s *site) mount() *nfs4.Client {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	c, err := nfs4.Dial(ctx, s.options.Address(), nfs4.Options{})
	s.must(err)
	s.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return c
}
