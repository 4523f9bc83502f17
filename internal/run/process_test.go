package run_test

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/run"
)

func start(t *testing.T, script string, line func(string)) *run.Process {
	t.Helper()
	sh, err := run.Find("sh", "dash")
	if err != nil {
		t.Fatal(err)
	}
	p, err := run.Start(run.Command{Path: sh, Args: []string{"-c", script}, Env: []string{"GREETING=hello"}, Line: line})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestOutputAndExitStatus(t *testing.T) {
	var lines []string
	p := start(t, `echo "$GREETING"; echo "$LC_ALL" >&2; exit 3`, func(l string) { lines = append(lines, l) })
	<-p.Done()
	if got := strings.Join(lines, " "); got != "hello C" {
		t.Errorf("output is %q", got)
	}
	if err := p.Err(); err == nil || !strings.Contains(err.Error(), "3") {
		t.Errorf("exit status 3 gave %v", err)
	}
}

func TestStopIsPatientThenKills(t *testing.T) {
	trapped := make(chan struct{})
	p := start(t, `trap "" TERM; echo ready; while :; do sleep 0.01; done`, func(string) { close(trapped) })
	<-trapped
	if err := p.Stop(20 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	default:
		t.Error("still running after Stop")
	}
	if err := p.Stop(time.Hour); err != nil {
		t.Errorf("Stop of an ended process: %v", err)
	}
	if err := syscall.Kill(p.PID(), 0); err == nil {
		t.Errorf("process %d is still there", p.PID())
	}
}

func TestMissingProgramNamesItsPackage(t *testing.T) {
	_, err := run.Find("no-such-program", "the-package")
	if err == nil || !strings.Contains(err.Error(), "apt-get install the-package") {
		t.Errorf("got %v", err)
	}
}
