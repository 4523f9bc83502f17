//go:build system

package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOutcomeOfACommand(t *testing.T) {
	for script, want := range map[string]ExitError{
		"echo out; echo err >&2; exit 3": {Code: 3, Stderr: "err\n"},
		"echo out; kill -TERM $$":        {Code: -1, Signal: "terminated"},
	} {
		out, err := shared.Run(t.Context(), "sh", "-c", script)
		exit, ok := errors.AsType[*ExitError](err)
		if !ok {
			t.Errorf("%q: got %v, want an ExitError", script, err)
			continue
		}
		if out != "out\n" || exit.Code != want.Code || exit.Signal != want.Signal || exit.Stderr != want.Stderr {
			t.Errorf("%q: got %q and %+v, want %+v", script, out, exit, want)
		}
	}
	_, err := shared.Run(t.Context(), "/no/such/program")
	if _, ok := errors.AsType[*ExitError](err); ok || err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a program that is not there: %v", err)
	}
}

func TestEnvironmentAndFolderOfACommand(t *testing.T) {
	var out bytes.Buffer
	err := shared.Exec(t.Context(), Command{
		Args: []string{"sh", "-c", "echo $PWD $WORD $HOME"}, Env: []string{"WORD=a  b"}, Dir: "/usr/bin", Stdout: &out,
	})
	if err != nil || out.String() != "/usr/bin a b /root\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

// What goes in comes out, all of it and nothing else, on both streams.
func TestLargeInputAndOutput(t *testing.T) {
	const size = 20 << 20
	in, out, errOut := sha256.New(), sha256.New(), sha256.New()
	random := io.LimitReader(rand.NewChaCha8([32]byte{1}), size)
	err := shared.Exec(t.Context(), Command{
		Args:  []string{"tee", "/dev/stderr"},
		Stdin: io.TeeReader(random, in), Stdout: out, Stderr: errOut,
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]byte{"output": out.Sum(nil), "error output": errOut.Sum(nil)} {
		if !bytes.Equal(got, in.Sum(nil)) {
			t.Errorf("the standard %s is not what was sent", name)
		}
	}
}

// A daemon that keeps its parent's output open holds nobody up, and lives on.
func TestACommandLeavesADaemon(t *testing.T) {
	out := run(t, shared, "sh", "-c", "sleep 1000 & echo $!; head -c 60000 /dev/zero | tr '\\0' x")
	pid, rest, _ := strings.Cut(out, "\n")
	if rest != strings.Repeat("x", 60000) {
		t.Errorf("%d bytes of output, want 60000", len(rest))
	}
	run(t, shared, "kill", pid)
}

func TestACancelledCommandIsKilled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	pid := &firstLine{seen: make(chan string, 1)}
	ended := make(chan error)
	go func() {
		ended <- shared.Exec(ctx, Command{Args: []string{"sh", "-c", "sleep 1000 & echo $!; wait"}, Stdout: pid})
	}()
	child := <-pid.seen
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that the context was cancelled", err)
	}
	until(t, "the command's child is gone", func() bool {
		_, err := shared.Run(t.Context(), "test", "-e", "/proc/"+child)
		return err != nil
	})
}

// firstLine tells what was first written to it, without the end of the line.
type firstLine struct{ seen chan string }

func (f *firstLine) Write(p []byte) (int, error) {
	f.seen <- strings.TrimSpace(string(p))
	return len(p), nil
}

func TestFilesGoInAndOut(t *testing.T) {
	content := bytes.Repeat([]byte("cargo\n"), 1<<20)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, content, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := shared.Put(t.Context(), file, "/srv/new/place"); err != nil {
		t.Fatal(err)
	}
	if mode := run(t, shared, "stat", "-c", "%a", "/srv/new/place"); mode != "750\n" {
		t.Errorf("its mode is %s", mode)
	}
	run(t, shared, "cp", "/srv/new/place", Share+"/result")
	got, err := os.ReadFile(filepath.Join(shared.Shared, "result"))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes came back, %v; want %d", len(got), err, len(content))
	}
	if err := shared.Put(t.Context(), file, "/proc/place"); err == nil {
		t.Error("a file was put into /proc")
	}
}
