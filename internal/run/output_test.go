package run_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/run"
)

func shell(script string) run.Command {
	return run.Command{Path: "/bin/sh", Args: []string{"-c", script}, Env: []string{"GREETING=hello"}}
}

func TestOutput(t *testing.T) {
	got, err := run.Output(t.Context(), shell(`echo "$GREETING $LC_ALL"; echo aside >&2`), time.Minute)
	if err != nil || string(got) != "hello C\n" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestOutputTellsRefusedFromUnknown(t *testing.T) {
	ended, end := context.WithCancel(t.Context())
	end()
	for _, c := range []struct {
		name    string
		ctx     context.Context
		command run.Command
		limit   time.Duration
		refused bool
	}{
		{"exit status", t.Context(), shell("echo another thing; echo no such thing >&2; exit 3"), time.Minute, true},
		{"killed", t.Context(), shell("kill -9 $$"), time.Minute, false},
		{"too slow", t.Context(), shell("exec sleep 60"), 20 * time.Millisecond, false},
		{"ended context", ended, shell("true"), time.Minute, false},
		{"not there", t.Context(), run.Command{Path: "/nonexistent/program"}, time.Minute, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := run.Output(c.ctx, c.command, c.limit)
			exit, refused := errors.AsType[*run.ExitError](err)
			if err == nil || refused != c.refused {
				t.Fatalf("got error %v, refused: %t, want %t", err, refused, c.refused)
			}
			if refused && (exit.Status != 3 || exit.Stderr != "no such thing" || exit.Program != "sh" || string(exit.Stdout) != "another thing\n") {
				t.Errorf("got %+v", exit)
			}
		})
	}
}

func TestHere(t *testing.T) {
	got, err := run.Here{}.Output(t.Context(), []string{"sh", "-c", `echo "$1"`, "sh", "it's $HOME"})
	if err != nil || string(got) != "it's $HOME\n" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := (run.Here{}).Output(t.Context(), []string{"no-such-program"}); !errors.Is(err, run.ErrNotStarted) {
		t.Errorf("a program that is not there gave %v", err)
	}
	if _, err := (run.Here{Limit: time.Millisecond}).Output(t.Context(), []string{"sleep", "60"}); err == nil || errors.Is(err, run.ErrNotStarted) {
		t.Errorf("a program that is too slow gave %v", err)
	}
}
