package dir_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/export/fixed"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

// crashRoot has the test be the process that TestKilledAtRandom kills.
const crashRoot = "BERTH_TEST_CRASH_ROOT"

func manager(t *testing.T, root string) (m *volume.Manager, end func() error) {
	t.Helper()
	b, err := dir.Open(t.Context(), root, dir.Options{Cluster: "east", ArchiveBeside: true})
	if err != nil {
		t.Fatal(err)
	}
	m = volume.NewManager(volume.Pool{
		Name: "nas", Backend: b, Server: fixed.Server{}, ExportPath: "/share", Log: slog.New(slog.DiscardHandler),
	})
	if _, err := m.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m, b.Close
}

// Whenever Berth is killed, nothing that a claim has written is lost or there twice,
// what is to be archived is, and nothing is left that no record names.
func TestKilledAtRandom(t *testing.T) {
	if root := os.Getenv(crashRoot); root != "" {
		workUntilKilled(t, root)
		return
	}
	root := t.TempDir()
	for round := range 15 {
		child := exec.Command(os.Args[0], "-test.run", "^TestKilledAtRandom$")
		child.Env = append(os.Environ(), crashRoot+"="+root)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		// Some operations later; what the machine does meanwhile is chance.
		lines, operations := bufio.NewScanner(out), 1+rand.IntN(60)
		for range operations {
			if !lines.Scan() || strings.HasPrefix(lines.Text(), "---") {
				t.Fatalf("round %d: the child ended: %s", round, lines.Text())
			}
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() {
		}
		_ = child.Wait() // it was killed
		checkAfterCrash(t, root)
		if t.Failed() {
			t.Fatalf("in round %d, after %d operations", round, operations)
		}
	}
}

// workUntilKilled makes, ends, restores and purges volumes, and says in a journal what
// it has written to which and what it is going to throw away.
func workUntilKilled(t *testing.T, root string) {
	m, _ := manager(t, root)
	go m.Run(t.Context())
	journal, err := os.OpenFile(filepath.Join(root, ".berth/journal"), os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	var serial atomic.Int64
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for {
				name := fmt.Sprintf("pvc-%d-%d", os.Getpid(), serial.Add(1))
				if err := workOnce(t, m, name, func(line string) { fmt.Fprintln(journal, line) }); err != nil {
					fmt.Println("---", err)
					return
				}
				fmt.Println(name)
			}
		})
	}
	workers.Wait()
}

func workOnce(t *testing.T, m *volume.Manager, name string, write func(line string)) error {
	s := volumetest.SpecAt(t, name, fmt.Sprintf("ns%d/%d", rand.IntN(2), rand.IntN(4)))
	s.Existing = []volume.Existing{volume.ExistingRefuse, volume.ExistingReuse}[rand.IntN(2)]
	s.OnDelete = []volume.OnDelete{volume.OnDeleteDelete, volume.OnDeleteRetain, volume.OnDeleteArchive}[rand.IntN(3)]
	for v, err := range m.Archives(t.Context()) {
		if err == nil && rand.IntN(4) == 0 {
			if rand.IntN(2) == 0 {
				write("end " + content(v))
				return m.DeleteArchive(t.Context(), v.Name, v.Cluster)
			}
			s.From = &volume.Source{Archive: v.Name}
			break
		}
	}
	v, err := m.Create(t.Context(), s)
	if errors.Is(err, volume.ErrExists) || errors.Is(err, volume.ErrNotFound) || errors.Is(err, volume.ErrBusy) {
		return nil // somebody is in the way, or was quicker
	}
	if err != nil {
		return err
	}
	// Nobody has it before that.
	if err := m.MarkPublished(t.Context(), v.Name); err != nil {
		return err
	}
	if content(v) == "" {
		if err := os.WriteFile(filepath.Join(v.Dir, "content"), []byte(name), 0o600); err != nil {
			return err
		}
		write("made " + name)
	}
	if rand.IntN(5) == 0 {
		return nil // stays
	}
	if s.OnDelete == volume.OnDeleteDelete {
		write("end " + content(v))
	}
	return m.Delete(t.Context(), v.Name, v.Cluster)
}

// content is which volume's v holds; "" if nothing has been written there yet.
func content(v volume.Volume) string {
	text, err := os.ReadFile(filepath.Join(v.Dir, "content"))
	if err != nil {
		return ""
	}
	return string(text)
}

func checkAfterCrash(t *testing.T, root string) {
	t.Helper()
	m, end := manager(t, root)
	ctx, stop := context.WithTimeout(t.Context(), 4*time.Minute)
	defer stop()
	// Nor does anybody come for what was being made.
	nobody := func(context.Context, volume.Volume) (bool, error) { return false, nil }
	if _, err := m.Scavenge(ctx, volumetest.Spec(t, "x").Cluster, 0, nobody); err != nil {
		t.Error(err)
	}
	running := make(chan struct{})
	go func() { m.Run(ctx); close(running) }()
	i, err := dir.Inspect(ctx, root, "east", dir.QuotaAuto)
	for err == nil && hasDiscarded(i) && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
		i, err = dir.Inspect(ctx, root, "east", dir.QuotaAuto)
	}
	stop()
	<-running
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if err != nil || len(i.Problems) > 0 || len(i.Unknown) > 0 || hasDiscarded(i) {
		t.Errorf("there are problems %v, unknown directories %v, discarded volumes: %v; %v", i.Problems, i.Unknown, hasDiscarded(i), err)
	}
	found := map[string]int{}
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Name() == "content" {
			text, readErr := os.ReadFile(path)
			found[string(text)]++
			return readErr
		}
		return err
	})
	journal, readErr := os.ReadFile(filepath.Join(root, ".berth/journal"))
	if err := errors.Join(err, readErr); err != nil {
		t.Fatal(err)
	}
	ended := map[string]bool{}
	for line := range strings.Lines(string(journal)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "end "); ok {
			ended[name] = true
		}
	}
	for line := range strings.Lines(string(journal)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "made "); ok && (found[name] > 1 || found[name] == 0 && !ended[name]) {
			t.Errorf("what %s held is there %d times", name, found[name])
		}
	}
}

func hasDiscarded(i dir.Inspection) bool {
	for _, r := range i.Reports {
		if r.State == volume.StateDiscarded {
			return true
		}
	}
	return false
}
