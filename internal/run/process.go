// Package run is the only place where Berth starts other programs, on this host and, over
// ssh, on others: arguments as a list and never as a shell's text (where sshd brings in a
// shell, each is quoted), messages in English, and no program on this host outlives the Berth that
// started it.
package run

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// systemFolders are searched after PATH: daemons live there, and the PATH of an
// ordinary user or of a service may lack them.
var systemFolders = []string{"/usr/local/sbin", "/usr/sbin", "/sbin"}

// Find gives the path of a program. The error of a missing one names the Debian
// package that has it.
func Find(program, debianPackage string) (string, error) {
	path, err := find(program)
	if err != nil {
		return "", fmt.Errorf("the program %s is not installed: it is in the package %s (apt-get install %s)", program, debianPackage, debianPackage)
	}
	return path, nil
}

func find(program string) (string, error) {
	path, err := exec.LookPath(program)
	for _, folder := range systemFolders {
		if err == nil {
			break
		}
		path, err = exec.LookPath(filepath.Join(folder, program))
	}
	return path, err
}

// Command is a program to start.
type Command struct {
	Path string
	Args []string
	Env  []string          // added to Berth's own, as NAME=value
	Line func(line string) // is given each line of its output, standard and error
	// ChangesUser: the program gives up root. With that the kernel forgets that it
	// has to die with Berth (prctl(2), PR_SET_PDEATHSIG), so a shell looks after it.
	ChangesUser bool
}

// guard runs a program, and ends it when it is itself told to end.
const guard = `trap 'kill "$child"; wait "$child"; exit' TERM; "$@" & child=$!; wait "$child"`

// Process is a program that was started.
type Process struct {
	pid  int
	done chan struct{}
	mu   sync.Mutex
	err  error
}

// Start starts c. It is killed with SIGKILL when Berth dies, also when Berth is
// itself killed in a way that it cannot notice.
func Start(c Command) (*Process, error) {
	cmd, death := exec.Command(c.Path, c.Args...), syscall.SIGKILL
	if c.ChangesUser {
		cmd, death = exec.Command("/bin/sh", append([]string{"-c", guard, "sh", c.Path}, c.Args...)...), syscall.SIGTERM
	}
	cmd.Env = append(append(os.Environ(), "LC_ALL=C"), c.Env...)
	// A process group of its own, so that a terminal's Ctrl-C reaches Berth only,
	// which then stops its programs in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: death, Setpgid: true}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", c.Path, err)
	}
	cmd.Stderr = cmd.Stdout

	p := &Process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// prctl(2): the parent of PR_SET_PDEATHSIG is the thread, not the
		// process. This one stays until the program has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- fmt.Errorf("starting %s: %w", c.Path, err)
			return
		}
		p.pid = cmd.Process.Pid
		close(started)
		lines := bufio.NewScanner(output)
		for lines.Scan() {
			if c.Line != nil {
				c.Line(lines.Text())
			}
		}
		// A line too long for the scanner must not stop the program at a full pipe.
		_, _ = io.Copy(io.Discard, output)
		err := cmd.Wait()
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// PID is the process id.
func (p *Process) PID() int { return p.pid }

// Done is closed when the program has ended and all its output was given.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says how the program ended: nil for exit status 0. Valid once Done is closed.
func (p *Process) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Stop asks the program to end (SIGTERM), and kills it if it has not after grace.
func (p *Process) Stop(grace time.Duration) error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(grace):
	}
	return p.Kill()
}

// Kill ends the program at once and waits for that.
func (p *Process) Kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

func (p *Process) signal(s syscall.Signal) error {
	select {
	case <-p.done: // its id may be another process's by now
		return nil
	default:
	}
	if err := syscall.Kill(-p.pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal to process %d: %w", p.pid, err)
	}
	return nil
}
