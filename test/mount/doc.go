// Package mount tests Berth's NFS servers with Linux as their client: both are the
// kernel of a guest (test/vm). Its tests are the package.
package mount
