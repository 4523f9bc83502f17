package harness

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// OwnMounts goes on with this program, from its beginning, in a mount namespace of
// its own: whatever it and its children mount is gone with the last of them,
// however they end; see mount_namespaces(7). It needs root.
func OwnMounts() error {
	const done = "BERTH_OWN_MOUNTS"
	if os.Getenv(done) != "" {
		return nil
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return err
	}
	args := append([]string{unshare, "--mount", "--propagation", "private", "--"}, os.Args...)
	if err := syscall.Exec(unshare, args, append(os.Environ(), done+"=1")); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	return nil // never: exec does not come back
}
