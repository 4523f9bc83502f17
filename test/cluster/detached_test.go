package cluster

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// detached returns a detached cluster, without its components, that has the
// given processes.
func detached(t *testing.T, ready bool, processes ...*process) *Cluster {
	t.Helper()
	c := &Cluster{Dir: t.TempDir(), options: Options{Detach: true}, ready: ready, processes: map[string]*process{}}
	for i, name := range []string{etcd, apiServer}[:len(processes)] {
		c.processes[name] = processes[i]
	}
	if err := c.noteState(); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLeftovers(t *testing.T) {
	t.Run("a whole cluster stays", func(t *testing.T) {
		p := startSleep(t)
		c := detached(t, true, p)
		if err := stopLeftovers(t.Context(), c.Dir, io.Discard); !errors.Is(err, ErrRunning) {
			t.Errorf("error %v, want ErrRunning", err)
		}
		if err := Purge(c.Dir); !errors.Is(err, ErrRunning) {
			t.Errorf("purging it: error %v, want ErrRunning", err)
		}
		if !p.alive() {
			t.Error("the running cluster was stopped")
		}
	})
	t.Run("an interrupted start is stopped", func(t *testing.T) {
		p := startSleep(t)
		c := detached(t, false, p)
		var log strings.Builder
		if err := stopLeftovers(t.Context(), c.Dir, &log); err != nil {
			t.Error(err)
		}
		if p.alive() || !strings.Contains(log.String(), "stopping 1 processes") {
			t.Errorf("alive %v, log %q", p.alive(), log.String())
		}
	})
	t.Run("a crashed cluster is stopped", func(t *testing.T) {
		crashed, rest := startSleep(t), startSleep(t)
		c := detached(t, true, crashed, rest)
		if err := crashed.stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := stopLeftovers(t.Context(), c.Dir, io.Discard); err != nil {
			t.Error(err)
		}
		if rest.alive() {
			t.Error("the rest of the crashed cluster runs")
		}
	})
}

func TestStopDetached(t *testing.T) {
	t.Run("stops what runs, once", func(t *testing.T) {
		c := detached(t, true, startSleep(t), startSleep(t))
		for _, want := range []int{2, 0} {
			if got, err := StopDetached(t.Context(), c.Dir); err != nil || got != want {
				t.Errorf("StopDetached = %d, %v, want %d", got, err, want)
			}
		}
	})
	t.Run("nothing was ever there", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "none")
		if got, err := StopDetached(t.Context(), dir); err != nil || got != 0 {
			t.Errorf("StopDetached = %d, %v, want 0", got, err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the folder was made: %v", err)
		}
	})
	t.Run("another boot", func(t *testing.T) {
		p := startSleep(t)
		c := detached(t, true, p)
		path := filepath.Join(c.Dir, stateFile)
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		other := strings.Replace(string(content), bootID(), "another boot", 1)
		if err := os.WriteFile(path, []byte(other), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := StopDetached(t.Context(), c.Dir); err != nil || got != 0 || !p.alive() {
			t.Errorf("StopDetached = %d, %v, alive %v; want nothing stopped", got, err, p.alive())
		}
	})
	t.Run("a folder in use", func(t *testing.T) {
		dir := t.TempDir()
		lock, err := lockDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close()
		if _, err := StopDetached(t.Context(), dir); err == nil {
			t.Error("a folder was used that another process uses")
		}
	})
	t.Run("a damaged state", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, stateFile), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := StopDetached(t.Context(), dir); err == nil {
			t.Error("a damaged state was taken for none")
		}
	})
}

func TestPurgeLeavesWhatIsNotTheClusters(t *testing.T) {
	c := detached(t, true)
	if err := os.MkdirAll(filepath.Join(c.Dir, etcdDir, "member"), 0o700); err != nil {
		t.Fatal(err)
	}
	notes := filepath.Join(c.Dir, "notes.txt")
	if err := os.WriteFile(notes, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Purge(c.Dir); err != nil {
		t.Fatal(err)
	}
	rest, err := os.ReadDir(c.Dir)
	if err != nil || len(rest) != 1 || rest[0].Name() != "notes.txt" {
		t.Errorf("left are %v, %v, want notes.txt", rest, err)
	}
	if err := os.Remove(notes); err != nil {
		t.Fatal(err)
	}
	if err := Purge(c.Dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(c.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the empty folder is still there: %v", err)
	}
}

func TestDetachedNeedsAFolder(t *testing.T) {
	if _, err := Start(t.Context(), Options{Detach: true}); err == nil {
		t.Error("a detached cluster was started in a temporary folder")
	}
}
