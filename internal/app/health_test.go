package app

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/metrics"
)

var errSilent = errors.New("no answer")

// nfs is a server that answers or does not.
type nfs struct {
	server
	silent bool
}

func (n *nfs) Serving() bool { return !n.silent }

func (n *nfs) Answers(context.Context) error {
	if n.silent {
		return errSilent
	}
	return nil
}

// get asks a's handler and gives the status and the first line of the answer.
func get(a *app, path string) (int, string) {
	w := httptest.NewRecorder()
	a.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
	line, _, _ := strings.Cut(w.Body.String(), "\n")
	return w.Code, line
}

func TestHealth(t *testing.T) {
	now := time.Unix(0, 0)
	a := &app{health: health{now: func() time.Time { return now }}, metrics: metrics.New("dev")}
	server := &nfs{silent: true}
	const exports = 100
	const limit = silence + exports*silenceForExport
	for _, step := range []struct {
		name            string
		do              func()
		healthz, readyz int
		says, lacks     string // /healthz, /readyz
	}{
		{"new", func() {}, 200, 503, "starting", "the NFS server is not up"},
		{"long in its start", func() { now = now.Add(time.Hour) }, 200, 503, "starting", "the NFS server is not up"},
		{"standing by", func() { a.health.waiting("standing by: x") }, 200, 503, "standing by: x", "standing by: x"},
		{"starting the server", func() {
			a.health.expects([]*exporter{{name: "ganesha", server: server}})
			a.health.started(server, exports)
		}, 200, 503, "it is started again", "the NFS server is not up (ganesha)"},
		{"patient", func() { now = now.Add(limit) }, 200, 503, "it is started again", "the NFS server is not up (ganesha)"},
		{"serving", func() { server.silent = false }, 200, 200, "the NFS server answers", "serving NFS"},
		{"an outage begins", func() { server.silent = true; now = now.Add(limit) }, 200, 503, "it is started again", "the NFS server is not up (ganesha)"},
		{"and lasts", func() { now = now.Add(time.Second) }, 503, 503, "the NFS server has not answered for 2m6s: no answer", "the NFS server is not up (ganesha)"},
		{"and ends", func() { server.silent = false }, 200, 200, "the NFS server answers", "serving NFS"},
	} {
		step.do()
		if status, text := get(a, "/healthz"); status != step.healthz || !strings.Contains(text, step.says) {
			t.Errorf("%s: /healthz is %d %q, want %d %q", step.name, status, text, step.healthz, step.says)
		}
		if status, text := get(a, "/readyz"); status != step.readyz || text != step.lacks {
			t.Errorf("%s: /readyz is %d %q, want %d %q", step.name, status, text, step.readyz, step.lacks)
		}
	}
}

// hosts is a server of the host's.
type hosts struct {
	server
	away bool
}

func (h *hosts) Serving() bool { return !h.away }

// To end this process does not help when a server of the host's is away.
func TestHealthWithAServerOfTheHost(t *testing.T) {
	a := &app{metrics: metrics.New("dev")}
	first, second := &hosts{}, &hosts{away: true}
	a.health.expects([]*exporter{{name: "kernel, pool a", server: first}, {name: "kernel, pool b", server: second}})
	if status, text := get(a, "/healthz"); status != http.StatusOK {
		t.Errorf("/healthz is %d %q", status, text)
	}
	if status, text := get(a, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(text, "pool b") {
		t.Errorf("/readyz is %d %q", status, text)
	}
	second.away = false
	if status, text := get(a, "/readyz"); status != http.StatusOK {
		t.Errorf("/readyz is %d %q", status, text)
	}
}

func TestMetricsAreServed(t *testing.T) {
	a := &app{metrics: metrics.New("v1.2.3")}
	w := httptest.NewRecorder()
	a.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	if !strings.Contains(w.Body.String(), `berth_build_info{version="v1.2.3"} 1`) {
		t.Error(w.Body.String())
	}
	if status, _ := get(a, "/other"); status != http.StatusNotFound {
		t.Errorf("/other is %d", status)
	}
}

// freePort gives the address of a port on loopback that nothing listens at.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// standBy runs a Berth that stands by, and calls while with its address as long as it
// does.
func standBy(t *testing.T, address string, while func()) string {
	t.Helper()
	t.Cleanup(klog.ClearLogger)
	root := t.TempDir()
	open(t, root)
	c := newConfig(t, root)
	c.Standby, c.HTTP.Listen = true, address
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan struct{})
	out := &stopWhenLogged{text: "standing by", cancel: func() { close(waiting) }}
	done := make(chan error)
	go func() { done <- Serve(ctx, c, out) }()
	<-waiting
	while()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("got error %v", err)
	}
	return out.log.String()
}

