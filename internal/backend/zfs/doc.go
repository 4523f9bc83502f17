// Package zfs is the backend whose volumes are datasets of ZFS, below one parent
// dataset, on this host or on another one: whoever opens it brings the Runner that runs zfs(8).
// The records are user properties of the datasets.
package zfs
