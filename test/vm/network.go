package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// network is what connects one guest with the host: a tap device and a network of
// four addresses. Nothing of it stays when the guest and its owner end.
type network struct {
	device string
	prefix netip.Prefix
	claim  net.Listener // a name that only one process at a time has
}

// networks is how many guests there can be at once on one host.
const networks = 200

// newNetwork finds a network that nobody has.
func newNetwork() (*network, error) {
	used, err := usedPrefixes()
	if err != nil {
		return nil, err
	}
	for i := range networks {
		n := &network{
			device: fmt.Sprintf("berthvm%d", i),
			prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 231, byte(i), 0}), 30),
		}
		if slices.ContainsFunc(used, n.prefix.Overlaps) {
			continue
		}
		// An abstract socket belongs, as the device, to the network name space, and
		// the kernel takes it back when this process ends.
		n.claim, err = net.Listen("unix", "@"+n.device)
		if err != nil {
			continue
		}
		if _, err := os.Stat("/sys/class/net/" + n.device); errors.Is(err, os.ErrNotExist) {
			return n, nil
		}
		n.release() // a guest that is about to end
	}
	return nil, errors.New("no network is free for a guest")
}

// usedPrefixes are the networks that the host has addresses in.
func usedPrefixes() ([]netip.Prefix, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("listing the host's addresses: %w", err)
	}
	var used []netip.Prefix
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			used = append(used, p)
		}
	}
	return used, nil
}

func (n *network) release() { n.claim.Close() }

// host and guest are the addresses of the two ends.
func (n *network) host() netip.Addr  { return n.prefix.Addr().Next() }
func (n *network) guest() netip.Addr { return n.host().Next() }

// raise gives the host's end its address, when the guest has made the device; that is
// while it boots. The device goes with the guest.
func (n *network) raise(ctx context.Context) error {
	for {
		if _, err := os.Stat("/sys/class/net/" + n.device); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the guest has not brought its network up: %w", context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
	ip := exec.CommandContext(ctx, "ip", "-batch", "-")
	ip.Stdin = strings.NewReader(fmt.Sprintf("address add %s/%d dev %s\nlink set %s up\n", n.host(), n.prefix.Bits(), n.device, n.device))
	if output, err := ip.CombinedOutput(); err != nil {
		return fmt.Errorf("giving %s an address: %w\n%s", n.device, err, output)
	}
	return nil
}
