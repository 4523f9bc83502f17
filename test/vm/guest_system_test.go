//go:build system

package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"testing"

	"github.com/berth-storage/berth/test/tied"
)

func TestGuestsAreApartAndPristine(t *testing.T) {
	other, err := Start(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := other.Stop(); err != nil {
			t.Error(err)
		}
		if left := leftOf(other); left != nil {
			t.Error("after its end:", left)
		}
	}()
	if other.Address == shared.Address || other.Shared == shared.Shared {
		t.Errorf("both guests have %s and %s", other.Address, other.Shared)
	}
	run(t, shared, "touch", "/etc/mark")
	if _, err := other.Run(t.Context(), "test", "-e", "/etc/mark"); err == nil {
		t.Error("one guest has the other's file")
	}
}

// A reboot keeps the disk and nothing else.
func TestReboot(t *testing.T) {
	g, err := Start(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Stop()
	run(t, g, "sh", "-c", "echo kept >/etc/mark && sync && touch /run/mark")
	if err := g.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := run(t, g, "cat", "/etc/mark"); got != "kept\n" {
		t.Errorf("the file has %q", got)
	}
	if _, err := g.Run(t.Context(), "test", "-e", "/run/mark"); err == nil {
		t.Error("what was in memory is there")
	}
}

// The guest reaches servers of the host at the address that it knows of it.
func TestTheGuestReachesTheHost(t *testing.T) {
	l, err := net.Listen("tcp", net.JoinHostPort(shared.Host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, _ = io.WriteString(conn, "hello\n")
			conn.Close()
		}
	}()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if got := run(t, shared, "bash", "-c", fmt.Sprintf("cat </dev/tcp/%s/%s", shared.Host, port)); got != "hello\n" {
		t.Errorf("the guest read %q", got)
	}
}

// ownerVariable has this test binary be the owner of a guest, who is killed.
const ownerVariable = "BERTH_TEST_VM_OWNER"

// own starts a guest, tells of it and waits for its end, which is a violent one.
func own() int {
	g, err := Start(context.Background(), Options{Log: os.Stderr})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(g.network.device, g.process.PID, g.dir)
	select {}
}

// The guest of a process that is killed ends, and the next one sweeps its files up.
func TestAKilledOwnerLeavesNothing(t *testing.T) {
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	owner := exec.CommandContext(t.Context(), binary)
	owner.Env = append(os.Environ(), ownerVariable+"=1")
	owner.Stderr = os.Stderr
	output, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var device, dir string
	var pid int
	if _, err := fmt.Sscan(line, &device, &pid, &dir); err != nil {
		t.Fatal(err)
	}
	processes := append(tied.Below(pid), pid)
	if len(processes) < 2 {
		t.Errorf("the guest's processes are %v: it has none but the kernel", processes)
	}
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait() // it was killed
	for _, p := range processes {
		until(t, fmt.Sprintf("process %d of the guest has ended", p), func() bool { return !exists(fmt.Sprintf("/proc/%d", p)) })
	}
	until(t, "the device is gone", func() bool { return !exists("/sys/class/net/" + device) })

	if !exists(dir) {
		t.Errorf("%s is gone already, so what follows proves nothing", dir)
	}
	next := &Guest{}
	if err := next.makeDir(); err != nil {
		t.Fatal(err)
	}
	if exists(dir) {
		t.Errorf("%s is left", dir)
	}
	if !exists(shared.dir) {
		t.Errorf("the folder of a running guest was removed")
	}
	if err := next.Stop(); err != nil {
		t.Error(err)
	}
}

// leftOf says what there is of a guest that has ended.
func leftOf(g *Guest) error {
	var left error
	for _, path := range []string{g.dir, "/sys/class/net/" + g.network.device, fmt.Sprintf("/proc/%d", g.process.PID)} {
		if exists(path) {
			left = errors.Join(left, fmt.Errorf("%s exists", path))
		}
	}
	return left
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, os.ErrNotExist)
}
