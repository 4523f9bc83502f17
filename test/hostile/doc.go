// Package hostile tests that nothing is lost on a share of a real NFS server, and nobody
// else's touched: by tenants who swap directories for symbolic links while Berth works on
// them, by Berth being killed at any moment, and by a second cluster that wants the same
// paths. The tests run in a guest.
package hostile
