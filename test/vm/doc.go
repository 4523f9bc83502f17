// Package vm runs tests on a kernel of their own: one with an NFS client and
// server, XFS, ext4 and btrfs with quotas, overlayfs and cgroups, whatever the
// host's kernel has. It is User-Mode Linux, which needs no virtualization support,
// with a root file system of the same Debian release, both from Debian's packages.
//
// A package whose tests belong in the guest says so once, see Main. Other tests
// start a guest and run commands in it, see Start.
package vm
