package vm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/berth-storage/berth/test/cache"
	"github.com/berth-storage/berth/test/debian"
	"github.com/berth-storage/berth/test/progress"
	"github.com/berth-storage/berth/test/tied"
	"github.com/berth-storage/berth/test/vm/wire"
)

// packages are what the guest has besides Debian's essential packages. debootstrap
// takes the first of alternative dependencies only, hence the libraries at the end.
var packages = strings.Join([]string{
	"kmod", "iproute2", "iptables", "procps", "util-linux", "mount", "netbase", "ca-certificates", "busybox-static",
	"nfs-kernel-server", "nfs-common", "rpcbind", "nfs-ganesha", "nfs-ganesha-vfs", "dbus",
	"xfsprogs", "e2fsprogs", "btrfs-progs", "openssh-server", "sudo",
	"containerd", "runc", "containernetworking-plugins",
	"libudev1", "libblkid1",
}, ",")

// kernel is Debian's User-Mode Linux, and modulesDir where its modules are.
const (
	kernel     = "/usr/bin/linux.uml"
	modulesDir = "/usr/lib/uml/modules"
)

// diskSize is that of the guest's root file system; only what is written to is used.
const diskSize = "8G"

// firstProcess finds the agent in the folder shared with the host and becomes it,
// so that a changed agent needs no new image. The kernel gives it the variable.
const firstProcess = `#!/bin/sh
mount -t hostfs -o "$` + wire.ShareVariable + `" none ` + wire.Share + ` && exec ` + wire.Share + `/` + wire.Agent + `
`

// Image returns the path of the image that guests start from. It is made if it is
// not in the cache (see test/cache), which takes a minute or two and is told on log.
func Image(ctx context.Context, log io.Writer) (string, error) {
	if _, err := os.Stat(kernel); err != nil {
		return "", fmt.Errorf("no User-Mode Linux: run make setup as root: %w", err)
	}
	kernelVersion, err := moduleVersion()
	if err != nil {
		return "", err
	}
	release, err := debian.Release()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{packages, kernelVersion, release, diskSize, firstProcess, "format 2"}, "\n")))
	key := hex.EncodeToString(sum[:])[:16]
	return cache.File(ctx, "vm-"+key, "image", "the test VM's image", log, func(path string) error {
		return makeImage(ctx, path, release, kernelVersion, log)
	})
}

// moduleVersion is the version of the kernel whose modules are installed.
func moduleVersion() (string, error) {
	entries, err := os.ReadDir(modulesDir)
	if err != nil {
		return "", fmt.Errorf("looking for User-Mode Linux's modules: %w", err)
	}
	if len(entries) != 1 {
		return "", fmt.Errorf("%s has modules of %d versions, not of the one that is installed", modulesDir, len(entries))
	}
	return entries[0].Name(), nil
}

func makeImage(ctx context.Context, image, release, kernelVersion string, log io.Writer) error {
	started := time.Now()
	from, err := debian.Mirror(ctx, release)
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "making the test VM's image of Debian %s: this takes one or two minutes and is done once\n", release)
	root := filepath.Join(filepath.Dir(image), "root")
	if err := debootstrap(ctx, root, release, from, log); err != nil {
		return err
	}
	if err := furnish(root, kernelVersion); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"cp", "-a", filepath.Join(modulesDir, kernelVersion), filepath.Join(root, "usr/lib/modules/")},
		{"depmod", "-b", root, kernelVersion},
		{"truncate", "-s", diskSize, image},
		// With its journal, because guests are rebooted as after a power cut.
		{"mkfs.ext4", "-q", "-E", "lazy_itable_init=1", "-d", root, image},
	} {
		if output, err := tiedOutput(exec.CommandContext(ctx, args[0], args[1:]...)); err != nil {
			return fmt.Errorf("making the test VM's image: %s: %w\n%s", args[0], err, output)
		}
	}
	fmt.Fprintf(log, "made the test VM's image in %s\n", progress.Since(started))
	return nil
}

// debootstrap installs the packages in the folder root.
func debootstrap(ctx context.Context, root, release, from string, log io.Writer) error {
	started, lines := time.Now(), &progress.Lines{}
	cmd := exec.CommandContext(ctx, "debootstrap", "--variant=minbase", "--include="+packages, release, root, from)
	cmd.Stdout, cmd.Stderr = lines, lines
	stop := progress.Every(func() {
		fmt.Fprintf(log, "debootstrap: %s (%s)\n", strings.TrimSpace(string(progress.Last([]byte(lines.Tail()), 1))), progress.Since(started))
	})
	defer stop()
	if err := tied.Run(cmd); err != nil {
		return fmt.Errorf("debootstrap of %s from %s: %w\n%s", release, from, err, lines.Tail())
	}
	return nil
}

// furnish adds our own files to the guest's root.
func furnish(root, kernelVersion string) error {
	for _, useless := range []string{"var/cache/apt/archives", "usr/share/doc", "usr/share/locale", "usr/share/man"} {
		if err := os.RemoveAll(filepath.Join(root, useless)); err != nil {
			return err
		}
	}
	for _, folder := range []string{"usr/lib/modules", strings.TrimPrefix(wire.Share, "/"), "var/lib/nfs/v4recovery"} {
		if err := os.MkdirAll(filepath.Join(root, folder), 0o755); err != nil {
			return err
		}
	}
	// rpc.mountd looks up mounts in it.
	if err := os.Symlink("/proc/self/mounts", filepath.Join(root, "etc/mtab")); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	for name, content := range map[string]string{
		"sbin/vm-init":    firstProcess,
		"etc/hosts":       "127.0.0.1 localhost guest\n",
		"etc/resolv.conf": "", // there is no name server
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// tiedOutput runs cmd, which dies with this process, and returns what it prints.
func tiedOutput(cmd *exec.Cmd) (string, error) {
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	err := tied.Run(cmd)
	return output.String(), err
}
