package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/berth-storage/berth/test/cluster"
	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/progress"
	"github.com/berth-storage/berth/test/vm"
)

// Name is the node's in the cluster.
const Name = "node"

// memory is the guest's, in MiB; what kubelet, ZFS and a few pods do not use is not taken.
const memory = 1536

// readyTimeout is for a slow machine under load; 15 seconds are usual.
const readyTimeout = 5 * time.Minute

// Node is a cluster with one node. It ends with the process that started it.
type Node struct {
	*vm.Guest
	Cluster *cluster.Cluster
	Client  kubernetes.Interface // the administrator
	// Kubeconfig is the administrator's for programs in the guest.
	Kubeconfig []byte

	api *harness.Forwarder
}

// Start starts a cluster and its node, and waits until the node is ready for pods. The
// node has OpenZFS. Progress is told on log.
func Start(ctx context.Context, log io.Writer) (n *Node, err error) {
	n = &Node{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("starting a node: %w", err), n.Stop())
			n = nil
		}
	}()
	kubelet, err := cluster.Kubelet(ctx, log)
	if err != nil {
		return n, err
	}
	// Both take some seconds.
	var both sync.WaitGroup
	var guestErr, clusterErr error
	both.Go(func() { n.Guest, guestErr = vm.Start(ctx, vm.Options{ZFS: true, Memory: memory, Log: log}) })
	both.Go(func() { n.Cluster, clusterErr = cluster.Start(ctx, cluster.Options{Scheduler: true, Log: log}) })
	both.Wait()
	if err := errors.Join(guestErr, clusterErr); err != nil {
		return n, err
	}
	if n.Client, err = harness.NewClient(n.Cluster.Kubeconfig()); err != nil {
		return n, err
	}
	n.api, err = harness.Forward(net.JoinHostPort(n.Host, "0"), strings.TrimPrefix(n.Cluster.Server(), "https://"))
	if err != nil {
		return n, err
	}
	server := "https://" + n.api.Addr().String()
	if n.Kubeconfig, err = n.Cluster.ClientKubeconfig("admin", []string{"system:masters"}, server); err != nil {
		return n, err
	}
	if err := n.writeFiles(kubelet, server); err != nil {
		return n, err
	}
	busybox, err := n.Run(ctx, "cat", "/bin/busybox")
	if err != nil {
		return n, err
	}
	if err := writeImageFile(filepath.Join(n.Shared, "image.tar"), []byte(busybox)); err != nil {
		return n, err
	}
	if _, err := n.Run(ctx, "sh", "-ec", startScript, "sh", Name, n.Address); err != nil {
		return n, fmt.Errorf("%w\n%s", err, n.Logs())
	}
	return n, n.awaitReady(ctx)
}

// Stop stops the node and the cluster.
func (n *Node) Stop() error {
	var err error
	if n.Guest != nil {
		err = n.Guest.Stop()
	}
	if n.api != nil {
		n.api.Close()
	}
	if n.Cluster != nil {
		err = errors.Join(err, n.Cluster.Stop())
	}
	return err
}

// Logs is the end of what the node's programs have logged.
func (n *Node) Logs() string {
	var all strings.Builder
	for _, name := range []string{"containerd.log", "kubelet.log"} {
		text, err := os.ReadFile(filepath.Join(n.Shared, name))
		if err != nil {
			text = []byte(err.Error())
		}
		fmt.Fprintf(&all, "The end of %s:\n%s\n", name, progress.Last(text, progress.TailLines))
	}
	return all.String()
}

// writeFiles writes what the node's programs need into the folder that it shares.
func (n *Node) writeFiles(kubelet, server string) error {
	kubeconfig, err := n.Cluster.ClientKubeconfig("system:node:"+Name, []string{"system:nodes"}, server)
	if err != nil {
		return err
	}
	for name, content := range map[string]string{
		"kubeconfig":      string(kubeconfig),
		"authority.crt":   string(n.Cluster.Authority()),
		"kubelet.yaml":    fmt.Sprintf(kubeletConfig, n.Address),
		"containerd.toml": containerdConfig,
		"network.conf":    networkConfig,
	} {
		if err := os.WriteFile(filepath.Join(n.Shared, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	// Both are in the cache; a copy would take its time.
	return os.Link(kubelet, filepath.Join(n.Shared, "kubelet"))
}

// until waits until done, which asks the API server, says so. The pods' processes and
// the API server share the machine: it does not ask too often.
func until(ctx context.Context, what string, done func() bool) error {
	return harness.Until(ctx, what, func() bool {
		if done() {
			return true
		}
		time.Sleep(200 * time.Millisecond)
		return false
	})
}

func (n *Node) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	err := until(ctx, "the node is ready", func() bool {
		node, err := n.Client.CoreV1().Nodes().Get(ctx, Name, metav1.GetOptions{})
		if err != nil {
			return false // not registered yet
		}
		for _, c := range node.Status.Conditions {
			if c.Type == v1.NodeReady && c.Status == v1.ConditionTrue {
				return len(node.Spec.Taints) == 0
			}
		}
		return false
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, n.Logs())
	}
	return nil
}
