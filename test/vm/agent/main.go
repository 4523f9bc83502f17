// Command agent is the first process of a test's guest and, in a second process,
// what runs the host's commands there. See test/vm.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/test/vm/wire"
)

func main() {
	work := serve
	if os.Getpid() == 1 {
		work = boot
	}
	err := work()
	fmt.Fprintln(os.Stderr, "agent:", err)
	if os.Getpid() == 1 {
		// The host sees the end of the guest, and these words at the end of its console.
		unix.Sync()
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	os.Exit(1)
}

// boot prepares the guest, starts the process that serves commands, and inherits
// and buries what daemons leave behind. It does not return while that works.
func boot() error {
	for name, value := range map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME": "/root", "LANG": "C.UTF-8",
	} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	if err := prepare(); err != nil {
		return err
	}
	server := exec.Command("/proc/self/exe")
	server.Stdout, server.Stderr = os.Stdout, os.Stderr
	if err := server.Start(); err != nil {
		return err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("waiting for processes: %w", err)
		case pid == server.Process.Pid:
			return fmt.Errorf("the server of commands has ended (status %#x)", status)
		}
	}
}

// prepare mounts what every Linux has mounted and brings the network up.
func prepare() error {
	type mount struct{ source, target, kind, options string }
	for _, m := range []mount{
		{"proc", "/proc", "proc", ""},
		{"sysfs", "/sys", "sysfs", ""},
		{"devtmpfs", "/dev", "devtmpfs", ""},
		{"devpts", "/dev/pts", "devpts", "gid=5,mode=620,ptmxmode=666"},
		{"tmpfs", "/dev/shm", "tmpfs", "mode=1777"},
		{"tmpfs", "/run", "tmpfs", "mode=755"},
		{"tmpfs", "/tmp", "tmpfs", "mode=1777"},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", ""},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		// devtmpfs may be there: the kernel mounts it by itself if so configured.
		if err := unix.Mount(m.source, m.target, m.kind, 0, m.options); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mounting %s: %w", m.target, err)
		}
	}
	for _, folder := range []string{"/run/lock", "/run/rpcbind", "/run/dbus"} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	for link, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, link); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if err := makeDevices(); err != nil {
		return err
	}
	if err := giveClockSpeed(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("guest")); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	return network()
}

// makeDevices makes the devices whose modules the kernel loads when they are opened,
// such as /dev/loop-control and /dev/fuse; depmod(8) lists them.
func makeDevices() error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	list, err := os.ReadFile("/lib/modules/" + unix.ByteSliceToString(name.Release[:]) + "/modules.devname")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(list)) {
		var module, device string
		var kind rune
		var major, minor uint32
		// As in "fuse fuse c10:229".
		if _, err := fmt.Sscanf(line, "%s %s %c%d:%d", &module, &device, &kind, &major, &minor); err != nil {
			continue // a comment
		}
		mode := uint32(unix.S_IFCHR)
		if kind == 'b' {
			mode = unix.S_IFBLK
		}
		path := filepath.Join("/dev", device)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := unix.Mknod(path, mode|0o600, int(unix.Mkdev(major, minor))); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("making %s: %w", path, err)
		}
	}
	return nil
}

// giveClockSpeed adds the line "cpu MHz" to /proc/cpuinfo, which User-Mode Linux
// leaves out and without which a kubelet does not start.
func giveClockSpeed() error {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil || strings.Contains(string(text), "cpu MHz") {
		return err
	}
	const file = "/run/cpuinfo"
	changed := strings.Replace(string(text), "bogomips", "cpu MHz\t\t: 2000.000\nbogomips", 1)
	if err := os.WriteFile(file, []byte(changed), 0o444); err != nil {
		return err
	}
	if err := unix.Mount(file, "/proc/cpuinfo", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("replacing /proc/cpuinfo: %w", err)
	}
	return nil
}

// network gives the guest its address. The host makes its end of the network when
// the guest's is up.
func network() error {
	ip := exec.Command("ip", "-batch", "-")
	ip.Stdin = strings.NewReader(fmt.Sprintf(
		"link set lo up\naddress add %s dev vec0\nlink set vec0 up\nroute add default via %s\n",
		os.Getenv(wire.AddressVariable), os.Getenv(wire.GatewayVariable)))
	if output, err := ip.CombinedOutput(); err != nil {
		return fmt.Errorf("bringing the network up: %w\n%s", err, output)
	}
	return nil
}

// serve runs commands for the host, for ever.
func serve() error {
	host, _, _ := strings.Cut(os.Getenv(wire.AddressVariable), "/")
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(wire.Port)))
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			if err := answer(conn); err != nil {
				fmt.Fprintln(os.Stderr, "agent:", err)
			}
		}()
	}
}
