//go:build system

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/berth-storage/berth/test/harness"
)

// killAll kills b (SIGKILL) and waits until the programs that it ran have ended
// too: until then they use its port and its folders.
func killAll(b *harness.Berth) error {
	children, err := childrenOf(b.PID)
	b.Kill()
	return errors.Join(err, awaitEnd(children))
}

// childrenOf are the processes that pid has started, and what they have.
func childrenOf(pid int) ([]int, error) {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil, err
	}
	var children []int
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for field := range strings.FieldsSeq(string(text)) {
			var child int
			if _, err := fmt.Sscan(field, &child); err != nil {
				return nil, err
			}
			children = append(children, child)
		}
	}
	for _, child := range children {
		theirs, err := childrenOf(child)
		if err != nil {
			return nil, err
		}
		children = append(children, theirs...)
	}
	return children, nil
}

// awaitEnd waits until the processes have ended. Those that do not are killed,
// and are an error.
func awaitEnd(pids []int) (left error) {
	const enough = 15 * time.Second // Ganesha takes 2 s to end if it is asked to
	deadline := time.Now().Add(enough)
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
