// Package overssh tests volumes that are datasets on OpenZFS of another host, as docs/zfs-ssh.md sets it up: a guest, by
// its own sshd. It is a package of its own because each command takes several times as long there as without ssh.
package overssh
