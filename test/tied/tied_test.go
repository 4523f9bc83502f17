package tied

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// parentVariable has this test binary be a parent, who is killed.
const parentVariable = "BERTH_TEST_TIED_PARENT"

func TestMain(m *testing.M) {
	if os.Getenv(parentVariable) != "" {
		p, err := Start(exec.Command("sleep", "1000"))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(p.PID)
		select {}
	}
	os.Exit(m.Run())
}

func TestAProgramDiesWithItsParent(t *testing.T) {
	parent := exec.CommandContext(t.Context(), os.Args[0])
	parent.Env = append(os.Environ(), parentVariable+"=1")
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
	stat := "/proc/" + strings.TrimSpace(line) + "/stat"
	time.Sleep(100 * time.Millisecond) // long enough for an idle thread to end
	if !runs(stat) {
		t.Fatal("the program has ended before its parent")
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // it was killed
	for deadline := time.Now().Add(time.Minute); runs(stat); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the program outlives its parent")
		}
	}
}

// runs says whether the process of a stat file runs; a zombie does not.
func runs(stat string) bool {
	text, err := os.ReadFile(stat)
	return err == nil && !strings.Contains(string(text), ") Z ")
}

func TestEnds(t *testing.T) {
	p, err := Start(exec.Command("sh", "-c", "exit 3"))
	if err != nil {
		t.Fatal(err)
	}
	if exit, ok := errors.AsType[*exec.ExitError](p.Wait(t.Context())); !ok || exit.ExitCode() != 3 {
		t.Errorf("it ended with %v", p.Stop())
	}
	p.Kill() // of one that has ended

	if p, err = Start(exec.Command("sleep", "1000")); err != nil {
		t.Fatal(err)
	}
	exit, ok := errors.AsType[*exec.ExitError](p.Stop())
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("it ended with %v, not by SIGTERM", exit)
	}
	if _, err := Start(exec.Command("/no/such/program")); err == nil {
		t.Error("a program that is not there was started")
	}
}
