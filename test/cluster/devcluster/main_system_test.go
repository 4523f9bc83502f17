//go:build system

package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestUpAndDown(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "it's a cluster")
	do := func(want string, args ...string) string {
		t.Helper()
		output, err := devcluster(t, append(args, "-dir", dir)...)
		if err != nil || !strings.Contains(output, want) {
			t.Fatalf("%v prints %q, %v, want %q", args, output, err, want)
		}
		return strings.TrimSpace(output)
	}
	t.Cleanup(func() { do("", "down", "-purge") })

	script := do("export KUBECONFIG=", "up")
	script = script[strings.LastIndex(script, "\n")+1:] + `; printf %s "$KUBECONFIG"`
	if output, err := exec.Command("sh", "-c", script).Output(); err != nil || string(output) != filepath.Join(dir, "kubeconfig") {
		t.Errorf("%s gives %q, %v", script, output, err)
	}
	kubectl := do("kubectl", "kubectl-path")
	if output, err := exec.Command(kubectl, "create", "namespace", "harbour").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	if info, err := os.Stat(filepath.Join(dir, "kubeconfig")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the kubeconfig has the mode %v, %v", info.Mode(), err)
	}
	do("it is up already", "up")

	crash(t, dir)
	do("that a broken cluster left", "up", "-kcm-arg", "--kube-api-qps=100")
	do("stopped 3 processes", "down")
	do("nothing runs", "down")
	do("up after", "up")
	if output, err := exec.Command(kubectl, "get", "namespace", "harbour").CombinedOutput(); err != nil {
		t.Errorf("the data is lost: %v: %s", err, output)
	}
	do("removed the data", "down", "-purge")
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the folder is still there: %v", err)
	}
}

// crash kills the API server of the cluster in the folder.
func crash(t *testing.T, dir string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	var state struct {
		Processes []struct {
			Name string
			PID  int
		}
	}
	if err := json.Unmarshal(content, &state); err != nil {
		t.Fatal(err)
	}
	for _, process := range state.Processes {
		if process.Name == "kube-apiserver" {
			if err := syscall.Kill(process.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			// It takes a while to give its memory back.
			for syscall.Kill(process.PID, 0) == nil {
				time.Sleep(20 * time.Millisecond)
			}
			return
		}
	}
	t.Fatalf("there is no API server in %s", content)
}
