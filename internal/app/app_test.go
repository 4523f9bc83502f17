package app

import (
	"context"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"k8s.io/klog/v2"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/metrics"
)

// newConfig is a valid one with a pool for each root and an API server that is
// not asked for anything before Berth runs.
func newConfig(t *testing.T, roots ...string) config.Config {
	t.Helper()
	t.Cleanup(klog.ClearLogger)
	c := config.Default()
	c.Kubernetes.Master = "http://127.0.0.1:1"
	c.HTTP.Listen = ""
	for i, root := range roots {
		name := string(rune('a' + i))
		c.Pools = append(c.Pools, config.Pool{
			Name: name, Provisioner: "example.com/nfs", Dir: &config.Dir{Root: root}, ExportPath: "/" + name,
			Defaults: config.Defaults{Mode: config.DefaultMode},
		})
	}
	return c
}

func open(t *testing.T, root string) *dir.Backend {
	t.Helper()
	b, err := dir.Open(t.Context(), root, dir.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func TestServeSaysWhatIsWrongBeforeItServes(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	held := t.TempDir()
	open(t, held)
	noAPI := newConfig(t, t.TempDir())
	noAPI.Kubernetes.Master = ""
	for _, c := range []struct {
		name   string
		config config.Config
		want   string
	}{
		{"no API server", noAPI, "no API server: outside of a pod say which one, by a kubeconfig or the master's URL"},
		{"no root", newConfig(t, filepath.Join(t.TempDir(), "absent")), "/absent does not exist: make it (mkdir -p"},
		{"a root in use", newConfig(t, held), "pool a: pool root " + held + " is in use by process "},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := Serve(t.Context(), c.config, io.Discard); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestServeLetsGoOfThePoolsWhenItFails(t *testing.T) {
	root := t.TempDir()
	if err := Serve(t.Context(), newConfig(t, root, filepath.Join(t.TempDir(), "absent")), io.Discard); err == nil || !strings.Contains(err.Error(), "pool b: ") {
		t.Fatalf("got error %v, want one of pool b", err)
	}
	open(t, root)
}

func TestANewPoolIsSaidToBeOne(t *testing.T) {
	root := t.TempDir()
	for _, want := range []bool{true, false} { // its second start may say nothing
		c := newConfig(t, root)
		var out strings.Builder
		a := &app{config: c, log: newLogger(c.Log, &out)}
		p, err := a.openPool(t.Context(), c.Pools[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := p.backend.Close(); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(out.String(), "its file system is not mounted"); got != want {
			t.Errorf("the log warns of an empty pool: %t, want %t: %s", got, want, out.String())
		}
	}
}

// stopWhenLogged cancels when a line with text is logged.
type stopWhenLogged struct {
	text   string
	cancel context.CancelFunc
	mu     sync.Mutex
	log    strings.Builder
}

func (s *stopWhenLogged) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log.Write(line)
	if strings.Contains(string(line), s.text) {
		s.cancel()
	}
	return len(line), nil
}

func TestStandbyThatIsToldToStopEndsWithoutAnError(t *testing.T) {
	root := t.TempDir()
	open(t, root)
	c := newConfig(t, root)
	c.Standby = true
	ctx, cancel := context.WithCancel(t.Context())
	out := &stopWhenLogged{text: "standing by", cancel: cancel}
	if err := Serve(ctx, c, out); err != nil {
		t.Errorf("got error %v", err)
	}
	if got := out.log.String(); !strings.Contains(got, "root="+root) || !strings.Contains(got, "holder=") {
		t.Errorf("the log does not say what it waits for: %s", got)
	}
}

func TestOneFrontEndForEachProvisionerName(t *testing.T) {
	c := newConfig(t, t.TempDir(), t.TempDir(), t.TempDir())
	c.Pools[1].Provisioner = "example.com/other"
	a := &app{config: c, log: newLogger(c.Log, io.Discard), metrics: metrics.New("dev")}
	for _, p := range c.Pools {
		a.pools = append(a.pools, &pool{config: p, backend: open(t, p.Dir.Root)})
	}
	if err := a.setupFrontEnds(); err != nil {
		t.Fatal(err)
	}
	if got := len(a.fronts); got != 2 {
		t.Errorf("%d front ends for 2 names, want 2", got)
	}
}
