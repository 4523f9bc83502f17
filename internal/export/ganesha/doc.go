// Package ganesha exports by NFS-Ganesha, to which exports are added, and from which
// they are removed, one at a time over D-Bus.
//
// Server runs one of Berth's own, with a private bus. If it dies it is started again
// with all its exports in the configuration, so that a client never meets a listening
// server that lacks its export (it would take that for a deleted volume,
// NFS4ERR_STALE). External is one that somebody else runs, on the system bus.
//
// Needed are the programs ganesha.nfsd with its VFS FSAL and, for a Server,
// dbus-daemon, and for NFSv3 rpcbind and rpc.statd. Tested with NFS-Ganesha 4.3.
package ganesha
