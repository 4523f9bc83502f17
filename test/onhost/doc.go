// Package onhost tests Berth outside of Kubernetes, with NFS servers that the host runs
// (docs/host-servers.md). The host is a guest of this machine (test/vm), because its
// kernel has an NFS server; the control plane is on this machine. Its tests are the
// package.
package onhost
