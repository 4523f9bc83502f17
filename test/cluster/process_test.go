package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// childLog makes the test binary a parent that starts one child, tells its
// pid and waits to be killed. Its value is the child's log.
const childLog = "BERTH_TEST_CHILD_LOG"

func TestMain(m *testing.M) {
	if log := os.Getenv(childLog); log != "" {
		p, err := startProcess("sleep", log, exec.Command("sleep", "300"), false)
		fmt.Println(p.PID, err)
		select {}
	}
	os.Exit(m.Run())
}

func TestParseStat(t *testing.T) {
	tail := " S 1 2 2 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2 3\n"
	for _, command := range []string{"(sh)", "(a b)", "(a) S 1 (b)", "()"} {
		got, err := parseStat([]byte("42 " + command + tail))
		if want := (stat{state: 'S', start: 98765}); err != nil || got != want {
			t.Errorf("parseStat of %s = %+v, %v, want %+v", command, got, err, want)
		}
	}
	for _, text := range []string{"", "42", "42 (sh) S 1 2", "42 (sh)" + strings.Replace(tail, "98765", "x", 1)} {
		if got, err := parseStat([]byte(text)); err == nil {
			t.Errorf("parseStat(%q) = %+v, want an error", text, got)
		}
	}
}

// startSleep starts a child to be stopped.
func startSleep(t *testing.T) *process {
	t.Helper()
	p, err := startProcess("sleep", filepath.Join(t.TempDir(), "log"), exec.Command("sleep", "300"), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.stop(t.Context()); err != nil {
			t.Error(err)
		}
		<-p.done
	})
	return p
}

func TestStopEndsTheProcess(t *testing.T) {
	p := startSleep(t)
	if !p.alive() {
		t.Fatal("a process that was just started is not alive")
	}
	if err := p.ended(); err != nil {
		t.Fatalf("a running process ended: %v", err)
	}
	if err := p.stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.alive() {
		t.Error("it is alive after stop")
	}
	if err := p.stop(t.Context()); err != nil {
		t.Errorf("stopping it again: %v", err)
	}
}

func TestStopSparesAReusedNumber(t *testing.T) {
	p := startSleep(t)
	old := p.identity
	old.Start--
	if old.alive() {
		t.Error("a process with another start time is taken for the old one")
	}
	if err := old.stop(t.Context()); err != nil {
		t.Errorf("stopping a process that is gone: %v", err)
	}
	if !p.alive() {
		t.Error("the process that got the number was stopped")
	}
}

func TestZombieIsNotAlive(t *testing.T) {
	cmd := exec.Command("sleep", "300")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	id, err := identify("sleep", cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	// Nobody waits for it until the end of the test.
	if err := id.stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestEndedShowsTheLog(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	p, err := startProcess("counter", log, exec.Command("sh", "-c", "seq -f 'line %.0f' 30; exit 3"), false)
	if err != nil {
		t.Fatal(err)
	}
	<-p.done
	err = p.ended()
	if err == nil {
		t.Fatal("it did not end")
	}
	for _, want := range []string{"counter", "exit status 3", log, "\nline 11\n", "line 30"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not contain %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "line 10\n") {
		t.Errorf("%q has more than the last 20 lines", err)
	}
}

func TestStartOfWhatIsNotThere(t *testing.T) {
	_, err := startProcess("nothing", filepath.Join(t.TempDir(), "log"), exec.Command("/does/not/exist"), false)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want one that the program does not exist", err)
	}
}

func TestChildDiesWithItsKilledParent(t *testing.T) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), childLog+"="+filepath.Join(t.TempDir(), "log"))
	parent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(line, &pid); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	child, err := identify("child", pid)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // Long enough for an idle thread to be parked.
	if !child.alive() {
		t.Fatal("the child ended before its parent")
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	parent.Wait()
	for deadline := time.Now().Add(time.Minute); child.alive(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the child outlives its killed parent:", child.stop(t.Context()))
		}
	}
}
