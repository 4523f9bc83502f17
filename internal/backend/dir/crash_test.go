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

func manager(t *testing.T, root string) (*volume.Manager, *dir.Backend) {
	t.Helper()
	b, err := dir.Open(t.Context(), root, dir.Options{Cluster: "east", ArchiveBeside: true})
	if err != nil {
		t.Fatal(err)
	}
	m := volume.NewManager(volume.Pool{
		Name: "nas", Backend: b, Server: fixed.Server{}, ExportPath: "/share", Log: slog.New(slog.DiscardHandler),
	})
	if _, err := m.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m, b
}

// Whenever Berth is killed, nothing that a claim has written is lost or there twice,
// what is to be archived is, and nothing is left that no record names.
func TestKilledAtRandom(t *testing.T) {
	if root := os.Getenv(crashRoot); root != "" {
		workUntilKilled(t, root)
		return
	}
	killAtRandom(t, t.TempDir(), 15)
}

func killAtRandom(t *testing.T, root string, rounds int) {
	t.Helper()
	for round := range rounds {
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
	m, b := manager(t, root)
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
				work := workOnce
				if rand.IntN(5) == 0 {
					work = copyOnce
				}
				if err := work(t, m, b, name, func(line string) { fmt.Fprintln(journal, line) }); err != nil {
					fmt.Println("---", err)
					return
				}
				fmt.Println(name)
			}
		})
	}
	workers.Wait()
}

func workOnce(t *testing.T, m *volume.Manager, _ *dir.Backend, name string, write func(line string)) error {
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
	if isInTheWay(err) {
		return nil
	}
	if err != nil {
		return err
	}
	// Nobody has it before that.
	if err := m.MarkPublished(t.Context(), v.Name); err != nil {
		return err
	}
	if content(v) == "" {
		if err := fillVolume(v, name); err != nil {
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

// isInTheWay says that somebody is in the way, or was quicker.
func isInTheWay(err error) bool {
	return errors.Is(err, volume.ErrExists) || errors.Is(err, volume.ErrNotFound) || errors.Is(err, volume.ErrBusy) || errors.Is(err, volume.ErrPending)
}

// copyOnce takes a snapshot of one volume, deletes one, or makes a volume of one or of another
// volume, and makes that its own before anybody can have it.
func copyOnce(t *testing.T, m *volume.Manager, b *dir.Backend, name string, write func(line string)) error {
	var all []volume.Volume
	for v, err := range b.List(t.Context()) {
		if err == nil && (v.State == volume.StateSnapshot || v.State == volume.StateReady && content(v) != "") {
			all = append(all, v)
		}
	}
	if len(all) == 0 {
		return nil
	}
	of := all[rand.IntN(len(all))]
	s := volumetest.SpecAt(t, name, "copies/"+name)
	s.From = &volume.Source{Volume: of.Name}
	var err error
	switch isSnapshot := of.State == volume.StateSnapshot; {
	case isSnapshot && rand.IntN(3) == 0:
		err = m.DeleteSnapshot(t.Context(), of.Name, of.Cluster)
	case isSnapshot:
		s.From = &volume.Source{Volume: of.SnapshotOf, Snapshot: of.Name}
		err = makeCopy(t, m, s, write)
	case rand.IntN(2) == 0:
		snapshot := volume.SnapshotSpec{Name: s.Name, Of: of.Name, Namespace: of.Claim.Namespace, Cluster: of.Cluster}
		if _, err = m.Snapshot(t.Context(), snapshot); err == nil {
			err = m.MarkPublished(t.Context(), s.Name)
		}
	default:
		err = makeCopy(t, m, s, write)
	}
	if isInTheWay(err) {
		return nil
	}
	return err
}

func makeCopy(t *testing.T, m *volume.Manager, s volume.Spec, write func(line string)) error {
	v, err := m.Create(t.Context(), s)
	if err == nil {
		err = wantWhole(v.Dir)
	}
	if err != nil {
		return err
	}
	if err := fillVolume(v, s.Name.String()); err != nil {
		return err
	}
	if err := m.MarkPublished(t.Context(), v.Name); err != nil {
		return err
	}
	write("made " + s.Name.String())
	if rand.IntN(3) == 0 {
		return nil // stays
	}
	write("end " + s.Name.String())
	return m.Delete(t.Context(), v.Name, v.Cluster)
}

// filesInAVolume are those beside content.
const filesInAVolume = 10

// fillVolume writes to v whose it is, when all else is written.
func fillVolume(v volume.Volume, name string) error {
	for i := range filesInAVolume {
		if err := os.WriteFile(filepath.Join(v.Dir, fmt.Sprint("more-", i)), []byte(name), 0o600); err != nil {
			return err
		}
	}
	temp := filepath.Join(v.Dir, "temp")
	return errors.Join(os.WriteFile(temp, []byte(name), 0o600), os.Rename(temp, filepath.Join(v.Dir, "content")))
}

// wantWhole wants folder to be a copy of a volume that was filled.
func wantWhole(folder string) error {
	for i := range filesInAVolume {
		if _, err := os.Stat(filepath.Join(folder, fmt.Sprint("more-", i))); err != nil {
			return fmt.Errorf("not all was copied: %w", err)
		}
	}
	_, err := os.Stat(filepath.Join(folder, "content"))
	return err
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
	m, b := manager(t, root)
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
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil || len(i.Problems) > 0 || len(i.Unknown) > 0 || hasDiscarded(i) {
		t.Errorf("there are problems %v, unknown directories %v, discarded volumes: %v; %v", i.Problems, i.Unknown, hasDiscarded(i), err)
	}
	found, snapshots := map[string]int{}, filepath.Join(root, ".berth/clusters/east/snapshots")
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if filepath.Dir(path) == snapshots {
			if err := wantWhole(path); err != nil {
				t.Errorf("%s: %v", path, err)
			}
			return fs.SkipDir
		}
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
