package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// The components, and the first argument of the binary for each.
const (
	etcd              = "etcd"
	apiServer         = "kube-apiserver"
	controllerManager = "kube-controller-manager"
	scheduler         = "kube-scheduler"
)

// serviceRange is where Services get their addresses. Nothing routes them.
const serviceRange = "10.96.0.0/16"

// command prepares a component. Of the environment it gets only what it needs:
// variables like ETCD_NAME would change it.
func (c *Cluster) command(binary string, args []string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Dir = c.Dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.Dir, "TMPDIR=" + os.TempDir()}
	return cmd
}

// pki returns the path of a key, certificate or kubeconfig of a component.
func (c *Cluster) pki(name string) string {
	return filepath.Join(c.Dir, pkiDir, name)
}

// etcdFlags are the flags of etcd. It does not sync its writes to the disk,
// which is much faster and survives all but a crash of the machine.
func (c *Cluster) etcdFlags() []string {
	client, peer := c.etcdPort.url(), c.peerPort.url()
	return []string{
		"--name=berth",
		"--data-dir=" + filepath.Join(c.Dir, etcdDir),
		"--unsafe-no-fsync",
		"--log-level=warn",
		"--socket-reuse-port",
		"--listen-client-urls=" + client,
		"--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=berth=" + peer,
		"--client-cert-auth",
		"--trusted-ca-file=" + c.pki("ca.crt"),
		"--cert-file=" + c.pki("etcd.crt"),
		"--key-file=" + c.pki("etcd.key"),
		"--peer-client-cert-auth",
		"--peer-trusted-ca-file=" + c.pki("ca.crt"),
		"--peer-cert-file=" + c.pki("etcd.crt"),
		"--peer-key-file=" + c.pki("etcd.key"),
	}
}

// apiServerFlags are the flags of the API server.
func (c *Cluster) apiServerFlags() []string {
	flags := []string{
		"--etcd-servers=" + c.etcdPort.url(),
		"--etcd-cafile=" + c.pki("ca.crt"),
		"--etcd-certfile=" + c.pki("etcd.crt"),
		"--etcd-keyfile=" + c.pki("etcd.key"),
		"--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1",
		"--secure-port=" + strconv.Itoa(c.apiPort.number),
		"--permit-port-sharing",
		"--tls-cert-file=" + c.pki("apiserver.crt"),
		"--tls-private-key-file=" + c.pki("apiserver.key"),
		"--client-ca-file=" + c.pki("ca.crt"),
		// As a client of kubelets, for the logs of pods; see test/node.
		"--kubelet-client-certificate=" + c.pki("kubelet-client.crt"),
		"--kubelet-client-key=" + c.pki("kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + c.pki("sa.key"),
		"--service-account-signing-key-file=" + c.pki("sa.key"),
		"--authorization-mode=Node,RBAC",
		"--service-cluster-ip-range=" + serviceRange,
		"--allow-privileged",
		// An Endpoints object may not have a loopback address.
		"--endpoint-reconciler-type=none",
		// Else a stop waits as long as somebody has a watch open.
		"--shutdown-watch-termination-grace-period=1s",
	}
	if c.options.Audit {
		flags = append(flags, "--audit-policy-file="+filepath.Join(c.Dir, auditPolicyFile), "--audit-log-path="+c.auditLog())
	}
	return flags
}

// controllerManagerFlags are the flags of the controller manager. With its own
// default of 20 requests a second it would bind 4 claims a second at most,
// which is then all that a bench of Berth could measure.
func (c *Cluster) controllerManagerFlags() []string {
	return []string{
		"--kubeconfig=" + c.pki(controllerManager+".kubeconfig"),
		"--leader-elect=false",
		"--secure-port=0",
		"--service-account-private-key-file=" + c.pki("sa.key"),
		"--use-service-account-credentials=true",
		"--root-ca-file=" + c.pki("ca.crt"),
		"--kube-api-qps=300",
		"--kube-api-burst=600",
	}
}

// schedulerFlags are the flags of the scheduler.
func (c *Cluster) schedulerFlags() []string {
	return []string{
		"--kubeconfig=" + c.pki(scheduler+".kubeconfig"),
		"--leader-elect=false",
		"--secure-port=0",
	}
}
