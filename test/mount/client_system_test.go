//go:build system

package mount

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/test/vm"
)

// client is an NFS client with an address of its own: a network namespace. The
// kernel's client is a part of the namespace in which something is mounted.
type client struct {
	name    string
	network string // that it is in, with the server
	server  string // the server's address in it
}

// clients are counted: the kernel frees a namespace some time after its deletion.
var clients atomic.Int32

func newClient(t *testing.T) client {
	t.Helper()
	n := clients.Add(1)
	c := client{name: fmt.Sprintf("c%d", n), network: fmt.Sprintf("10.77.%d.0/24", n), server: fmt.Sprintf("10.77.%d.1", n)}
	// Without an identifier clients of one host name are one client to the server.
	vm.Sh(t, `modprobe nfs
ip netns add $1
ip link add $1 type veth peer name eth0 netns $1
ip address add $2.1/24 dev $1
ip link set $1 up
ip -n $1 address add $2.2/24 dev eth0
ip -n $1 link set eth0 up
ip -n $1 link set lo up
ip netns exec $1 sh -c "echo $1 >/sys/fs/nfs/net/nfs_client/identifier"`, c.name, fmt.Sprintf("10.77.%d", n))
	t.Cleanup(func() {
		if out, err := (vm.Here{}).Run(context.Background(), "ip", "netns", "delete", c.name); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	return c
}

// tryMount mounts an export. NFSv3 locks would need an rpc.statd in the namespace.
func (c client) tryMount(t *testing.T, e export.Export, version string) (string, error) {
	t.Helper()
	dir := vm.NewFolder(t)
	options := "vers=" + version
	if version == "3" {
		options += ",nolock"
	}
	_, err := vm.Here{}.Run(t.Context(), "nsenter", "--net=/run/netns/"+c.name, "mount", "-t", "nfs", "-o", options, c.server+":"+e.Path, dir)
	if err == nil {
		t.Cleanup(func() {
			// At once: the server may be gone, or the export.
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	return dir, err
}

func (c client) mount(t *testing.T, e export.Export, version string) string {
	t.Helper()
	dir, err := c.tryMount(t, e, version)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
