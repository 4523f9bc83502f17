//go:build system

// Package e2e tests Berth as its users meet it: the real program, a real
// Kubernetes control plane, a real NFS server and clients that write and read.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"k8s.io/client-go/kubernetes"

	"github.com/berth-storage/berth/test/cluster"
	"github.com/berth-storage/berth/test/harness"
)

// shared is what the tests have in common.
var shared struct {
	binary     string // Berth's
	cluster    *cluster.Cluster
	kubeconfig string
	client     kubernetes.Interface
}

func TestMain(m *testing.M) {
	status, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		status = 1
	}
	os.Exit(status)
}

// runTests runs the tests with one cluster for all. Whatever they make is made
// below one folder, which at the end nobody may use any more.
func runTests(m *testing.M) (status int, err error) {
	if err := harness.OwnMounts(); err != nil {
		return 1, err
	}
	folder, err := os.MkdirTemp("", "berth-e2e-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	if err := os.Setenv("TMPDIR", folder); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, leftMounts(folder), leftProcesses(folder)) }()
	defer func() { err = errors.Join(err, stopZFS()) }()

	ctx := context.Background()
	if shared.binary, err = harness.Program(ctx, folder, "cmd/berth"); err != nil {
		return 1, err
	}
	c, err := cluster.Start(ctx, cluster.Options{Log: os.Stderr})
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	shared.cluster, shared.kubeconfig = c, c.Kubeconfig()
	if shared.client, err = harness.NewClient(shared.kubeconfig); err != nil {
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

// leftProcesses ends the processes that still run, and says which. They are
// known by TMPDIR, which they and all that they start inherit from the tests.
func leftProcesses(folder string) (left error) {
	environments, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return err
	}
	for _, file := range environments {
		var pid int
		if _, err := fmt.Sscanf(file, "/proc/%d/environ", &pid); err != nil || pid == os.Getpid() {
			continue
		}
		environment, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(environment, []byte("TMPDIR="+folder)) {
			continue // it ended, or is none of ours
		}
		command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // as good as it can be had
		left = errors.Join(left, fmt.Errorf("still running: process %d: %s", pid, bytes.ReplaceAll(command, []byte{0}, []byte{' '})),
			syscall.Kill(pid, syscall.SIGKILL))
	}
	return left
}
