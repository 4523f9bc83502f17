package app

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/berth-storage/berth/internal/config"
)

// A share that is not there keeps nothing else from being served, and is told of.
func TestSharesAreOpenedInTheBackground(t *testing.T) {
	c := newConfig(t)
	for name, root := range map[string]string{"there": t.TempDir(), "missing": filepath.Join(t.TempDir(), "missing")} {
		c.Pools = append(c.Pools, config.Pool{
			Name: name, Provisioner: "example.com/" + name, ExportPath: "/vol/" + name,
			Subdir: &config.Subdir{Server: "nas", Path: "/vol/" + name, Root: root, Cluster: "west"},
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &stopWhenAllLogged{cancel: cancel, texts: []string{
		`msg="the pool is available" pool=there`,
		"waiting for the API server", // by its front end
		"missing does not exist",
	}}
	if err := Serve(ctx, c, out); err != nil {
		t.Errorf("got error %v", err)
	}
}

// stopWhenAllLogged cancels when each of texts was logged.
type stopWhenAllLogged struct {
	texts  []string
	cancel context.CancelFunc
	mu     sync.Mutex
}

func (s *stopWhenAllLogged) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.texts = slices.DeleteFunc(s.texts, func(text string) bool { return strings.Contains(string(line), text) })
	if len(s.texts) == 0 {
		s.cancel()
	}
	return len(line), nil
}
