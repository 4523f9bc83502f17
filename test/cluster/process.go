package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/berth-storage/berth/test/progress"
)

const (
	// tailBytes is enough for the end of a log in an error, with the longest usual lines.
	tailBytes = 64 << 10
	// stopGrace is the time a component gets to end by itself.
	stopGrace = 10 * time.Second
	// killGrace is the time the kernel gets to end a killed process.
	killGrace = time.Minute
)

// identity names one process for good: its number may be given to another
// process later, but not with the same start time.
type identity struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
	// Start is when the process started, in clock ticks after the boot.
	Start uint64 `json:"start"`
}

// identify returns the identity of the process that has the number pid now.
func identify(name string, pid int) (identity, error) {
	stat, err := readStat(pid)
	if err != nil {
		return identity{}, fmt.Errorf("reading the start time of %s: %w", name, err)
	}
	return identity{Name: name, PID: pid, Start: stat.start}, nil
}

// alive tells whether the process still runs. A zombie does not: its parent,
// who may be anybody, just did not ask for its exit status yet.
func (i identity) alive() bool {
	stat, err := readStat(i.PID)
	return err == nil && stat.start == i.Start && stat.state != 'Z' && stat.state != 'X'
}

// stop ends the process: politely, then after stopGrace or at the end of ctx
// by force. It is no error if the process had ended before.
func (i identity) stop(ctx context.Context) error {
	// The handle is taken before the check, so that what is signalled is the
	// process that was checked even if its number is given away in between.
	handle, err := os.FindProcess(i.PID)
	if err != nil {
		return fmt.Errorf("stopping %s: %w", i.Name, err)
	}
	defer handle.Release()
	if !i.alive() {
		return nil
	}
	if err := handle.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping %s: %w", i.Name, err)
	}
	polite, cancel := context.WithTimeout(ctx, stopGrace)
	defer cancel()
	if i.waitGone(polite) {
		return nil
	}
	if err := handle.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing %s: %w", i.Name, err)
	}
	forced, cancel := context.WithTimeout(context.WithoutCancel(ctx), killGrace)
	defer cancel()
	if !i.waitGone(forced) {
		return fmt.Errorf("%s (pid %d) does not end even when killed", i.Name, i.PID)
	}
	return nil
}

// waitGone waits for the end of the process or of ctx, and tells whether it
// was that of the process.
func (i identity) waitGone(ctx context.Context) bool {
	for i.alive() {
		select {
		case <-ctx.Done():
			return !i.alive()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return true
}

// stat is what is needed of /proc/PID/stat.
type stat struct {
	state byte
	start uint64
}

// readStat reads /proc/PID/stat.
func readStat(pid int) (stat, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	return parseStat(content)
}

// parseStat parses /proc/PID/stat: "pid (command) state …". The command may
// hold blanks and parentheses, so the fields are counted from its end.
func parseStat(content []byte) (stat, error) {
	// The state is field 3, the first one after the command; the start time is
	// field 22.
	const state, start = 0, 22 - 3
	fields := bytes.Fields(content[bytes.LastIndexByte(content, ')')+1:])
	if len(fields) <= start || len(fields[state]) != 1 {
		return stat{}, fmt.Errorf("not the stat of a process: %q", content)
	}
	ticks, err := strconv.ParseUint(string(fields[start]), 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("start time of a process: %w", err)
	}
	return stat{state: fields[state][0], start: ticks}, nil
}

// process is a running component that this process started.
type process struct {
	identity
	log string
	// done is closed when the process ended; err is then how.
	done chan struct{}
	err  error
}

// startProcess starts cmd, with its output appended to the file log. Unless
// it is detached, the kernel kills it when this process ends, however it ends.
func startProcess(name, log string, cmd *exec.Cmd, detach bool) (*process, error) {
	output, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the log of %s: %w", name, err)
	}
	defer output.Close()
	cmd.Stdout, cmd.Stderr = output, output
	if detach {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	} else {
		// Its own group keeps Ctrl-C from ending it before Stop does.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	}

	p := &process{log: log, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// For the kernel the parent is the thread that started the child. If
		// the runtime ended that thread, the child would be killed, so this
		// goroutine keeps it until the child ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- fmt.Errorf("starting %s: %w", name, err)
			return
		}
		// Nobody else waits for it, so the pid is still its own even if it
		// ended at once.
		id, err := identify(name, cmd.Process.Pid)
		if err != nil {
			cmd.Process.Kill()
			cmd.Wait()
			started <- err
			return
		}
		p.identity = id
		started <- nil
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// ended returns how the process ended, with the end of its log, or nil if it
// runs.
func (p *process) ended() error {
	select {
	case <-p.done:
	default:
		return nil
	}
	how := "exit status 0"
	if p.err != nil {
		how = p.err.Error()
	}
	return fmt.Errorf("%s ended by itself (%s); the end of its log %s:\n%s", p.Name, how, p.log, logTail(p.log))
}

// logTail returns the last lines of the file, or why there are none.
func logTail(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > tailBytes {
		if _, err := file.Seek(-tailBytes, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	content, err := io.ReadAll(file)
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimRight(progress.Last(content, progress.TailLines), "\n"))
}
