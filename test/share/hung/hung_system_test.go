//go:build system

package hung

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/berth-storage/berth/test/cluster"
	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/vm"
)

// patience is how long anything may take before a test gives up. It is no measure of
// how long it should take.
const patience = 4 * time.Minute

const (
	namespace   = "default"
	provisioner = "example.com/nas"
	cut         = `iptables-legacy -I INPUT -p tcp --dport 2049 -j DROP`
	uncut       = `iptables-legacy -D INPUT -p tcp --dport 2049 -j DROP`
)

// configuration has Berth mount the share nas of this host, and export the pool local.
const configuration = `
pools:
- name: nas
  provisioner: ` + provisioner + `
  subdir: {server: 127.0.0.1, path: /srv/nas, mountOptions: [%s]}
- name: local
  provisioner: ` + provisioner + `
  dir: {root: /srv/local}
ganesha: {port: 20490, gracePeriod: 0s}
server: {hostname: 127.0.0.1}
kubernetes: {kubeconfig: /etc/berth/kubeconfig}
http: {listen: ":9421"}
`

// site is the guest with a server and Berth, and the control plane.
type site struct {
	*vm.Guest
	t      *testing.T
	ctx    context.Context
	client kubernetes.Interface
}

func newSite(t *testing.T, mountOptions string) *site {
	t.Helper()
	s := &site{t: t, ctx: t.Context()}
	log := t.Output()
	control, err := cluster.Start(s.ctx, cluster.Options{Log: log})
	s.must(err)
	t.Cleanup(func() {
		if err := control.Stop(); err != nil {
			t.Error(err)
		}
	})
	s.client, err = harness.NewClient(control.Kubeconfig())
	s.must(err)
	s.Guest, err = vm.Start(s.ctx, vm.Options{Log: log})
	s.must(err)
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	api, err := harness.Forward(net.JoinHostPort(s.Host, "0"), strings.TrimPrefix(control.Server(), "https://"))
	s.must(err)
	t.Cleanup(func() { api.Close() })
	kubeconfig, err := control.ClientKubeconfig("admin", []string{"system:masters"}, "https://"+api.Addr().String())
	s.must(err)
	s.must(os.WriteFile(filepath.Join(s.Shared, "kubeconfig"), kubeconfig, 0o600))
	s.must(os.WriteFile(filepath.Join(s.Shared, "berth.yaml"), fmt.Appendf(nil, configuration, mountOptions), 0o600))
	folder := t.TempDir()
	binary, err := harness.Program(s.ctx, folder, "cmd/berth")
	s.must(err)
	s.must(s.Put(s.ctx, binary, "/usr/local/bin/berth"))
	s.must(vm.StartNFSD(s.ctx, s))
	s.sh(`modprobe nfs; mkdir -p /etc/berth /srv/nas /srv/local; cp /host/kubeconfig /host/berth.yaml /etc/berth
exportfs -o rw,insecure,no_root_squash,no_subtree_check '*:/srv/nas'`)
	for _, pool := range []string{"nas", "local"} {
		s.must(harness.CreateClass(s.ctx, s.client, pool, provisioner, map[string]string{"pool": pool}))
	}
	return s
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// sh runs a shell script in the guest.
func (s *site) sh(script string) string {
	s.t.Helper()
	out, err := s.Run(s.ctx, "sh", "-ec", script)
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", script, err, s.log())
	}
	return out
}

func (s *site) log() string {
	text, err := s.Run(context.WithoutCancel(s.ctx), "cat", "/var/log/berth.log")
	return fmt.Sprintf("the log of Berth: %v\n%s", err, text)
}

func (s *site) start() {
	s.t.Helper()
	s.sh(`setsid berth serve --config /etc/berth/berth.yaml >>/var/log/berth.log 2>&1 </dev/null & echo $! >/run/berth.pid`)
}

// stop has Berth end, and gives how the shell saw that.
func (s *site) stop() {
	s.t.Helper()
	s.sh(`kill $(cat /run/berth.pid); while [ -d /proc/$(cat /run/berth.pid) ]; do sleep 0.1; done`)
}

// until waits until done, which asks the API server or Berth, says so.
func (s *site) until(what string, done func() bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	err := harness.Until(ctx, what, func() bool {
		if done() {
			return true
		}
		time.Sleep(200 * time.Millisecond)
		return false
	})
	if err != nil {
		s.t.Fatalf("%v\n%s", err, s.log())
	}
}

func (s *site) claim(name, class string) {
	s.t.Helper()
	_, err := s.client.CoreV1().PersistentVolumeClaims(namespace).Create(s.ctx, harness.NewClaim(namespace, name, class), metav1.CreateOptions{})
	s.must(err)
}

