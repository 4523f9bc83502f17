//go:build system

// Package deploy tests the manifests in deploy/ as people use them: applied with
// kubectl to a real control plane, whose controllers and scheduler make the pods, and
// run with exactly the permissions, capabilities, files and probes that they say.
package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes"

	"github.com/berth-storage/berth/test/cluster"
	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/image"
)

// shared is what the tests have in common.
var shared struct {
	repository string
	image      image.Image
	cluster    *cluster.Cluster
	client     kubernetes.Interface
}

func TestMain(m *testing.M) {
	status, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "deploy:", err)
		status = 1
	}
	os.Exit(status)
}

// runTests runs the tests with one cluster and one image for all.
func runTests(m *testing.M) (status int, err error) {
	folder, err := os.MkdirTemp("", "berth-deploy-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, leftMounts(folder), os.RemoveAll(folder)) }()
	if err := os.Setenv("TMPDIR", folder); err != nil {
		return 1, err
	}
	ctx := context.Background()
	if shared.repository, err = harness.Repository(); err != nil {
		return 1, err
	}
	if shared.image, err = image.Build(ctx, filepath.Join(folder, "image"), os.Stderr); err != nil {
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
