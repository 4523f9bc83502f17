//go:build system

// Package deploy tests the manifests in deploy/ as people use them: applied with
// kubectl to a real control plane, whose controllers and scheduler make the pods, and
// run with exactly the permissions, capabilities, files and probes that they say.
package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes"

	"github.com/berth-storage/berth/test/cluster"
	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/image"
	"github.com/berth-storage/berth/test/tied"
)

// shared is what the tests have in common.
var shared struct {
	repository string
	image      image.Image // the one with NFS-Ganesha
	subdir     image.Image // the one for shares
	zfs        image.Image // the one for hosts that are reached over ssh
	cluster    *cluster.Cluster
	client     kubernetes.Interface
}

// imageVariable names, for the tests in their own network, the file that describes the images.
const imageVariable = "BERTH_TEST_IMAGE"

func TestMain(m *testing.M) {
	run := outside
	if os.Getenv(imageVariable) != "" {
		run = func() (int, error) { return inside(m) }
	}
	status, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "deploy:", err)
		status = 1
	}
	os.Exit(status)
}

// outside builds the images, which needs the machine's network, and then runs this program
// again in a network of its own: the cluster and its pods meet nothing else there, and
// nothing that is sent to an address of theirs leaves the machine.
func outside() (status int, err error) {
	folder, err := os.MkdirTemp("", "berth-deploy-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, leftMounts(folder), os.RemoveAll(folder)) }()
	built, err := image.Build(context.Background(), filepath.Join(folder, "image"), os.Stderr, image.Berth, image.NFSSubdir, image.ZFS)
	if err != nil {
		return 1, err
	}
	text, err := json.Marshal(built)
	if err != nil {
		return 1, err
	}
	file := filepath.Join(folder, "image.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return 1, err
	}
	cmd := exec.Command("unshare", append([]string{"--net", "--mount", "--propagation", "private", "--"}, os.Args...)...)
	cmd.Env = append(os.Environ(), imageVariable+"="+file, "TMPDIR="+folder)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err = tied.Run(cmd)
	if failed, ok := errors.AsType[*exec.ExitError](err); ok { // the tests have said why
		return failed.ExitCode(), nil
	}
	return 0, err
}

// inside runs the tests with one cluster and one image for all.
func inside(m *testing.M) (status int, err error) {
	ctx := context.Background()
	if output, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return 1, fmt.Errorf("ip: %w: %s", err, output)
	}
	text, err := os.ReadFile(os.Getenv(imageVariable))
	if err != nil {
		return 1, err
	}
	var images map[string]image.Image
	if err := json.Unmarshal(text, &images); err != nil {
		return 1, err
	}
	shared.image, shared.subdir, shared.zfs = images[image.Berth], images[image.NFSSubdir], images[image.ZFS]
	if shared.repository, err = harness.Repository(); err != nil {
		return 1, err
	}
	c, err := cluster.Start(ctx, cluster.Options{
		Scheduler: true, Audit: true, Log: os.Stderr,
		// Without streaming lists, which older API servers do not have, the verb list is needed too.
		APIServerArgs: []string{"--feature-gates=WatchList=false"},
		// The nodes here say once that they are ready.
		KubeControllerManagerArgs: []string{"--node-monitor-grace-period=24h"},
	})
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	shared.cluster = c
	if shared.client, err = harness.NewClient(c.Kubeconfig()); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, stopZFS()) }()
	return m.Run(), nil
}

// leftMounts says what is still mounted below folder.
func leftMounts(folder string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, folder) {
			err = errors.Join(err, fmt.Errorf("still mounted: %s", strings.TrimSpace(line)))
		}
	}
	return err
}
