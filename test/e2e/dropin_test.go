//go:build system

package e2e

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	storagev1 "k8s.io/api/storage/v1"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/tied"
)

// startDropIn starts "berth nfs-provisioner" with flags as people have them in
// their deployments, and those that give it a place of its own on this machine.
func (s *site) startDropIn() *harness.Berth {
	s.t.Helper()
	b := s.beginDropIn()
	s.ready(b)
	return b
}

// beginDropIn is startDropIn without waiting, and with more flags.
func (s *site) beginDropIn(flags ...string) *harness.Berth {
	s.t.Helper()
	port, err := harness.FreePort()
	s.must(err)
	o := s.options
	http := fmt.Sprintf("127.0.0.1:%d", port)
	p, err := harness.Start(filepath.Join(o.Folder, "berth.log"), o.Binary, append([]string{
		"nfs-provisioner",
		"-provisioner=" + o.Provisioner,
		"-kubeconfig", o.Kubeconfig,
		"--grace-period=0", // one dash or two
		"-server-hostname=127.0.0.1",
		"-export-root=" + o.Root,
		"-run-dir=" + filepath.Join(o.Folder, "run"),
		"-nfs-listen=127.0.0.1",
		fmt.Sprintf("-nfs-port=%d", o.NFSPort),
		"-http-listen=" + http,
	}, flags...)...)
	s.must(err)
	b := &harness.Berth{Process: p, Options: o, URL: "http://" + http}
	endWithTest(s.t, b)
	return b
}

// The article that made nfs-provisioner known in one sequence: a class with
// mountOptions vers=4.1, a claim of 1Mi for many writers, write, read, delete.
func TestNFSProvisionerArticle(t *testing.T) {
	s := newSite(t, "dropin")
	class := s.name + "-nfs"
	s.class(class, func(c *storagev1.StorageClass) { c.MountOptions = []string{"vers=4.1"} })
	b := s.startDropIn()
	_, err := shared.cluster.KubectlApply(t.Context(), fmt.Appendf(nil, `
kind: PersistentVolumeClaim
apiVersion: v1
metadata:
  name: nfs
  namespace: %s
  annotations:
    volume.beta.kubernetes.io/storage-class: %s
spec:
  accessModes: [ReadWriteMany]
  resources:
    requests:
      storage: 1Mi
`, s.name, class))
	s.must(err)
	pv := s.bound("nfs")
	if !slices.Equal(pv.Spec.MountOptions, []string{"vers=4.1"}) {
		t.Errorf("mount options %v", pv.Spec.MountOptions)
	}
	// The predecessor's volumes are exported under their path on the server.
	if want := filepath.Join(s.options.Root, pv.Name); pv.Spec.NFS.Path != want {
		t.Errorf("path %s, want %s", pv.Spec.NFS.Path, want)
	}

	writer, reader := s.mount(), s.mount()
	data := bytes.Repeat([]byte("SUCCESS\n"), 2<<20/8)
	s.must(writer.WriteFile(t.Context(), pv.Spec.NFS.Path+"/SUCCESS", data, 0o644))
	got, err := reader.ReadFile(t.Context(), pv.Spec.NFS.Path+"/SUCCESS")
	s.must(err)
	if !bytes.Equal(got, data) {
		t.Errorf("another client reads %d bytes, not the %d that were written", len(got), len(data))
	}
	// PersistentVolumes of the predecessor are mounted with vers=3: NFSv3 clients
	// find the export by rpcbind and mountd.
	list, err := exec.CommandContext(t.Context(), "/usr/sbin/showmount", "--no-headers", "--exports", "127.0.0.1").CombinedOutput()
	if err != nil || !strings.Contains(string(list), pv.Spec.NFS.Path) {
		t.Errorf("showmount: %v: %s\nwant %s", err, list, pv.Spec.NFS.Path)
	}

	s.deleteClaim("nfs")
	s.volumeGone(pv.Name)
	s.untilEmpty()
	children := tied.Below(b.PID)
	s.must(b.Stop())
	s.must(awaitEnd(children))
}
