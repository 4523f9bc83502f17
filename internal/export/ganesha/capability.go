package ganesha

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// writesBeyondLimits says whether a process has the capability with which ext4 lets it
// write beyond quotas, whatever user it writes as. NFS-Ganesha gives it up by itself,
// if it was built with libcap.
func writesBeyondLimits(pid int) (bool, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false, fmt.Errorf("capabilities of the NFS server: %w", err)
	}
	return hasCapability(string(text), unix.CAP_SYS_RESOURCE)
}

// hasCapability reads the text of /proc/PID/status, see proc(5).
func hasCapability(status string, capability int) (bool, error) {
	_, rest, _ := strings.Cut(status, "\nCapEff:")
	line, _, _ := strings.Cut(rest, "\n")
	set, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	if err != nil {
		return false, fmt.Errorf("capabilities of the NFS server: %w", err)
	}
	return set&(1<<capability) != 0, nil
}
