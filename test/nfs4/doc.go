// Package nfs4 is a small NFSv4.0 client (RFC 7530, RFC 7531) in user space.
//
// Berth's tests, benches and quickstart use it to be a real client of a real
// server on machines whose kernel has no NFS client. It behaves like a hard
// mount: while a server is away it reconnects, and when the server comes back
// without its memory it claims its open files back and sends again what the
// server had not yet committed.
//
// It does what those users need and no more: AUTH_SYS over TCP, no byte-range
// locks, no delegations, no symbolic links, no cache. Uncommitted data belongs
// to one File, so two Files of the same file must not write to the same range
// between two calls of Sync.
package nfs4
