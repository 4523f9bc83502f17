package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
)

// Runner runs programs: a Guest from outside, or Here for a test that is in a guest.
type Runner interface {
	// Run runs a program to its end and returns its standard output. The error of one
	// that did not end with exit status 0 is an *ExitError.
	Run(ctx context.Context, args ...string) (stdout string, err error)
}

// Here runs programs where the calling process is.
type Here struct{}

// Run implements Runner.
func (Here) Run(ctx context.Context, args ...string) (stdout string, err error) {
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = &ExitError{Args: args, Code: exit.ExitCode(), Stderr: errOut.String()}
	}
	return out.String(), err
}

// FileSystem is a kind of file system to try things on.
type FileSystem struct {
	// Kind is its name for mkfs and mount.
	Kind string
	// Make are options of mkfs, Mount those of mount.
	Make, Mount []string
}

// File systems that limit what a directory holds: XFS and ext4 by project quotas,
// btrfs by qgroups of its subvolumes, which are to be enabled when it is mounted.
var (
	XFS   = FileSystem{Kind: "xfs", Mount: []string{"-o", "prjquota"}}
	Ext4  = FileSystem{Kind: "ext4", Make: []string{"-O", "quota,project"}, Mount: []string{"-o", "prjquota"}}
	Btrfs = FileSystem{Kind: "btrfs"}
)

// MountNew makes a file system of so many bytes in a file, and mounts it at the folder
// dir, which is made. XFS wants at least 300 MiB, btrfs 110; only what is written to is
// used. Unmounting it with umount(8) frees all.
func MountNew(ctx context.Context, r Runner, fs FileSystem, dir string, size int64) error {
	const script = `
file=$(mktemp /var/tmp/disk-XXXXXX)
truncate -s "$1" "$file"
mkdir -p "$2"
shift 2
"$@" "$file" >&2
echo "$file"`
	args := append([]string{"sh", "-ec", script, "sh", fmt.Sprint(size), dir, "mkfs." + fs.Kind, "-q"}, fs.Make...)
	file, err := r.Run(ctx, args...)
	if err != nil {
		return fmt.Errorf("making a file system: %w", err)
	}
	file = string(bytes.TrimSpace([]byte(file)))
	mount := append([]string{"mount", "-t", fs.Kind}, fs.Mount...)
	if _, err := r.Run(ctx, append(mount, file, dir)...); err != nil {
		return fmt.Errorf("mounting a file system: %w", err)
	}
	// The loop device keeps the file until it is unmounted.
	if _, err := r.Run(ctx, "rm", file); err != nil {
		return fmt.Errorf("mounting a file system: %w", err)
	}
	return nil
}

// StartNFSD starts the kernel's NFS server with NFSv3 and NFSv4.0 to 4.2, and what
// belongs to it, if it does not run. It does not wait for clients of its last run:
// these may write at once. Exports are made by exportfs(8).
func StartNFSD(ctx context.Context, r Runner) error {
	const script = `
mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
pidof rpcbind >/dev/null || rpcbind -w
pidof rpc.statd >/dev/null || rpc.statd --no-notify
pidof rpc.mountd >/dev/null || rpc.mountd
[ "$(cat /proc/fs/nfsd/threads)" = 0 ] || exit 0
rpc.nfsd --grace-time 10 --lease-time 10 -V 3 -V 4 -V 4.1 -V 4.2 4
echo Y >/proc/fs/nfsd/v4_end_grace`
	if _, err := r.Run(ctx, "sh", "-ec", script); err != nil {
		return fmt.Errorf("starting the kernel's NFS server: %w", err)
	}
	return nil
}
