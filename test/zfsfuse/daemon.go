// Package zfsfuse runs zfs-fuse, ZFS as an ordinary program, for tests that want real
// datasets on any host. zfs(8) and its daemon meet at a fixed place: so each process of tests has
// its own, in a mount namespace of its own (harness.OwnMounts).
package zfsfuse

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/berth-storage/berth/test/tied"
)

// Patience is how long anything may take before a test gives up. It is no measure of
// how long it should take.
const Patience = 4 * time.Minute

// Daemon is a zfs-fuse of this process alone.
type Daemon struct {
	process *tied.Process
	folder  string
	mounted []string // by Start
	pools   []string
}

// Start starts a zfs-fuse, whose pools lie in folder. It needs root and a mount namespace
// of this process's own.
func Start(folder string) (d *Daemon, err error) {
	d = &Daemon{folder: folder}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Stop())
		}
	}()
	for _, place := range []string{"/run/zfs", "/run/lock/zfs", "/var/lib/zfs"} { // its socket, its lock, and which pools there are
		if err := os.MkdirAll(place, 0o755); err != nil {
			return d, err
		}
		if err := syscall.Mount("tmpfs", place, "tmpfs", 0, "mode=0755"); err != nil {
			return d, fmt.Errorf("mounting %s: %w", place, err)
		}
		d.mounted = append(d.mounted, place)
	}
	if err := d.oneAtATime(); err != nil {
		return d, err
	}
	program, err := exec.LookPath("zfs-fuse")
	if err != nil {
		return d, fmt.Errorf("%w: make setup installs it", err)
	}
	log, err := os.Create(filepath.Join(folder, "zfs-fuse.log"))
	if err != nil {
		return d, err
	}
	defer log.Close()
	cmd := exec.Command(program, "--no-daemon", "--pidfile", filepath.Join(folder, "zfs-fuse.pid"))
	cmd.Stdout, cmd.Stderr = log, log
	if d.process, err = tied.Start(cmd); err != nil {
		return d, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	for {
		_, err := Run("zpool", "list")
		if err == nil {
			return d, nil
		}
		select {
		case <-d.process.Done():
			return d, fmt.Errorf("zfs-fuse ended: %w", d.process.Wait(ctx))
		case <-ctx.Done():
			return d, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// oneAtATime has commands of zfs(8) that change something take turns: zfs-fuse hangs now and then if datasets are
// unmounted beside other work. The program itself is replaced, for this process and those that it starts. What sends
// must not wait for who receives it. What is done side by side the tests on OpenZFS do.
func (d *Daemon) oneAtATime() error {
	const script = `#!/bin/sh
case $1 in
get | list | send) exec "%[1]s" "$@" ;;
esac
exec flock "%[1]s.lock" "%[1]s" "$@"
`
	program, err := exec.LookPath("zfs")
	if err == nil {
		program, err = filepath.EvalSymlinks(program)
	}
	if err != nil {
		return fmt.Errorf("%w: make setup installs it", err)
	}
	original, turns := filepath.Join(d.folder, "zfs"), filepath.Join(d.folder, "zfs-in-turn")
	if err := errors.Join(os.WriteFile(original, nil, 0o755), os.WriteFile(turns, fmt.Appendf(nil, script, original), 0o755)); err != nil {
		return err
	}
	for _, bind := range [][2]string{{program, original}, {turns, program}} {
		if err := syscall.Mount(bind[0], bind[1], "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("mounting %s at %s: %w", bind[0], bind[1], err)
		}
		d.mounted = append(d.mounted, bind[1])
	}
	return nil
}

// Create makes a pool on a sparse file, and says where it is mounted.
func (d *Daemon) Create(pool string, size int64) (mountpoint string, err error) {
	disk := filepath.Join(d.folder, pool+".disk")
	f, err := os.Create(disk)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		return "", err
	}
	mountpoint = filepath.Join(d.folder, pool)
	// Sectors of 512 bytes, so that an empty dataset takes little.
	if _, err := Run("zpool", "create", "-o", "ashift=9", "-m", mountpoint, pool, disk); err != nil {
		return "", err
	}
	d.pools = append(d.pools, pool)
	return mountpoint, nil
}

// Run runs zfs or zpool and gives what it printed.
func Run(program string, args ...string) (string, error) {
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// Destroy destroys a dataset with all that is in it and comes from it.
func Destroy(dataset string) error { return patiently("zfs", "destroy", "-R", dataset) }

// patiently runs what destroys something, which is busy for a moment after it was used.
func patiently(program string, args ...string) error {
	until := time.Now().Add(Patience)
	for {
		_, err := Run(program, args...)
		if err == nil || !strings.Contains(err.Error(), "busy") || time.Now().After(until) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Stop destroys the pools and ends zfs-fuse.
func (d *Daemon) Stop() error {
	var failed []error
	for _, pool := range d.pools {
		failed = append(failed, patiently("zpool", "destroy", "-f", pool))
	}
	if d.process != nil {
		d.process.Kill() // it holds nothing any more, and has nothing to say at its end
	}
	for _, place := range slices.Backward(d.mounted) {
		failed = append(failed, syscall.Unmount(place, syscall.MNT_DETACH))
	}
	return errors.Join(failed...)
}
