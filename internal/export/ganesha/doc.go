// Package ganesha runs an NFS-Ganesha of Berth's own and drives it: exports are
// added and removed one at a time over a private D-Bus, and a server that dies is
// started again with all its exports in the configuration, so that a client never
// meets a listening server that lacks its export (it would take that for a
// deleted volume, NFS4ERR_STALE).
//
// Needed are the programs ganesha.nfsd with its VFS FSAL and dbus-daemon, and for
// NFSv3 rpcbind and rpc.statd. Tested with NFS-Ganesha 4.3.
package ganesha