func TestStandbyIsAliveAndNotReady(t *testing.T) {
	address := freePort(t)
	standBy(t, address, func() {
		for path, want := range map[string]int{"/healthz": http.StatusOK, "/readyz": http.StatusServiceUnavailable} {
			response, err := http.Get("http://" + address + path)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(response.Body)
			response.Body.Close()
			if err != nil || response.StatusCode != want || string(text) != "standing by: another process has pool a open\n" {
				t.Errorf("%s is %d %q, %v; want %d", path, response.StatusCode, text, err, want)
			}
		}
	})
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatalf("the port is still taken after the end: %v", err)
	}
	l.Close()
}

func TestStandbyWaitsForItsPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	log := standBy(t, l.Addr().String(), func() {})
	if !strings.Contains(log, "health and metrics are served when this process takes over") {
		t.Errorf("the log does not say it:\n%s", log)
	}
}

func TestAPortThatIsTakenIsTold(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	root := t.TempDir()
	for name, standby := range map[string]bool{"a process that does not stand by": false, "one that has taken over": true} {
		c := newConfig(t, root)
		c.Standby, c.HTTP.Listen = standby, l.Addr().String()
		a := &app{config: c, log: newLogger(c.Log, io.Discard), metrics: metrics.New("dev")}
		if standby {
			a.pools = []*pool{{backend: &dir.Backend{}}}
		}
		if err := a.listen(); err == nil || !strings.Contains(err.Error(), "http.listen") {
			t.Errorf("%s: got error %v, want one of http.listen", name, err)
		}
	}
}

// A share that is away makes a process unready only if it serves nothing else.
func TestHealthWithShares(t *testing.T) {
	why := errors.New("the share nas:/vol does not answer")
	for _, c := range []struct {
		name      string
		exporters []*exporter
		shares    map[string]error
		readyz    int
		says      string
	}{
		{"a share", nil, map[string]error{"a": nil}, 200, "serving claims"},
		{"a share that is away", nil, map[string]error{"a": why}, 503, "pool a is not available: the share nas:/vol does not answer"},
		{"one of two", nil, map[string]error{"a": nil, "b": why}, 200, "serving claims; pool b is not available: the share nas:/vol does not answer"},
		{"beside a server", []*exporter{{name: "ganesha", server: &nfs{}}}, map[string]error{"b": why}, 200, "serving NFS; pool b is not available: the share nas:/vol does not answer"},
	} {
		a := &app{metrics: metrics.New("dev")}
		for pool, why := range c.shares {
			a.health.remote(pool, why)
		}
		if status, text := get(a, "/readyz"); status != 503 {
			t.Errorf("%s: /readyz is %d %q before it serves", c.name, status, text)
		}
		a.health.expects(c.exporters)
		if status, text := get(a, "/readyz"); status != c.readyz || text != c.says {
			t.Errorf("%s: /readyz is %d %q, want %d %q", c.name, status, text, c.readyz, c.says)
		}
		if status, text := get(a, "/healthz"); status != http.StatusOK {
			t.Errorf("%s: /healthz is %d %q", c.name, status, text)
		}
	}
}
