// Package hung tests that a share whose server hangs keeps nothing waiting that does not
// need it: Berth runs in a guest with a pool on a share and one on a disk, and serves the
// claims of a control plane on the host. Its tests are the package.
package hung
