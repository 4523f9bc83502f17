//go:build system

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/tied"
)

// killAll kills b (SIGKILL) and waits until the programs that it ran have ended
// too: until then they use its port and its folders.
func killAll(b *harness.Berth) error {
	children := tied.Below(b.PID)
	b.Kill()
	return awaitEnd(children)
}

// awaitEnd waits until the processes have ended. Those that do not are killed,
// and are an error.
func awaitEnd(pids []int) (left error) {
	deadline := time.Now().Add(patience)
	for _, pid := range pids {
		for running(pid) && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond)
		}
		if running(pid) {
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)) // as good as it can be had
			left = errors.Join(left, fmt.Errorf("process %d (%s) outlives its Berth", pid, strings.TrimSpace(string(name))),
				syscall.Kill(pid, syscall.SIGKILL))
		}
	}
	return left
}

// running says whether the process still does something: a zombie has ended, and
// waits for its new parent only, but for other threads, which hold its files open.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	// "pid (command) state …", and the command may hold a parenthesis.
	_, state, found := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	if err != nil || !found || !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X") {
		return true
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return err == nil && len(threads) > 1 // else the process is gone
}
