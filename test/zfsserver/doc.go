// Package zfsserver tests deploy/zfs-server/berth-zfs, the script that an ssh key on a server of
// ZFS is bound to: what it lets through, what it keeps from whoever has the key.
package zfsserver
