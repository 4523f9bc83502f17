package dir

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// CheckFileHandles says whether the file system at root can be exported by NFS:
// the server needs file handles that outlive it (name_to_handle_at(2)). Overlay
// file systems, which containers have as their own, give none.
func CheckFileHandles(root string) error {
	_, _, err := unix.NameToHandleAt(unix.AT_FDCWD, root, 0)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("pool root %s: its file system gives no file handles, so it cannot be exported by NFS; "+
			"an overlay (a container's own file system) is of that kind: mount a volume there (emptyDir, hostPath, a disk)", root)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) { // of a missing root Open tells more
		return fmt.Errorf("pool root %s: file handle: %w", root, err)
	}
	return nil
}
