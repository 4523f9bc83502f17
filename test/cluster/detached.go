package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/berth-storage/berth/test/cache"
)

// bootFile has an ID that is new with each boot, since start times of
// processes count from it.
const bootFile = "/proc/sys/kernel/random/boot_id"

// state is what a detached cluster is known by after its start.
type state struct {
	Boot string `json:"boot"`
	// Ready is set at the end of a start that succeeded.
	Ready bool `json:"ready"`
	// Processes are in the order in which they were started.
	Processes []identity `json:"processes"`
}

// StopDetached stops the detached cluster in the folder, or what is left of
// it, and returns how many processes it stopped: 0 if none ran. It stops only
// processes that Start noted there.
func StopDetached(ctx context.Context, dir string) (int, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	lock, err := lockDir(dir)
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	s, err := readState(dir)
	if err != nil {
		return 0, err
	}
	return s.stop(ctx, dir)
}

// Purge removes a cluster's data, keys and logs from its folder, and the
// folder if it is then empty. The cluster must be stopped.
func Purge(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	s, err := readState(dir)
	if err != nil {
		return err
	}
	if len(s.alive()) > 0 {
		return fmt.Errorf("removing the data in %s: %w: stop it first", dir, ErrRunning)
	}
	// One by one, for the folder may be one with other things in it.
	for _, name := range []string{etcdDir, pkiDir, logDir, kubectlCacheDir, kubeconfigFile, kubectlFile, stateFile, lockFile} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("removing the cluster's files: %w", err)
		}
	}
	if rest, err := os.ReadDir(dir); err != nil || len(rest) > 0 {
		return err
	}
	if err := os.Remove(dir); err != nil {
		return fmt.Errorf("removing the cluster's folder: %w", err)
	}
	return nil
}

// lockDir makes the folder and takes its lock. A cluster that is not detached
// has it while it runs.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the cluster's folder: %w", err)
	}
	lock, err := cache.TryLock(filepath.Join(dir, lockFile))
	if errors.Is(err, cache.ErrLocked) {
		return nil, fmt.Errorf("another process is starting, stopping or running a cluster in %s: wait for it or use another folder", dir)
	}
	return lock, err
}

// stopLeftovers stops what is left of a detached cluster in the folder; if it
// is whole, it returns ErrRunning. The folder must be locked.
func stopLeftovers(ctx context.Context, dir string, log io.Writer) error {
	s, err := readState(dir)
	if err != nil {
		return err
	}
	alive := len(s.alive())
	if s.Ready && alive == len(s.Processes) {
		return ErrRunning
	}
	if alive > 0 {
		fmt.Fprintf(log, "stopping %d processes that a broken cluster left in %s\n", alive, dir)
	}
	_, err = s.stop(ctx, dir)
	return err
}

// alive returns the processes that still run.
func (s state) alive() []identity {
	var alive []identity
	if s.Boot != bootID() {
		return nil
	}
	for _, process := range s.Processes {
		if process.alive() {
			alive = append(alive, process)
		}
	}
	return alive
}

// stop stops the processes that still run, the last one first, and returns
// their number.
func (s state) stop(ctx context.Context, dir string) (int, error) {
	alive := s.alive()
	for _, process := range slices.Backward(alive) {
		if err := process.stop(ctx); err != nil {
			return 0, err
		}
	}
	return len(alive), removeState(dir)
}

// readState reads the state of the cluster in the folder; that of none is
// empty.
func readState(dir string) (state, error) {
	var s state
	path := filepath.Join(dir, stateFile)
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("reading which processes the cluster has: %w", err)
	}
	if err := json.Unmarshal(content, &s); err != nil {
		return s, fmt.Errorf("reading which processes the cluster has (if it is stopped, remove %s): %w", path, err)
	}
	return s, nil
}

// noteState notes the processes of this cluster if it is detached.
func (c *Cluster) noteState() error {
	if !c.options.Detach {
		return nil
	}
	s := state{Boot: bootID(), Ready: c.ready}
	for _, name := range []string{etcd, apiServer, controllerManager, scheduler, snapshotControllerName} {
		if p := c.processes[name]; p != nil {
			s.Processes = append(s.Processes, p.identity)
		}
	}
	content, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("noting the cluster's processes: %w", err)
	}
	// Renamed into place: a half written file would hide running processes.
	path := filepath.Join(c.Dir, stateFile)
	if err := os.WriteFile(path+".part", content, 0o600); err != nil {
		return fmt.Errorf("noting the cluster's processes: %w", err)
	}
	if err := os.Rename(path+".part", path); err != nil {
		return fmt.Errorf("noting the cluster's processes: %w", err)
	}
	return nil
}

// removeState forgets the processes of the cluster in the folder.
func removeState(dir string) error {
	if err := os.Remove(filepath.Join(dir, stateFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forgetting the cluster's processes: %w", err)
	}
	return nil
}

// bootID names the time since the last boot. Where it cannot be read it is
// empty, and processes are told apart by their start times alone.
func bootID() string {
	content, err := os.ReadFile(bootFile)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(content))
}
