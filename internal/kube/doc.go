// Package kube is the front end for Kubernetes: it provisions and deletes the
// PersistentVolumes of claims, with the loop of
// sig-storage-lib-external-provisioner, has claims grow and be snapshotted, and tells
// people what happens in events.
package kube
