// Package node is a Kubernetes node that runs pods: the kubelet, containerd and runc
// in a test VM, and the control plane of test/cluster on the host. Pods mount NFS
// volumes as anywhere, by the kernel's client.
//
// There is no registry: the only image is a busybox, made on the spot. There is no
// kube-proxy and no name server: pods and the node reach the host and each other by
// address only.
package node
