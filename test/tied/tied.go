// Package tied starts programs that die with the process that started them, however
// that ends: a test that is killed leaves no server behind.
package tied

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
)

// Process is a program that was started.
type Process struct {
	PID  int
	done chan struct{}
	err  error
}

// Start starts cmd, in a process group of its own: a terminal's Ctrl-C reaches the
// caller only, who can then stop it in order.
func Start(cmd *exec.Cmd) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig, cmd.SysProcAttr.Setpgid = syscall.SIGKILL, true
	p := &Process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The death signal is sent when the starting thread ends, not the process
		// (prctl(2), PR_SET_PDEATHSIG), so this goroutine keeps its thread.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- fmt.Errorf("starting %s: %w", cmd.Path, err)
			return
		}
		p.PID = cmd.Process.Pid
		close(started)
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// Run runs cmd to its end.
func Run(cmd *exec.Cmd) error {
	runtime.LockOSThread() // as in Start
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd.Run()
}

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end of the program and says how it ended.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("process %d has not ended: %w", p.PID, ctx.Err())
	}
}

// Kill ends the program at once (SIGKILL) and waits for that.
func (p *Process) Kill() { p.end(syscall.SIGKILL) }

// Stop asks the program to end (SIGTERM), waits for that and says how it ended.
func (p *Process) Stop() error {
	p.end(syscall.SIGTERM)
	return p.err
}

func (p *Process) end(s syscall.Signal) {
	select {
	case <-p.done:
		return
	default:
	}
	// The process is ours and not waited for yet, so its id is still its own.
	_ = syscall.Kill(p.PID, s)
	<-p.done
}
