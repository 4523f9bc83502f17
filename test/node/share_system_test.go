//go:build system

package node

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/image"
)

// article is the Deployment that users of nfs-subdir-external-provisioner know, with
// Berth's image. There is no Service of the API server here, so it has a kubeconfig, and
// the network of the node, since that of pods does not reach the API server.
const article = `
apiVersion: v1
kind: Secret
metadata: {name: kubeconfig, namespace: %[1]s}
data: {config: %[2]s}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: nfs-client-provisioner, namespace: %[1]s}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector: {matchLabels: {app: nfs-client-provisioner}}
  template:
    metadata: {labels: {app: nfs-client-provisioner}}
    spec:
      automountServiceAccountToken: false
      hostNetwork: true
      containers:
      - name: nfs-client-provisioner
        image: berth-nfs-subdir
        imagePullPolicy: IfNotPresent
        env:
        - {name: PROVISIONER_NAME, value: k8s-sigs.io/nfs-subdir-external-provisioner}
        - {name: NFS_SERVER, value: %[3]s}
        - {name: NFS_PATH, value: %[4]s}
        - {name: KUBECONFIG, value: /etc/kubeconfig/config}
        volumeMounts:
        - {name: nfs-client-root, mountPath: /persistentvolumes}
        - {name: kubeconfig, mountPath: /etc/kubeconfig}
      volumes:
      - {name: nfs-client-root, nfs: {server: %[3]s, path: %[4]s}}
      - {name: kubeconfig, secret: {secretName: kubeconfig}}
`

// newSiteOnShare makes a site with a share of the guest's own NFS server, and Berth's pod
// with that. The class is the article's.
func newSiteOnShare(t *testing.T, name string) (s *site, share string) {
	t.Helper()
	startKernelServer(t)
	s = newSiteWithoutBerth(t, name, func(c *storagev1.StorageClass) {
		c.Provisioner = "k8s-sigs.io/nfs-subdir-external-provisioner"
		c.Parameters = map[string]string{"pathPattern": "${.PVC.namespace}/${.PVC.annotations.nfs.io/storage-path}", "archiveOnDelete": "false"}
	})
	share = "/srv/" + name
	_, err := s.Run(s.ctx, "mkdir", "-p", share)
	s.must(err)
	_, err = s.Run(s.ctx, "exportfs", "-o", "rw,no_root_squash,no_subtree_check,insecure,fsid=70", "*:"+share)
	s.must(err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := s.Run(ctx, "exportfs", "-u", "*:"+share); err != nil {
			t.Error(err)
		}
	})
	built, err := image.Build(s.ctx, t.TempDir(), os.Stderr, image.NFSSubdir)
	s.must(err)
	s.must(s.Put(s.ctx, built[image.NFSSubdir].Archive, "/var/tmp/berth.oci.tar"))
	_, err = s.Run(s.ctx, "ctr", "-n", "k8s.io", "images", "import", "/var/tmp/berth.oci.tar")
	s.must(err)
	_, err = s.Cluster.KubectlApply(s.ctx, fmt.Appendf(nil, article, name, base64.StdEncoding.EncodeToString(s.Kubeconfig), s.Address, share))
	s.must(err)
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		pods, err := s.provisioners(ctx)
		t.Logf("pods of Berth: %d, %v", len(pods), err)
		for _, pod := range pods {
			log, err := s.PodLog(ctx, &pod)
			t.Logf("the log of Berth: %v\n%s\n%s", err, log, s.eventsOf(&pod))
		}
	})
	return s, share
}

// provisioners are the pods of the article's Deployment.
func (s *site) provisioners(ctx context.Context) ([]v1.Pod, error) {
	pods, err := s.Client.CoreV1().Pods(s.name).List(ctx, metav1.ListOptions{LabelSelector: "app=nfs-client-provisioner"})
	return pods.Items, err
}

// claimAt makes a claim with the article's annotation; without it if path is "".
func (s *site) claimAt(name, path string) {
	s.t.Helper()
	claim := harness.NewClaim(s.name, name, s.name)
	if path != "" {
		claim.Annotations = map[string]string{"nfs.io/storage-path": path}
	}
	_, err := s.Client.CoreV1().PersistentVolumeClaims(s.name).Create(s.ctx, claim, metav1.CreateOptions{})
	s.must(err)
}

// The article's walk with a share that is there already, from its Deployment to the end.
func TestArticleOfNFSSubdir(t *testing.T) {
	s, share := newSiteOnShare(t, "article")
	s.claimAt("test-claim", "test-path")
	s.until("the claim is bound", func() bool { return s.claimIs("test-claim").Status.Phase == v1.ClaimBound })
	writer := s.pod("test-pod", "test-claim", "touch /mnt/SUCCESS && exit 0 || exit 1")
	reader := s.pod("run-test-pod", "test-claim", "test -f /mnt/SUCCESS && mount | grep ' /mnt '")
	s.create(writer)
	s.ends(writer, 0)
	s.create(reader)
	if log, want := s.ends(reader, 0), s.Address+":"+filepath.Join(share, "article/test-path")+" on /mnt type nfs4"; !strings.Contains(log, want) {
		t.Errorf("the pod has mounted %q, want %q", log, want)
	}
	if list, err := s.Run(s.ctx, "ls", filepath.Join(share, "article/test-path")); err != nil || list != "SUCCESS\n" {
		t.Errorf("in the claim's directory is %q, %v", list, err)
	}

	// Without the annotation the pattern gives the folder of the whole namespace.
	s.claimAt("whole-namespace", "")
	s.until("the claim that would get its neighbours' folder is refused", func() bool {
		return strings.Contains(s.events("whole-namespace", "ProvisioningFailed"), "its path article lies around that of volume")
	})

	for _, pod := range []*v1.Pod{writer, reader} {
		s.must(s.DeletePod(s.ctx, pod))
		s.must(s.AwaitGone(s.ctx, pod))
	}
	s.deleteClaim("whole-namespace")
	s.deleteClaim("test-claim")
	s.until("nothing is left on the share", func() bool {
		list, err := s.Run(s.ctx, "ls", "-A", share)
		s.must(err)
		return list == ".berth\n"
	})
	s.until("no PersistentVolume is left", func() bool {
		volumes, err := s.Client.CoreV1().PersistentVolumes().List(s.ctx, metav1.ListOptions{})
		s.must(err)
		return len(volumes.Items) == 0
	})
	s.must(s.Client.AppsV1().Deployments(s.name).Delete(s.ctx, "nfs-client-provisioner", metav1.DeleteOptions{}))
	s.until("Berth's pod is gone", func() bool {
		pods, err := s.provisioners(s.ctx)
		s.must(err)
		return len(pods) == 0
	})
	mounts, err := s.Run(s.ctx, "cat", "/proc/mounts")
	s.must(err)
	if strings.Contains(mounts, " nfs4 ") || strings.Contains(mounts, " nfs ") {
		t.Errorf("the node still has NFS mounted:\n%s", mounts)
	}
}
