// Package zfs tests volumes that are datasets on OpenZFS, of which the host may have none:
// the tests run in a guest.
package zfs
