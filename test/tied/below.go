package tied

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Below gives the processes that pid has started, and those that these have. Which end
// meanwhile may be missing.
func Below(pid int) []int {
	// /proc/PID/task/TID/children lists what this thread has started, see proc(5).
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // only a wrong pattern is an error
	var found []int
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for field := range strings.FieldsSeq(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				found = append(append(found, child), Below(child)...)
			}
		}
	}
	return found
}

// BelowNamed gives those of Below that run the program name (as "ganesha.nfsd"), of which
// the kernel knows 15 bytes.
func BelowNamed(pid int, name string) []int {
	var found []int
	for _, child := range Below(pid) {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", child))
		if err == nil && strings.TrimSuffix(string(comm), "\n") == name {
			found = append(found, child)
		}
	}
	return found
}
