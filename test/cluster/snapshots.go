package cluster

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/berth-storage/berth/test/tied"
)

const (
	snapshotControllerName = "snapshot-controller"
	// snapshotModule has the custom resource definitions, in its folder config/crd.
	snapshotModule = "github.com/kubernetes-csi/external-snapshotter/client/v8"
)

// StartSnapshots has the cluster know VolumeSnapshots, and the snapshot-controller serve
// them, as on clusters whose administrator installed both. Where it did that before it does
// nothing. The controller is built first if need be, see SnapshotController.
func (c *Cluster) StartSnapshots(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.processes[snapshotControllerName] != nil {
		return nil
	}
	return c.startSnapshots(ctx)
}

// startSnapshots gives the snapshot-controller all rights, for what it may do is not what is tested. With its own
// default of 5 requests a second it would take most of the second in which a VolumeSnapshot becomes ready.
func (c *Cluster) startSnapshots(ctx context.Context) error {
	binary, err := SnapshotController(ctx, c.options.Log)
	if err != nil {
		return err
	}
	if err := c.installSnapshotResources(ctx); err != nil {
		return err
	}
	client, err := c.authority.sign(pkix.Name{CommonName: snapshotControllerName, Organization: []string{"system:masters"}})
	if err != nil {
		return err
	}
	kubeconfig := c.pki(snapshotControllerName + ".kubeconfig")
	if err := c.writeKubeconfig(kubeconfig, snapshotControllerName, client); err != nil {
		return err
	}
	return c.startProgram(snapshotControllerName, binary, []string{
		"--kubeconfig=" + kubeconfig, "--leader-election=false", "--kube-api-qps=300", "--kube-api-burst=600",
	})
}

// installSnapshotResources makes the kinds VolumeSnapshot, VolumeSnapshotContent and
// VolumeSnapshotClass known to the API server, and those of groups, without which the
// snapshot-controller does not start.
func (c *Cluster) installSnapshotResources(ctx context.Context) error {
	module, err := c.snapshotModule(ctx)
	if err != nil {
		return err
	}
	definitions := filepath.Join(module, "config", "crd")
	names, err := c.Kubectl(ctx, "apply", "-k", definitions, "-o", "name")
	if err != nil {
		return fmt.Errorf("installing the definitions of snapshots: %w", err)
	}
	wait := append([]string{"wait", "--for=condition=Established", "--timeout=" + readyTimeout.String()}, strings.Fields(string(names))...)
	if _, err := c.Kubectl(ctx, wait...); err != nil {
		return fmt.Errorf("waiting for the API server to know snapshots: %w", err)
	}
	return nil
}

// snapshotModule returns the folder of snapshotModule, which the go command downloads if it
// is not there yet, in the version that the snapshot-controller is built with.
func (c *Cluster) snapshotModule(ctx context.Context) (string, error) {
	source, err := snapshotController.sourceDir()
	if err != nil {
		return "", err
	}
	var answer, stderr bytes.Buffer
	download := goCommand(ctx, source, c.Dir, []string{"mod", "download", "-json", snapshotModule})
	download.Stdout, download.Stderr = &answer, &stderr
	var module struct{ Dir string }
	if err := tied.Run(download); err != nil {
		return "", fmt.Errorf("finding the Go module %s: %w: %s%s", snapshotModule, err, answer.Bytes(), stderr.Bytes())
	}
	if err := json.Unmarshal(answer.Bytes(), &module); err != nil {
		return "", fmt.Errorf("finding the Go module %s: %w", snapshotModule, err)
	}
	return module.Dir, nil
}
