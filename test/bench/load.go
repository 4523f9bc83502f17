package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// cpuTime is processor time used so far, in ticks of /proc: of the whole machine,
// and of the bench with all processes below it.
type cpuTime struct {
	at         time.Time
	all, bench int
}

// ticksPerSecond is the unit of times in /proc, USER_HZ. It is 100 for all
// programs on Linux, whatever the kernel's own is; see time(7).
const ticksPerSecond = 100

func readCPU() (t cpuTime, err error) {
	t.at = time.Now()
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return t, err
	}
	// proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal. What the
	// hypervisor gave to somebody else (steal) was not there for us.
	var user, nice, system, idle, iowait, irq, softirq, steal int
	if _, err := fmt.Sscanf(string(text), "cpu %d %d %d %d %d %d %d %d", &user, &nice, &system, &idle, &iowait, &irq, &softirq, &steal); err != nil {
		return t, fmt.Errorf("/proc/stat: %w", err)
	}
	t.all = user + nice + system + irq + softirq + steal
	t.bench, err = ticksBelow(os.Getpid())
	return t, err
}

// ticksBelow is the processor time of a process, of those that it has started,
// and of those that these have started and so on.
func ticksBelow(root int) (int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	parent, ticks := map[int]int{}, map[int]int{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// proc_pid_stat(5). The name, in parentheses, may have spaces.
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return 0, err
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		var numbers [5]int // ppid, and utime, stime, cutime, cstime
		for i, field := range []int{1, 11, 12, 13, 14} {
			if numbers[i], err = strconv.Atoi(fields[field]); err != nil {
				return 0, fmt.Errorf("%s: %w", file, err)
			}
		}
		parent[pid] = numbers[0]
		ticks[pid] = numbers[1] + numbers[2] + numbers[3] + numbers[4]
	}
	sum := 0
	for pid := range ticks {
		ancestor := pid
		for ancestor != root && ancestor != 0 {
			ancestor = parent[ancestor]
		}
		if ancestor == root {
			sum += ticks[pid]
		}
	}
	return sum, nil
}

// othersSince is the share of the machine's processors that other programs had
// since then, in percent.
func othersSince(then cpuTime) (float64, error) {
	now, err := readCPU()
	if err != nil {
		return 0, err
	}
	others := float64(now.all - then.all - (now.bench - then.bench))
	there := now.at.Sub(then.at).Seconds() * ticksPerSecond * float64(runtime.NumCPU())
	return max(0, 100*others/there), nil
}

const (
	// disturbing is the share of the processors, in percent, that other programs
	// may have before a measurement counts as disturbed. The kernel's own threads,
	// which write our files, are among them.
	disturbing = 10
	// quietPatience is how long a round waits for a quiet moment.
	quietPatience = 10 * time.Second
)

// awaitQuiet waits a little for other programs to leave the processors alone.
func awaitQuiet(ctx context.Context) error {
	limit := time.Now().Add(quietPatience)
	for time.Now().Before(limit) {
		then, err := readCPU()
		if err != nil {
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if others, err := othersSince(then); err != nil || others < disturbing {
			return err
		}
	}
	return nil
}
