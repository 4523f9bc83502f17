package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// How long the NFS server may go without an answer before this process counts as dead.
// By then it has been killed and started again several times, to no avail. A server takes
// the longer to start the more exports it has.
const (
	silence          = 2 * time.Minute
	silenceForExport = 50 * time.Millisecond
)

// ownServer is an NFS server that Berth runs, and that ends with it.
type ownServer interface {
	Answers(ctx context.Context) error // to a NULL call
}

// health is what this process says about itself to who may end it, as the kubelet does.
type health struct {
	now func() time.Time // nil: time.Now

	mu        sync.Mutex
	why       string      // it does not serve yet; "": it is starting
	set       bool        // it is known who is to serve:
	exporters []*exporter // whose servers are to serve
	// remotes are the pools on other hosts, and those of this one that were away, and why they are not available;
	// nil: they are.
	remotes  map[string]error
	server   ownServer // the one of these that Berth runs, if any
	limit    time.Duration
	answered time.Time // when the server did last, or was first started
}

// waiting says what this process waits for before it can serve.
func (h *health) waiting(why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.why = why
}

// expects says by whose servers NFS is to be served.
func (h *health) expects(exporters []*exporter) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.set, h.exporters = true, exporters
}

// remote says whether a pool on another host is available: why it is not, nil if it is.
func (h *health) remote(pool string, why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.remotes == nil {
		h.remotes = map[string]error{}
	}
	h.remotes[pool] = why
}

// whyAway says why a pool on another host is not available.
func (h *health) whyAway(pool string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if why := h.remotes[pool]; why != nil {
		return why
	}
	return errors.New("it is being opened")
}

// started says that the server that Berth runs is being started, with so many exports.
func (h *health) started(s ownServer, exports int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.server, h.limit, h.answered = s, silence+time.Duration(exports)*silenceForExport, h.clock()
}

func (h *health) clock() time.Time {
	if h.now != nil {
		return h.now()
	}
	return time.Now()
}

// alive says in words how this process is. Its error says that ending it is the only
// thing left to try: the NFS server that it runs has not answered for a long time. To
// one of the host's that would not help.
func (h *health) alive(ctx context.Context) (string, error) {
	h.mu.Lock()
	server, why := h.server, h.why
	others := h.set && !slices.ContainsFunc(h.exporters, func(e *exporter) bool { _, own := e.server.(ownServer); return own })
	h.mu.Unlock()
	switch {
	case others:
		return "alive; the NFS server is the host's own", nil
	case server == nil && why == "":
		return "starting", nil
	case server == nil:
		return why, nil
	}
	err := server.Answers(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		h.answered = h.clock()
		return "the NFS server answers", nil
	}
	if silent := h.clock().Sub(h.answered); silent > h.limit {
		return "", fmt.Errorf("the NFS server has not answered for %s: %w", silent.Round(time.Second), err)
	}
	return "the NFS server does not answer; it is started again", nil
}

// ready says in words what is served. Its error says that NFS is not, where Berth sees
// to that, or that no pool is there. One on another host that is away is told of only: the others
// are served, and nothing that is done with this process would help.
func (h *health) ready() (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case !h.set && h.why != "":
		return "", errors.New(h.why)
	case !h.set:
		return "", errors.New("the NFS server is not up")
	}
	for _, e := range h.exporters {
		if !e.server.Serving() {
			return "", fmt.Errorf("the NFS server is not up (%s)", e.name)
		}
	}
	text, away := "serving NFS", 0
	if len(h.exporters) == 0 {
		text = "serving claims"
	}
	for _, pool := range slices.Sorted(maps.Keys(h.remotes)) {
		if why := h.remotes[pool]; why != nil {
			text, away = text+fmt.Sprintf("; pool %s is not available: %s", pool, why), away+1
		}
	}
	if len(h.exporters) == 0 && away == len(h.remotes) {
		_, why, _ := strings.Cut(text, "; ")
		return "", errors.New(why)
	}
	return text, nil
}

// listen serves metrics and health from now on, also while another process has a pool
// open. One that stands by on the same host, with the same configuration, finds its port
// taken by the other until that one ends: it serves them when it takes over.
func (a *app) listen() error {
	if a.config.HTTP.Listen == "" || a.http != nil {
		return nil
	}
	l, err := net.Listen("tcp", a.config.HTTP.Listen)
	if err != nil {
		if a.config.Standby && len(a.pools) == 0 && errors.Is(err, syscall.EADDRINUSE) {
			a.log.Info("health and metrics are served when this process takes over", "err", err)
			return nil
		}
		return fmt.Errorf("http.listen: %w", err)
	}
	a.http = &http.Server{Handler: a.handler(), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		// An error comes at the end only: a listener that was made does not fail by itself.
		if err := a.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			a.log.Error("metrics and health are not served any more", "err", err)
		}
	}()
	return nil
}

// handler serves /metrics; /healthz, which fails if this process should be ended; and
// /readyz, which says whether NFS is served, and which pools are away.
func (a *app) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", a.metrics.Handler())
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		text, err := a.health.alive(r.Context())
		answer(w, text, err)
	})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		text, err := a.health.ready()
		answer(w, text, err)
	})
	return mux
}

func answer(w http.ResponseWriter, text string, err error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		text = err.Error()
	}
	// A client that went away is no concern of ours.
	_, _ = io.WriteString(w, text+"\n")
}
