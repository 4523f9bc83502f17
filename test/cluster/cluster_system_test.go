//go:build system

package cluster

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// testLog writes lines of progress to the log of a test.
type testLog struct{ t *testing.T }

func (l testLog) Write(line []byte) (int, error) {
	l.t.Log(strings.TrimSuffix(string(line), "\n"))
	return len(line), nil
}

// kubectl runs kubectl and fails the test if that fails.
func kubectl(t *testing.T, c *Cluster, args ...string) string {
	t.Helper()
	output, err := c.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return string(output)
}

const manifest = `
apiVersion: v1
kind: Namespace
metadata: {name: harbour}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: ship, namespace: harbour}
data: {cargo: tea}
`

func TestCluster(t *testing.T) {
	c, err := Start(t.Context(), Options{Scheduler: true, Log: testLog{t}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	if got := kubectl(t, c, "version"); !strings.Contains(got, "Server Version: "+Version) {
		t.Errorf("the version is %q, want %s", got, Version)
	}
	if _, err := c.KubectlApply(t.Context(), []byte(manifest)); err != nil {
		t.Fatal(err)
	}
	if got := kubectl(t, c, "create", "token", "default", "-n", "harbour"); strings.Count(got, ".") != 2 {
		t.Errorf("the token is %q", got)
	}
	if _, err := c.Kubectl(t.Context(), "get", "pods", "--as=system:anonymous"); err == nil || !strings.Contains(err.Error(), "Forbidden") {
		t.Errorf("a stranger's question is answered with %v, want Forbidden", err)
	}

	server := c.Server()
	restart(t, c)
	if c.Server() != server {
		t.Errorf("the address changed from %s to %s", server, c.Server())
	}
	if got := kubectl(t, c, "get", "configmap", "ship", "-n", "harbour", "-o", "jsonpath={.data.cargo}"); got != "tea" {
		t.Errorf("after the restart the cargo is %q, want tea", got)
	}

	components := make([]identity, 0, 4)
	for _, p := range c.processes {
		components = append(components, p.identity)
	}
	began := time.Now()
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	t.Logf("stopped after %.1f s", time.Since(began).Seconds())
	if len(components) != 4 {
		t.Errorf("there were %d components, want 4", len(components))
	}
	for _, component := range components {
		if component.alive() {
			t.Errorf("%s runs after Stop", component.Name)
		}
	}
	if _, err := os.Stat(c.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary folder is still there: %v", err)
	}
}

// restart stops the API server, checks that it is gone, and starts it again.
func restart(t *testing.T, c *Cluster) {
	t.Helper()
	began := time.Now()
	if err := c.StopAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("the API server is stopped after %.1f s", time.Since(began).Seconds())
	if err := c.apiServerReady(t.Context()); err == nil {
		t.Error("the stopped API server answers")
	}
	began = time.Now()
	if err := c.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("the API server is back after %.1f s", time.Since(began).Seconds())
	if err := c.StartAPIServer(t.Context()); err == nil {
		t.Error("the API server was started twice")
	}
}

func TestStartShowsWhyAComponentEnded(t *testing.T) {
	dir := t.TempDir()
	_, err := Start(t.Context(), Options{Dir: dir, APIServerArgs: []string{"--no-such-flag"}, Log: testLog{t}})
	if err == nil {
		t.Fatal("a cluster was started with a wrong flag")
	}
	for _, want := range []string{apiServer, "unknown flag: --no-such-flag", dir} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not contain %q", err, want)
		}
	}
	// The folder is free again: nothing runs, nobody holds it.
	if number, err := StopDetached(t.Context(), dir); number != 0 || err != nil {
		t.Errorf("StopDetached = %d, %v, want 0", number, err)
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Start(ctx, Options{Dir: t.TempDir()}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want one that the time was over", err)
	}
}
