//go:build system

package hostile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/volume"
)

const (
	kills  = 40
	claims = 150 // of each cluster
)

// Two clusters want the same paths on one share, one inside of the other too, and both are
// killed again and again. Nobody gets what is another's, nothing is left over, and each
// archive is there once.
func TestStormOfTwoClusters(t *testing.T) {
	s := newShare(t)
	foreign := newForeign(t, s.disk)
	var clusters []*process
	for _, name := range []string{"east", "west"} {
		clusters = append(clusters, &process{plan: plan{
			Root: s.mount(t, "4.2"), Cluster: name, Beside: name == "east", Log: filepath.Join(t.TempDir(), name), Claims: claims,
		}})
	}
	for _, c := range clusters {
		c.start(t)
		t.Cleanup(c.kill)
	}
	for range kills {
		c := clusters[rand.IntN(len(clusters))] //nolint:gosec // whichever
		if !c.goOn(t, 1+rand.IntN(8)) {         //nolint:gosec // and whenever
			continue // it has ended before
		}
		c.kill()
		c.kills++
		c.start(t)
	}
	for _, c := range clusters {
		c.wait(t)
		if t.Logf("cluster %s was killed %d times", c.Cluster, c.kills); c.kills == 0 {
			t.Error("this shows nothing")
		}
	}
	known := foreign.files
	for _, c := range clusters {
		known = append(known, checkEnd(t, s, c.plan)...)
	}
	foreign.check(t)
	wantNoFiles(t, s.disk, known)
}

// process is a cluster's.
type process struct {
	plan
	cmd    *exec.Cmd
	kills  int
	output bytes.Buffer
	done   chan error
}

func (p *process) start(t *testing.T) {
	t.Helper()
	program, err := os.Executable()
	must(t, err)
	text, err := json.Marshal(p.plan)
	must(t, err)
	p.cmd = exec.Command(program)
	p.cmd.Env = append(os.Environ(), stormVariable+"="+string(text))
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	must(t, p.cmd.Start())
	p.done = make(chan error, 1)
	cmd, done := p.cmd, p.done
	go func() { done <- cmd.Wait() }()
}

// kill ends the process as a crash does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	err := <-p.done
	p.done <- err
}

// goOn waits until it has done something n times more; false if it has come to its end.
func (p *process) goOn(t *testing.T, n int) bool {
	t.Helper()
	for want := p.lines(t) + n; p.lines(t) < want; {
		select {
		case err := <-p.done:
			p.done <- err
			p.wantSuccess(t, err)
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
	return true
}

// lines counts what it has logged.
func (p *process) lines(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(p.Log)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return bytes.Count(text, []byte("\n"))
}

func (p *process) wait(t *testing.T) {
	t.Helper()
	select {
	case err := <-p.done:
		p.done <- err
		p.wantSuccess(t, err)
	case <-time.After(5 * time.Minute):
		t.Fatalf("cluster %s does not come to an end:\n%s", p.Cluster, p.output.String())
	}
}

func (p *process) wantSuccess(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("cluster %s: %v:\n%s", p.Cluster, err, p.output.String())
	}
}

// checkEnd compares what is left of a cluster with what it has done, and gives the files
// that are kept.
func checkEnd(t *testing.T, s share, p plan) (files []string) {
	t.Helper()
	c := cluster{plan: p, phases: map[volume.Name]string{}}
	must(t, c.openLog())
	defer c.log.Close()
	want := map[string]volume.State{}
	ended := map[string]int{}
	for i := range p.Claims {
		spec, err := p.claim(i)
		must(t, err)
		phase := c.phases[spec.Name]
		ended[phase]++
		switch {
		case phase != gone:
		case spec.OnDelete == volume.OnDeleteArchive:
			want[spec.Name.String()] = volume.StateArchived
		case spec.OnDelete == volume.OnDeleteRetain:
			want[spec.Name.String()] = volume.StateRetained
		}
	}
	t.Logf("cluster %s: %v, %d kept", p.Cluster, ended, len(want))
	if ended[gone]+ended[refused]+ended[taken] != p.Claims || ended[gone]*ended[refused]*ended[taken] == 0 {
		t.Errorf("cluster %s: its claims ended as %v", p.Cluster, ended)
	}
	found, err := dir.Inspect(t.Context(), s.disk, p.Cluster, dir.QuotaOff)
	must(t, err)
	for _, problem := range found.Problems {
		t.Errorf("cluster %s: %v", p.Cluster, problem)
	}
	apart := 0
	for _, r := range found.Reports {
		name, state := r.Name.String(), r.State
		if first := r.RestoredFrom.String(); c.phases[r.Name] == refused && state == volume.StateArchived && want[first] != "" {
			// It was killed when it had got what was kept of the first, and given up afterwards
			// because the other cluster was in the way: what it had is kept again.
			name, state = first, want[first]
		}
		if want[name] != state {
			t.Errorf("cluster %s: volume %s is %s, want %q", p.Cluster, name, state, want[name])
		}
		delete(want, name)
		if err := c.check(r.Volume, name); err != nil {
			t.Errorf("what is kept of %s: %v", name, err)
		}
		files = append(files, filepath.Join(r.Dir, owner))
		if strings.HasPrefix(r.ArchivePath, dir.Private) {
			apart++
		}
	}
	for name := range want {
		t.Errorf("cluster %s: volume %s is to be kept and has no record", p.Cluster, name)
	}
	for folder, wanted := range map[string]int{"trash": 0, "archive": apart} {
		entries, err := os.ReadDir(filepath.Join(s.disk, dir.Folder(p.Cluster), folder))
		if err != nil || len(entries) != wanted {
			t.Errorf("cluster %s: %s holds %v, %v; want %d", p.Cluster, folder, entries, err, wanted)
		}
	}
	return files
}

// foreign is what was there before, of nobody's records.
type foreign struct{ files []string }

func newForeign(t *testing.T, disk string) foreign {
	t.Helper()
	var f foreign
	for _, folder := range []string{fmt.Sprintf("p%d", foreignFrom), fmt.Sprintf("p%d/a", foreignFrom+1), fmt.Sprintf("p%d/a/b", foreignFrom+2)} {
		file := filepath.Join(disk, folder, "foreign")
		must(t, os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(folder), 0o600))
		f.files = append(f.files, file)
	}
	return f
}

func (f foreign) check(t *testing.T) {
	t.Helper()
	for _, file := range f.files {
		if text, err := os.ReadFile(file); err != nil || !strings.HasSuffix(filepath.Dir(file), string(text)) {
			t.Errorf("the foreign file %s holds %q, %v", file, text, err)
		}
	}
}

// wantNoFiles says whether anything but folders, and what is known, lies outside of Berth's own.
func wantNoFiles(t *testing.T, disk string, known []string) {
	t.Helper()
	must(t, filepath.WalkDir(disk, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.Name() == dir.Private:
			return fs.SkipDir
		case !d.IsDir() && !slices.Contains(known, path):
			t.Errorf("%s is left", path)
		}
		return nil
	}))
}
