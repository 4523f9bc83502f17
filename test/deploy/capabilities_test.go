//go:build system

package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/nfs4"
	"github.com/berth-storage/berth/test/pod"
)

// trial is a Berth whose pod lacks a capability of the manifest, or none, with a
// provisioner name of its own.
type trial struct {
	t    *testing.T
	name string
	p    *pod.Pod
}

// needs say what each capability of the manifests is there for. Each has to work with
// all of them, and not without its own.
var needs = map[string]struct {
	what string
	do   func(context.Context, *trial) error
}{
	"CHOWN":            {"a volume's directory is given its owner", ownedVolume},
	"FSETID":           {"a volume's directory keeps the setgid bit of a group that root is not in", ownedVolume},
	"DAC_READ_SEARCH":  {"files are opened by their handles", readAndWrite},
	"SETUID":           {"users of clients, and rpcbind, act as who they are", readAndWrite},
	"SETGID":           {"so do groups", readAndWrite},
	"DAC_OVERRIDE":     {"root of a client writes to what is another's", writeAsRoot},
	"FOWNER":           {"root of a client changes the mode of what is another's", chmodAsRoot},
	"NET_BIND_SERVICE": {"rpcbind and rpc.statd have ports below 1024", serveNFSv3},
	"SETPCAP":          {"rpc.statd gives up its capabilities", serveNFSv3},
	"KILL":             {"rpcbind, which has another user, is ended with the NFS server", restartNFSv3},
}

// user is an ordinary one of clients.
const user = 1000

// A client that finds no server is tried again until this is over: without its
// capability, a server may never come up.
const enough = 20 * time.Second

func ownedVolume(ctx context.Context, t *trial) error {
	name, err := t.volume(ctx, "owned")
	if err != nil {
		return err
	}
	info, err := os.Stat(filepath.Join(t.p.Volume("export"), name))
	if err == nil && (info.Mode()&os.ModeSetgid == 0 || info.Mode().Perm() != 0o770) {
		err = fmt.Errorf("the directory's mode is %s", info.Mode())
	}
	return err
}

// readAndWrite has a user write a file, by NFSv4, and looks whose it is on the disk.
func readAndWrite(ctx context.Context, t *trial) error {
	name, err := t.volume(ctx, "open")
	if err != nil {
		return err
	}
	c, err := nfs4.Dial(ctx, t.p.IP+":2049", nfs4.Options{UID: user, GID: user, Soft: true})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.WriteFile(ctx, "/export/"+name+"/file", []byte("text"), 0o640); err != nil {
		return err
	}
	if text, err := c.ReadFile(ctx, "/export/"+name+"/file"); err != nil || string(text) != "text" {
		return fmt.Errorf("read %q, %w", text, err)
	}
	owner, err := exec.CommandContext(ctx, "stat", "-c", "%u:%g", filepath.Join(t.p.Volume("export"), name, "file")).Output()
	if want := fmt.Sprintf("%d:%d\n", user, user); err == nil && string(owner) != want {
		err = fmt.Errorf("the file's owner is %s, want %s", owner, want)
	}
	return err
}

func writeAsRoot(ctx context.Context, t *trial) error {
	return t.asRoot(ctx, func(c *nfs4.Client, file string) error { return c.WriteFile(ctx, file, []byte("root's"), 0o640) })
}

func chmodAsRoot(ctx context.Context, t *trial) error {
	return t.asRoot(ctx, func(c *nfs4.Client, file string) error { return c.Chmod(ctx, file, 0o600) })
}

// asRoot does something as a client's root, whom the class does not squash, to a
// user's file that is for the user only.
func (t *trial) asRoot(ctx context.Context, do func(c *nfs4.Client, file string) error) error {
	name, err := t.volume(ctx, "open")
	if err != nil {
		return err
	}
	file := filepath.Join(t.p.Volume("export"), name, "private")
	if err := os.WriteFile(file, nil, 0o400); err != nil {
		return err
	}
	if err := os.Chown(file, user, user); err != nil {
		return err
	}
	c, err := nfs4.Dial(ctx, t.p.IP+":2049", nfs4.Options{Soft: true})
	if err != nil {
		return err
	}
	defer c.Close()
	return do(c, "/export/"+name+"/private")
}

// serveNFSv3 has a file read by NFSv3, which asks rpcbind and mountd, and looks for rpc.statd.
func serveNFSv3(ctx context.Context, t *trial) error {
	name, err := t.volume(ctx, "open")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(t.p.Volume("export"), name, "file"), []byte("text"), 0o644); err != nil {
		return err
	}
	text, err := exec.CommandContext(ctx, "nfs-cat", "nfs://"+t.p.IP+"/export/"+name+"/file?version=3").CombinedOutput()
	if err != nil || string(text) != "text" {
		return fmt.Errorf("by NFSv3: %w: %s", err, text)
	}
	list, err := exec.CommandContext(ctx, "rpcinfo", "-p", t.p.IP).CombinedOutput()
	if err == nil && !strings.Contains(string(list), " 100024 ") {
		err = fmt.Errorf("rpc.statd is not there: %s", list)
	}
	return err
}

