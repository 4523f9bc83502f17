// Package kernel exports by the NFS server of the host's Linux kernel. Berth
// neither starts nor stops that server.
//
// What the server exports is in a table, /var/lib/nfs/etab (exportfs(8)), in which
// rpc.mountd looks up what the kernel asks. Berth keeps its lines there, and the same ones in a
// file of its own below /etc/exports.d, from which exportfs makes the table anew
// when the server starts or somebody runs "exportfs -ra". Lines of others stay as
// they are, byte by byte.
//
// Berth writes the table itself, under the locks of exportfs. "exportfs" for one
// export reads, resolves and writes the whole table, which takes a time that grows
// with it, and then has the kernel forget all that it knows of all exports, so that
// every volume in use is looked up again. See docs/decisions/kernel.md.
package kernel
