//go:build system

package share

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/berth-storage/berth/test/vm"
)

// A share that was made anew under the same name: what is open is stale.
func TestAShareThatIsMadeAnew(t *testing.T) {
	s := startKernel(t, "no_root_squash")
	for _, version := range []string{"vers=3", "vers=4.0", "vers=4.2"} {
		t.Run(version, func(t *testing.T) {
			path := s.newShare(t)
			w := startWorker(t, "", task{Server: s.address, Path: path, Root: vm.NewFolder(t) + "/mounted", MountOptions: []string{version}})
			first := w.await(t, "serving ")
			w.do(t, "create before")
			vm.Sh(t, `rm -r "$1"; mkdir -m 777 "$1"`, path)
			w.await(t, "away: the share "+s.address+":"+path+" has to be opened anew")
			if second := w.await(t, "serving "); second == first {
				t.Errorf("it is still %s", second)
			}
			w.do(t, "create after")
			w.stop(t)
		})
	}
}

// hosts are two hosts in networks of their own, with the server in both.
func hosts(t *testing.T) (addresses [2]string) {
	t.Helper()
	for i, name := range []string{"h1", "h2"} {
		network := fmt.Sprint("10.78.", i+1)
		vm.Sh(t, `modprobe nfs
ip netns add "$1"
ip link add "$1" type veth peer name eth0 netns "$1"
ip address add "$2.1/24" dev "$1"
ip link set "$1" up
ip -n "$1" address add "$2.2/24" dev eth0
ip -n "$1" link set eth0 up
ip -n "$1" link set lo up
ip netns exec "$1" sh -c "echo $1 >/sys/fs/nfs/net/nfs_client/identifier"`, name, network)
		undo(t, `ip link delete "$1"; ip netns delete "$1"`, name)
		addresses[i] = network + ".1"
	}
	return addresses
}

// Two processes on two hosts: one works, the other one stands by until that is killed.
func TestTwoHosts(t *testing.T) {
	s := startKernel(t, "no_root_squash")
	path, servers := s.newShare(t), hosts(t)
	a := startWorker(t, "h1", task{Server: servers[0], Path: path, Root: vm.NewFolder(t) + "/mounted"})
	first := a.await(t, "serving ")
	a.do(t, "create one")
	b := startWorker(t, "h2", task{Server: servers[1], Path: path, Root: vm.NewFolder(t) + "/mounted", Standby: true})
	b.await(t, "standing by: process ")
	if err := syscall.Kill(a.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if second := b.await(t, "serving "); second != first {
		t.Errorf("the pool was %s, is %s", first, second)
	}
	b.do(t, "create two")
	b.do(t, "delete one")
	b.await(t, "purged")
	b.stop(t)
}

// cutOff has h1 work on the share at path, whose pool is first, and h2 stand by, and then no word of h1's
// come through.
func cutOff(t *testing.T, servers [2]string, path, mount string) (h1, h2 *worker, first string) {
	t.Helper()
	start := func(host, server string, standby bool) *worker {
		return startWorker(t, host, task{
			Server: server, Path: path, Root: vm.NewFolder(t) + "/mounted", Standby: standby, MountOptions: strings.Split(mount, ","),
		})
	}
	h1 = start("h1", servers[0], false)
	first = h1.await(t, "serving ")
	h2 = start("h2", servers[1], true)
	h2.await(t, "standing by: process ")
	vm.Sh(t, `iptables-legacy -I INPUT -i h1 -j DROP`)
	h1.await(t, "away: ")
	return h1, h2, first
}

// A host that was cut off for so long that the server gave its lock to another one
// stops working when it is back, until that one has ended.
func TestALockThatTheServerGaveAway(t *testing.T) {
	s := startKernel(t, "no_root_squash")
	servers := hosts(t)
	for _, mount := range []string{"vers=4.0", "vers=4.2,hard"} {
		t.Run(mount, func(t *testing.T) {
			path := s.newShare(t)
			a, b, first := cutOff(t, servers, path, mount)
			a.order(t, "create during")
			b.await(t, "serving ")
			b.do(t, "create one")
			vm.Sh(t, `iptables-legacy -D INPUT -i h1 -j DROP`)
			a.await(t, "away: the share "+servers[0]+":"+path+" has to be opened anew")
			a.await(t, "away: the share "+servers[0]+":"+path+": pool root ") // in use by
			b.stop(t)
			if again := a.await(t, "serving "); again != first {
				t.Errorf("the pool was %s, is %s", first, again)
			}
			a.do(t, "delete one")
			a.await(t, "purged")
			a.stop(t)
		})
	}
}

// A host that was cut off, when another one worked on the share meanwhile and has ended:
// nobody holds the lock, but what this host knows of the share is no longer so.
func TestALockThatWasAnothersMeanwhile(t *testing.T) {
	s := startKernel(t, "no_root_squash")
	servers := hosts(t)
	for _, mount := range []string{"vers=4.0", "vers=4.2,hard"} {
		t.Run(mount, func(t *testing.T) {
			path := s.newShare(t)
			a, b, first := cutOff(t, servers, path, mount)
			b.await(t, "serving ")
			b.do(t, "create one")
			b.stop(t)
			vm.Sh(t, `iptables-legacy -D INPUT -i h1 -j DROP`)
			a.await(t, "away: the share "+servers[0]+":"+path+" has to be opened anew")
			if again := a.await(t, "serving "); again != first {
				t.Errorf("the pool was %s, is %s", first, again)
			}
			a.do(t, "delete one")
			a.await(t, "purged")
			a.stop(t)
		})
	}
}
