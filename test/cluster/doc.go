// Package cluster runs a real Kubernetes control plane (etcd, kube-apiserver,
// kube-controller-manager and, if asked for, kube-scheduler) on loopback, for
// Berth's tests, benches and dev cluster: what they prove about Kubernetes is
// proved against Kubernetes itself and needs no containers and no downloads
// but Go modules.
//
// There are no nodes, so pods are not run; test/node adds one. The package works on
// Linux only.
package cluster
