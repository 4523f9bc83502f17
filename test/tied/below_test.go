package tied_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/berth-storage/berth/test/tied"
)

func TestBelow(t *testing.T) {
	// A shell that has a shell that has a sleep, and says which.
	shell := exec.Command("sh", "-c", `sh -c 'sleep 1000 & echo $$ $!; wait' & wait`)
	out, err := shell.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := tied.Start(shell)
	if err != nil {
		t.Fatal(err)
	}
	var inner, sleep int
	_, scanErr := fmt.Fscan(bufio.NewReader(out), &inner, &sleep)
	awaitName(t, sleep, "sleep")
	below, slept := tied.Below(os.Getpid()), tied.BelowNamed(p.PID, "sleep")
	again, other := tied.Below(p.PID), tied.BelowNamed(p.PID, "sleeper")
	if err := syscall.Kill(-p.PID, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	p.Kill()
	if scanErr != nil {
		t.Fatal(scanErr)
	}
	for _, pid := range []int{p.PID, inner, sleep} {
		if !slices.Contains(below, pid) {
			t.Errorf("below this process are %v, want %d among them", below, pid)
		}
	}
	if !slices.Equal(again, []int{inner, sleep}) {
		t.Errorf("below the shell are %v, want %d and %d", again, inner, sleep)
	}
	if !slices.Equal(slept, []int{sleep}) || other != nil {
		t.Errorf("sleep is %v and sleeper is %v, want %d and none", slept, other, sleep)
	}
	if gone := tied.Below(p.PID); gone != nil {
		t.Errorf("below a process that was killed are %v", gone)
	}
}

// awaitName waits until a process that was just forked runs the program: until then it has the shell's name.
func awaitName(t *testing.T, pid int, name string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err != nil || string(comm) == name+"\n" {
			return // or it has ended, which the test notices
		}
	}
	t.Errorf("process %d does not become %s", pid, name)
}
