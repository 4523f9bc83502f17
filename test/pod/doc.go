// Package pod runs the pods of a test cluster on this host: a node without a kubelet,
// as far as Berth's own manifests need one. What a manifest says about its container
// holds: the image's files, capabilities, seccomp, a read-only root, volumes, the
// service account's token, the environment, a network of its own, probes. runc runs
// it. Where the real kubelet and a kernel with an NFS client are needed, this does
// not do.
package pod