// restartNFSv3 kills the NFS server, which all its helpers have to follow: a rpcbind that
// stays would be taken for the host's, with rpc.statd.
func restartNFSv3(ctx context.Context, t *trial) error {
	before, err := t.p.Processes("rpcbind")
	if err != nil || len(before) != 1 {
		return fmt.Errorf("rpcbind: processes %d, %w", before, err)
	}
	if err := t.p.KillProcess("ganesha.nfsd"); err != nil {
		return err
	}
	return harness.Until(ctx, "another rpcbind runs", func() bool {
		now, err := t.p.Processes("rpcbind")
		return err == nil && len(now) == 1 && now[0] != before[0]
	})
}

// volume makes a claim of one of the trial's classes and gives the volume's name.
func (t *trial) volume(ctx context.Context, class string) (string, error) {
	claims := shared.client.CoreV1().PersistentVolumeClaims(namespace)
	claim, err := claims.Create(ctx, &v1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "claim-"},
		Spec:       harness.NewClaim("", "", class+"-"+t.name).Spec,
	}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	volume := ""
	err = harness.Until(ctx, "the claim is bound", func() bool {
		c, err := claims.Get(ctx, claim.Name, metav1.GetOptions{})
		if err == nil {
			volume = c.Spec.VolumeName
		}
		return volume != ""
	})
	return volume, err
}

// Volumes work with the capabilities of the manifests, and each of these is needed.
func TestCapabilities(t *testing.T) {
	s := newSite(t)
	n := s.node()
	s.apply("deploy/common")
	spec := s.podSpec("pod-emptydir")
	granted := spec.Containers[0].SecurityContext.Capabilities.Add
	if len(granted) != len(needs) {
		t.Errorf("the manifests give %d capabilities, and there are %d needs", len(granted), len(needs))
	}
	all := newTrial(t, n, spec, "")
	lacking := map[v1.Capability]*trial{}
	for _, c := range granted {
		lacking[c] = newTrial(t, n, spec, c)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, c := range granted {
		if err := all.try(ctx, needs[string(c)].do); err != nil {
			t.Errorf("%s: %v", needs[string(c)].what, err)
		}
	}
	// At the same time, since some of them wait in vain for a server to come up.
	ctx, cancel = context.WithTimeout(t.Context(), enough)
	defer cancel()
	var trials sync.WaitGroup
	for c, trial := range lacking {
		trials.Go(func() {
			err := trial.try(ctx, needs[string(c)].do)
			if err == nil {
				t.Errorf("%s: that works without %s too", needs[string(c)].what, c)
			}
			t.Logf("without %s: %v", c, err)
		})
	}
	trials.Wait()
}

// newTrial makes a pod without that capability, and classes for it.
func newTrial(t *testing.T, n *node, spec v1.PodSpec, without v1.Capability) *trial {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	name := strings.ToLower(strings.ReplaceAll("trial-"+string(without), "_", "-")) + "-x"
	spec = *spec.DeepCopy()
	spec.TerminationGracePeriodSeconds = new(int64(1)) // some cannot end in order
	c := &spec.Containers[0]
	c.Args = []string{"-provisioner=example.com/" + name, "-http-listen=:9421", noGrace}
	c.SecurityContext.Capabilities.Add = slices.DeleteFunc(c.SecurityContext.Capabilities.Add, func(c v1.Capability) bool { return c == without })
	for class, parameters := range map[string]map[string]string{"open": nil, "owned": {"uid": "2000", "gid": "3000", "mode": "2770"}} {
		classes := shared.client.StorageV1().StorageClasses()
		object := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: class + "-" + name}, Provisioner: "example.com/" + name, Parameters: parameters}
		_, err := classes.Create(t.Context(), object, metav1.CreateOptions{})
		must(err)
		t.Cleanup(func() {
			if err := classes.Delete(context.Background(), object.Name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	_, err := shared.client.CoreV1().Pods(namespace).Create(t.Context(), &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
	must(err)
	must(harness.Until(t.Context(), "the pod is on the node", func() bool { return n.Pod(namespace, name) != nil }))
	return &trial{t, name, n.Pod(namespace, name)}
}

// try waits for the pod to be ready and does something with it.
func (t *trial) try(ctx context.Context, do func(context.Context, *trial) error) error {
	err := harness.Until(ctx, "the pod is ready", func() bool {
		status, _ := get("http://" + t.p.IP + ":9421/readyz")
		return status == 200
	})
	if err != nil {
		lines := strings.Split(strings.TrimSpace(t.p.Log()), "\n")
		return errors.Join(err, errors.New(lines[len(lines)-1]))
	}
	return do(ctx, t)
}
