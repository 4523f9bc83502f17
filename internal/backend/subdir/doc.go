// Package subdir is the backend whose volumes are directories on a share of somebody
// else's NFS server: package dir with a root that may hang, go stale, or not be there yet.
//
// A system call on a dead mount may never return. So nobody who calls this package
// makes one himself: each runs in a goroutine of its own, whose caller does not wait
// longer than the share answers. A Share opens the root as soon as it can, again when it
// has become stale, and hands out a Backend for as long as it stays open.
//
// See docs/decisions/shares.md.
package subdir
