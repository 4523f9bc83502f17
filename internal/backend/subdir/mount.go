package subdir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/mountinfo"
	"github.com/berth-storage/berth/internal/run"
)

// mountLimit is after how long a mount(8) is killed.
const mountLimit = 2 * time.Minute

// defaultOptions of a mount, see nfs(5): an operation that the server does not answer
// fails in the end, so that nothing is lost to it for good; what is not there is asked
// for each time, since other clusters make directories on the share too; and mount(8)
// leaves it to a Share to try again.
var defaultOptions = []string{"softerr", "timeo=300", "retrans=2", "lookupcache=positive", "retry=0"}

// sameOption are options of which one stands for another.
var sameOption = map[string]string{"hard": "softerr", "soft": "softerr"}

// mountOptions are those of a mount that is to have options.
func mountOptions(options []string) string {
	key := func(option string) string {
		k, _, _ := strings.Cut(option, "=")
		if same := sameOption[k]; same != "" {
			return same
		}
		return k
	}
	given := map[string]bool{}
	for _, o := range options {
		given[key(o)] = true
	}
	all := slices.DeleteFunc(slices.Clone(defaultOptions), func(o string) bool { return given[key(o)] })
	return strings.Join(append(all, options...), ",")
}

// source is how mount(8) names a share.
func source(server, path string) string {
	if strings.Contains(server, ":") && !strings.HasPrefix(server, "[") { // an IPv6 address
		server = "[" + server + "]"
	}
	return server + ":" + path
}

// mountShare mounts source at the folder at, which is Berth's alone. If it is mounted
// there already, by a process that was killed or one that works beside this, that is
// enough.
func mountShare(ctx context.Context, source, at string, options []string) error {
	// Not by looking at the folder, which is on the share then.
	if m, found := mountAt(at); found && m.Source == source {
		return nil
	} else if found {
		if err := unmount(at); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(at, 0o700); err != nil {
		return fmt.Errorf("mounting %s: %w", source, err)
	}
	if _, err := run.Find("mount.nfs", "nfs-common"); err != nil {
		return fmt.Errorf("mounting %s: %w", source, err)
	}
	program, err := run.Find("mount", "mount")
	if err != nil {
		return fmt.Errorf("mounting %s: %w", source, err)
	}
	args := []string{"-t", "nfs", "-o", mountOptions(options), "--", source, at}
	if _, err := run.Output(ctx, run.Command{Path: program, Args: args}, mountLimit); err != nil {
		return fmt.Errorf("mounting %s: %w", source, err)
	}
	return nil
}

// unmount takes away what is mounted at the folder at. Whoever has it open keeps it.
func unmount(at string) error {
	for {
		// What is mounted several times goes one by one, until nothing is (EINVAL).
		err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unmounting %s: %w", at, err)
		}
	}
}

// localLocks says that a lock taken there is not seen by other hosts.
func localLocks(m mountinfo.Mount) bool {
	return slices.ContainsFunc(m.Options, func(o string) bool { return o == "local_lock=all" || o == "local_lock=flock" })
}

func isNFS(m mountinfo.Mount) bool { return m.Type == "nfs" || m.Type == "nfs4" }

// mountAt gives what is mounted at a folder, without touching that.
func mountAt(folder string) (m mountinfo.Mount, found bool) {
	mounts, err := mountinfo.Read()
	if err != nil {
		return m, false
	}
	return mountinfo.At(mounts, folder)
}
