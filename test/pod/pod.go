package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/berth-storage/berth/test/tied"
)

// Pod is one that a Node runs, or has run.
type Pod struct {
	Namespace, Name string
	IP              string
	LogFile         string

	mu       sync.Mutex
	folder   string
	c        *container
	restarts int
	waiting  error // why it is not started
	net      *network
}

func (p *Pod) set(c *container, waiting error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.c, p.waiting = c, waiting
}

func (p *Pod) restarted() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.restarts++
}

// Restarts is how often the pod's container was started again.
func (p *Pod) Restarts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.restarts
}

// Waiting is why the pod cannot be started; nil if it was.
func (p *Pod) Waiting() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting
}

// Answer has the pod answer at a Service's address, and this host go there for it, as
// kube-proxy would.
func (p *Pod) Answer(ctx context.Context, service string) error { return p.net.answer(ctx, service) }

// Log is what the pod has printed so far, over restarts of its container.
func (p *Pod) Log() string {
	text, err := os.ReadFile(p.LogFile)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Volume is the folder of a volume of the pod's own, as of an emptyDir.
func (p *Pod) Volume(name string) string { return filepath.Join(p.folder, "volumes", name) }

// Kill ends the pod's container at once, as running out of memory would.
func (p *Pod) Kill() {
	p.mu.Lock()
	c := p.c
	p.mu.Unlock()
	if c != nil {
		c.Kill()
	}
}

// Processes are the pod's processes of that name, in this host's numbers.
func (p *Pod) Processes(name string) ([]int, error) {
	p.mu.Lock()
	c := p.c
	p.mu.Unlock()
	if c == nil {
		return nil, errors.New("the pod's container does not run")
	}
	return tied.BelowNamed(c.PID, name), nil
}

// KillProcess kills the pod's process of that name.
func (p *Pod) KillProcess(name string) error {
	pids, err := p.Processes(name)
	if err != nil {
		return err
	}
	if len(pids) != 1 {
		return fmt.Errorf("the pod has %d processes %s", len(pids), name)
	}
	return syscall.Kill(pids[0], syscall.SIGKILL)
}
