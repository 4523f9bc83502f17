package pod

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/berth-storage/berth/test/tied"
)

// container is a running one: runc, and below it the processes of the image.
type container struct {
	*tied.Process
	net *network
}

// begin makes the container's root, a file system of its own above the image's files as
// container runtimes have it, waits for a line that says that the network is there, and
// becomes runc. All that is mounted ends with its mount namespace.
const begin = `set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs "$2/scratch"
mkdir "$2/scratch/upper" "$2/scratch/work"
mount -t overlay -o "lowerdir=$1,upperdir=$2/scratch/upper,workdir=$2/scratch/work" overlay "$2/rootfs"
read -r _
exec runc --root "$2/runc" run --no-new-keyring --bundle "$2" "$3" </dev/null`

// startContainer runs the container whose bundle is in folder. Its processes have a
// process namespace around that of the container: when its first process ends, which is
// at the latest when this one does, the kernel ends all of them.
func startContainer(ctx context.Context, rootfs, folder, id, logFile, apiServer string, n *network) (*container, error) {
	for _, name := range []string{"rootfs", "scratch"} {
		if err := os.MkdirAll(filepath.Join(folder, name), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.RemoveAll(filepath.Join(folder, "runc")); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command("/bin/sh", "-c", begin, "sh", rootfs, folder, id)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	ready, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	process, err := tied.Start(cmd)
	if err != nil {
		return nil, err
	}
	c := &container{Process: process, net: n}
	err = n.attach(ctx, c.PID, apiServer)
	if err == nil {
		_, err = io.WriteString(ready, "\n")
	}
	if err = errors.Join(err, ready.Close()); err != nil {
		c.kill()
		return nil, err
	}
	return c, nil
}

// ended says whether the container has ended.
func (c *container) ended() bool {
	select {
	case <-c.Done():
		return true
	default:
		return false
	}
}

// stop asks the container's first process to end, as runc passes that on, and kills the
// container after grace.
func (c *container) stop(grace time.Duration) {
	late := time.AfterFunc(grace, c.Kill)
	defer late.Stop()
	_ = c.Stop() // how it ended is in its log
	_ = c.net.detach()
}

func (c *container) kill() {
	c.Kill()
	_ = c.net.detach()
}
