//go:build system

package onhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/berth-storage/berth/test/cluster"
	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/vm"
)

// shared is what the tests have in common: a control plane, and a host.
var shared struct {
	host   *vm.Guest
	client kubernetes.Interface
}

// Where the host has things.
const (
	berthBinary = "/usr/local/bin/berth"
	kubeconfig  = "/host/kubeconfig"
)

func TestMain(m *testing.M) {
	status, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "onhost:", err)
		status = 1
	}
	os.Exit(status)
}

func runTests(m *testing.M) (status int, err error) {
	ctx := context.Background()
	folder, err := os.MkdirTemp("", "berth-onhost-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	binary, err := harness.Program(ctx, folder, "cmd/berth")
	if err != nil {
		return 1, err
	}
	var both sync.WaitGroup
	var control *cluster.Cluster
	var hostErr, controlErr error
	both.Go(func() { shared.host, hostErr = vm.Start(ctx, vm.Options{ZFS: true, Memory: 1536, Log: os.Stderr}) })
	both.Go(func() { control, controlErr = cluster.Start(ctx, cluster.Options{Log: os.Stderr}) })
	both.Wait()
	defer func() {
		if control != nil {
			err = errors.Join(err, control.Stop())
		}
		if shared.host != nil {
			err = errors.Join(err, shared.host.Stop())
		}
	}()
	if err := errors.Join(hostErr, controlErr); err != nil {
		return 1, err
	}
	if shared.client, err = harness.NewClient(control.Kubeconfig()); err != nil {
		return 1, err
	}
	api, err := harness.Forward(net.JoinHostPort(shared.host.Host, "0"), strings.TrimPrefix(control.Server(), "https://"))
	if err != nil {
		return 1, err
	}
	defer api.Close()
	config, err := control.ClientKubeconfig("admin", []string{"system:masters"}, "https://"+api.Addr().String())
	if err != nil {
		return 1, err
	}
	if err := os.WriteFile(filepath.Join(shared.host.Shared, filepath.Base(kubeconfig)), config, 0o600); err != nil {
		return 1, err
	}
	if err := shared.host.Put(ctx, binary, berthBinary); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// patience is how long anything may take before a test gives up. It is no measure of
// how long it should take.
const patience = 8 * time.Minute

// site is a test's own: a namespace and a StorageClass of the same name.
type site struct {
	*vm.Guest
	t           *testing.T
	ctx         context.Context
	name        string
	provisioner string
}

func newSite(t *testing.T, name string) *site {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	s := &site{Guest: shared.host, t: t, ctx: ctx, name: name, provisioner: "example.com/" + name}
	_, err := shared.client.CoreV1().Namespaces().Create(ctx, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	s.must(err)
	s.class(name, nil)
	return s
}

func (s *site) class(name string, parameters map[string]string) {
	s.t.Helper()
	_, err := shared.client.StorageV1().StorageClasses().Create(s.ctx, &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: s.provisioner, Parameters: parameters,
	}, metav1.CreateOptions{})
	s.must(err)
}

// must fails the test on an error.
func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) until(what string, done func() bool) {
	s.t.Helper()
	s.must(harness.Until(s.ctx, what, done))
}

// sh runs a shell script on the host.
func (s *site) sh(script string, args ...string) string {
	s.t.Helper()
	out, err := s.Run(s.ctx, append([]string{"sh", "-ec", script, "sh"}, args...)...)
	s.must(err)
	return out
}

// berth is a Berth on the host.
type berth struct {
	s     *site
	log   string // a file
	ended chan error
	stop  context.CancelFunc
}

const httpPort = "9421"

// berth starts Berth with these arguments.
func (s *site) berth(args ...string) *berth {
	s.t.Helper()
	return s.start(append([]string{berthBinary}, args...)...)
}

// start starts Berth by a command. It ends with the test at the latest.
func (s *site) start(command ...string) *berth {
	s.t.Helper()
	log, err := os.CreateTemp(s.Shared, "berth-*.log")
	s.must(err)
	ctx, stop := context.WithCancel(s.ctx)
	b := &berth{s: s, log: log.Name(), ended: make(chan error, 1), stop: stop}
	go func() {
		defer log.Close()
		b.ended <- s.Exec(ctx, vm.Command{Args: command, Stdout: log, Stderr: log})
	}()
	s.t.Cleanup(func() {
		b.kill()
		if s.t.Failed() {
			s.t.Logf("the log of Berth:\n%s", b.text())
		}
	})
	return b
}

func (b *berth) text() string {
	text, err := os.ReadFile(b.log)
	b.s.must(err)
	return string(text)
}

// kill ends Berth at once, if it runs.
func (b *berth) kill() {
	b.stop()
	b.ended <- <-b.ended // for the next one who asks
}

// readyz is the status of /readyz, 0 if nobody answers.
func (b *berth) readyz() int {
	status, _ := b.probe()
	return status
}

// probe asks /readyz, and gives its status, 0 if nobody answers, and what it says.
func (b *berth) probe() (status int, text string) {
	response, err := http.Get("http://" + net.JoinHostPort(b.s.Address, httpPort) + "/readyz")
	if err != nil {
		return 0, ""
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	b.s.must(err)
	return response.StatusCode, string(body)
}

func (b *berth) untilReady() {
	b.s.t.Helper()
	b.s.until("Berth is ready", func() bool {
		select {
		case err := <-b.ended:
			b.ended <- err
			b.s.t.Fatalf("Berth has ended: %v", err)
		default:
		}
		return b.readyz() == http.StatusOK
	})
}

// claim makes a claim, waits until it is bound, and gives its volume.
func (s *site) claim(name, class string) *v1.PersistentVolume {
	s.t.Helper()
	claims := shared.client.CoreV1().PersistentVolumeClaims(s.name)
	_, err := claims.Create(s.ctx, harness.NewClaim(s.name, name, class), metav1.CreateOptions{})
	s.must(err)
	return s.bound(name)
}

func (s *site) bound(name string) *v1.PersistentVolume {
	s.t.Helper()
	var volume string
	s.until("claim "+name+" is bound", func() bool {
		c, err := shared.client.CoreV1().PersistentVolumeClaims(s.name).Get(s.ctx, name, metav1.GetOptions{})
		s.must(err)
		volume = c.Spec.VolumeName
		return c.Status.Phase == v1.ClaimBound
	})
	pv, err := shared.client.CoreV1().PersistentVolumes().Get(s.ctx, volume, metav1.GetOptions{})
	s.must(err)
	return pv
}

// deleteClaim deletes a claim and waits until its volume is gone.
func (s *site) deleteClaim(name string, pv *v1.PersistentVolume) {
	s.t.Helper()
	s.must(shared.client.CoreV1().PersistentVolumeClaims(s.name).Delete(s.ctx, name, metav1.DeleteOptions{}))
	s.until("the volume of "+name+" is gone", func() bool {
		_, err := shared.client.CoreV1().PersistentVolumes().Get(s.ctx, pv.Name, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			s.must(err)
			return false
		}
		return true
	})
}

// mount mounts a volume as a node would, with more options, and gives the folder. It
// is unmounted with the test.
func (s *site) mount(pv *v1.PersistentVolume, options string) string {
	s.t.Helper()
	nfs := pv.Spec.NFS
	dir := strings.TrimSpace(s.sh(`dir=$(mktemp -d); mount -t nfs -o "$3" "$1:$2" "$dir"; echo "$dir"`, nfs.Server, nfs.Path, options))
	s.t.Cleanup(func() { // there may be nothing to unmount any more
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := s.Run(ctx, "sh", "-ec", `! grep -q " $1 " /proc/self/mounts || umount -l "$1"`, "sh", dir); err != nil {
			s.t.Error(err)
		}
	})
	return dir
}
