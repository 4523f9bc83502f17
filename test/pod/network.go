package pod

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Pods find the API server where they find it everywhere: at the first address of
// the cluster's Services, for which its certificate is good.
const (
	apiServiceHost = "10.96.0.1"
	apiServicePort = "443"
)

var pods atomic.Int32

// APIServer is the API server's URL for pods.
const APIServer = "https://" + apiServiceHost

// network is that of one pod: a link between this host and the pod's own network
// namespace, which ends with the pod's processes.
type network struct {
	host, pod string // addresses, from the block for tests of networks (RFC 2544)
	link      string

	mu       sync.Mutex
	pid      int
	api      net.Listener
	services []string // more addresses at which the pod answers
}

func newNetwork() *network {
	n := pods.Add(1)
	third, last := n/64, n%64*4
	return &network{
		host: fmt.Sprintf("198.18.%d.%d", third, last+1), pod: fmt.Sprintf("198.18.%d.%d", third, last+2),
		link: fmt.Sprintf("berth%d", n),
	}
}

// attach gives the namespace of process pid its addresses, and the API server.
func (n *network) attach(ctx context.Context, pid int, apiServer string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pid = pid
	// The link of the container before may still be there: the kernel ends a namespace
	// some time after its last process.
	_ = ip(ctx, 0, "link del "+n.link)
	err := ip(ctx, 0,
		fmt.Sprintf("link add %s type veth peer name eth0 netns %d", n.link, pid),
		fmt.Sprintf("addr add %s/30 dev %s", n.host, n.link),
		fmt.Sprintf("link set %s up", n.link))
	if err != nil {
		return err
	}
	err = ip(ctx, pid, "link set lo up",
		fmt.Sprintf("addr add %s/30 dev eth0", n.pod), "link set eth0 up",
		"route add default via "+n.host,
		fmt.Sprintf("addr add %s/32 dev lo", apiServiceHost))
	if err != nil {
		return err
	}
	if n.api, err = listenIn(pid, net.JoinHostPort(apiServiceHost, apiServicePort)); err != nil {
		return err
	}
	go forward(n.api, apiServer)
	for _, address := range n.services {
		err = errors.Join(err, n.route(ctx, address))
	}
	return err
}

// detach ends the connection; the rest ends with the namespace.
func (n *network) detach() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.api == nil {
		return nil
	}
	return n.api.Close()
}

// answer has the pod answer at a Service's address, as kube-proxy would have it.
func (n *network) answer(ctx context.Context, service string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.services = append(n.services, service)
	return n.route(ctx, service)
}

func (n *network) route(ctx context.Context, service string) error {
	if err := ip(ctx, n.pid, fmt.Sprintf("addr replace %s/32 dev lo", service)); err != nil {
		return err
	}
	return ip(ctx, 0, fmt.Sprintf("route replace %s/32 via %s", service, n.pod))
}

// ip runs lines of ip(8), in the network namespace of process pid, or in our own for 0.
func ip(ctx context.Context, pid int, lines ...string) error {
	args := []string{"ip", "-batch", "-"}
	if pid != 0 {
		args = append([]string{"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", pid)}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip %q: %w: %s", lines, err, bytes.TrimSpace(output))
	}
	return nil
}

// listenIn listens in the network namespace of process pid.
func listenIn(pid int, address string) (net.Listener, error) {
	type result struct {
		listener net.Listener
		err      error
	}
	done := make(chan result)
	go func() {
		// A thread that was elsewhere is of no use any more: it ends with this goroutine,
		// because it stays locked to it.
		runtime.LockOSThread()
		var r result
		file, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err == nil {
			err = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
			file.Close()
		}
		if r.err = err; err == nil {
			r.listener, r.err = net.Listen("tcp", address)
		}
		done <- r
	}()
	r := <-done
	if r.err != nil {
		return nil, fmt.Errorf("listening at %s for process %d: %w", address, pid, r.err)
	}
	return r.listener, nil
}

// forward passes connections on until the listener is closed.
func forward(l net.Listener, to string) {
	for {
		from, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer from.Close()
			conn, err := net.Dial("tcp", to)
			if err != nil {
				return // the API server is away; the pod sees its connection end
			}
			defer conn.Close()
			var both sync.WaitGroup
			both.Go(func() { pass(conn, from) })
			both.Go(func() { pass(from, conn) })
			both.Wait()
		}()
	}
}

// pass copies until one side ends, and then ends the other.
func pass(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_ = errors.Join(to.Close(), from.Close())
}