func (s *site) bound(name string) bool {
	s.t.Helper()
	c, err := s.client.CoreV1().PersistentVolumeClaims(namespace).Get(s.ctx, name, metav1.GetOptions{})
	s.must(err)
	return c.Status.Phase == v1.ClaimBound
}

func (s *site) untilBound(names ...string) {
	s.t.Helper()
	for _, name := range names {
		s.until("claim "+name+" is bound", func() bool { return s.bound(name) })
	}
}

// delete deletes a claim and gives the name of its PersistentVolume.
func (s *site) delete(name string) (pv string) {
	s.t.Helper()
	claims := s.client.CoreV1().PersistentVolumeClaims(namespace)
	c, err := claims.Get(s.ctx, name, metav1.GetOptions{})
	s.must(err)
	s.must(claims.Delete(s.ctx, name, metav1.DeleteOptions{}))
	return c.Spec.VolumeName
}

// volumes gives the names of all PersistentVolumes.
func (s *site) volumes() string {
	s.t.Helper()
	list, err := s.client.CoreV1().PersistentVolumes().List(s.ctx, metav1.ListOptions{})
	s.must(err)
	var names []string
	for _, pv := range list.Items {
		names = append(names, pv.Name)
	}
	return strings.Join(names, " ")
}

// told says whether an event on a claim has a text.
func (s *site) told(claim, text string) bool {
	s.t.Helper()
	events, err := s.client.CoreV1().Events(namespace).List(s.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + claim})
	s.must(err)
	for _, e := range events.Items {
		if strings.Contains(e.Message, text) {
			return true
		}
	}
	return false
}

// page asks Berth for a page; "" if it does not answer.
func (s *site) page(path string) string {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.ctx, http.MethodGet, "http://"+net.JoinHostPort(s.Address, "9421")+path, http.NoBody)
	s.must(err)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	s.must(err)
	return string(text)
}

func TestAShareThatHangsKeepsNothingElseWaiting(t *testing.T) {
	for _, options := range []string{"vers=4.2", "vers=4.1,hard"} {
		t.Run(options, func(t *testing.T) {
			t.Parallel() // each has a guest and a control plane of its own, and mostly waits
			s := newSite(t, options)
			s.start()
			for _, class := range []string{"nas", "local"} {
				s.claim(class+"-1", class)
			}
			s.untilBound("nas-1", "local-1")
			s.until("the metric says so", func() bool { return strings.Contains(s.page("/metrics"), `berth_pool_available{pool="nas"} 1`) })

			s.sh(cut)
			s.claim("nas-2", "nas")
			s.until("the share is told of", func() bool {
				return strings.Contains(s.page("/readyz"), "serving NFS; pool nas is not available: the share 127.0.0.1:/srv/nas: does not answer")
			})
			if text := s.page("/healthz"); !strings.Contains(text, "the NFS server answers") {
				t.Errorf("/healthz says %q", text)
			}
			if text := s.page("/metrics"); !strings.Contains(text, `berth_pool_available{pool="nas"} 0`) || !strings.Contains(text, `berth_pool_available{pool="local"} 1`) {
				t.Error("the metric does not tell the pools apart")
			}
			s.claim("local-2", "local")
			s.untilBound("local-2")
			gone := s.delete("local-1")
			s.until("its PersistentVolume is gone", func() bool { return !strings.Contains(s.volumes(), gone) })
			s.until("the claim is told", func() bool { return s.told("nas-2", "the share 127.0.0.1:/srv/nas: does not answer") })
			late := s.delete("nas-1")

			// The end, and a start, do not wait for it either.
			s.stop()
			s.start()
			s.claim("local-3", "local")
			s.untilBound("local-3")
			s.until("the share is told of again", func() bool { return strings.Contains(s.page("/readyz"), "serving NFS; pool nas is not available") })
			if !strings.Contains(s.volumes(), late) || s.bound("nas-2") {
				t.Error("something was done on a share that hangs")
			}

			s.sh(uncut)
			s.untilBound("nas-2")
			s.until("the deleted volume is gone", func() bool { return !strings.Contains(s.volumes(), late) })
			s.until("its directory, too", func() bool {
				return strings.TrimSpace(s.sh(`ls /srv/nas | wc -l`)) == "1"
			})
			s.stop()
			if mounts := s.sh(`cat /proc/mounts`); strings.Contains(mounts, "/srv/nas") {
				t.Errorf("the share is still mounted:\n%s", mounts)
			}
		})
	}
}
