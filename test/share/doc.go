// Package share tests pools on shares of real NFS servers, as Linux mounts them: the
// kernel's server and NFS-Ganesha, that answer, hang, forget and come back. Its tests are
// the package; they run in a guest (test/vm).
package share
