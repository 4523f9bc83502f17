//go:build system

package sshd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/run"
)

func start(t *testing.T, o Options) *Server {
	t.Helper()
	o.Dir = t.TempDir()
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		if t.Failed() {
			t.Log(s.Log())
		}
	})
	return s
}

func TestWordsArriveAsTheyAre(t *testing.T) {
	h := Connect(t, start(t, Options{}).SSH())
	argv := []string{"printf", `%s\n`, "", " ", "it's", `"`, "$HOME", "`id`", `\`, `\'`, "a\nb", "*", "~", "-n", "ü", "!x", "{a,b}", ";#&|<>()", "\t\r\x01"}
	got, err := h.Output(t.Context(), argv)
	if want := strings.Join(argv[2:], "\n") + "\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestOutcomes(t *testing.T) {
	h := Connect(t, start(t, Options{}).SSH())
	_, err := h.Output(t.Context(), []string{"sh", "-c", "echo aside; echo no such thing >&2; exit 3"})
	exit, refused := errors.AsType[*run.ExitError](err)
	if !refused || exit.Status != 3 || exit.Stderr != "no such thing" || exit.Program != "sh on 127.0.0.1" {
		t.Errorf("a program that says no: %+v", err)
	}
	if _, err := h.Output(t.Context(), []string{"no-such-program"}); err == nil || !strings.Contains(err.Error(), "No such file") {
		t.Errorf("a program that is not there: %v", err)
	}
	_, err = h.Output(t.Context(), []string{"sh", "-c", "kill -9 $$"})
	if _, refused := errors.AsType[*run.ExitError](err); err == nil || refused || errors.Is(err, run.ErrNotStarted) {
		t.Errorf("a program that is killed: %v", err)
	}
}

func TestManyCommandsShareAConnection(t *testing.T) {
	h := Connect(t, start(t, Options{}).SSH())
	var all sync.WaitGroup
	for i := range 60 {
		all.Go(func() {
			got, err := h.Output(t.Context(), []string{"echo", fmt.Sprint(i)})
			if err != nil || strings.TrimSpace(string(got)) != fmt.Sprint(i) {
				t.Errorf("command %d: %q, %v", i, got, err)
			}
		})
	}
	all.Wait()
}

func TestFewerSessionsThanExpected(t *testing.T) {
	s := start(t, Options{Lines: "MaxSessions 1"})
	h := Connect(t, s.SSH())
	slow := make(chan error)
	gate := filepath.Join(t.TempDir(), "gate")
	if err := exec.Command("mkfifo", gate).Run(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := h.Output(t.Context(), []string{"cat", gate})
		slow <- err
	}()
	f, err := os.OpenFile(gate, os.O_WRONLY, 0) // when cat has opened it
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Output(t.Context(), []string{"true"}); !errors.Is(err, run.ErrNotStarted) || !strings.Contains(err.Error(), "MaxSessions") {
		t.Errorf("got %v", err)
	}
	f.Close()
	if err := <-slow; err != nil {
		t.Error(err)
	}
	if _, err := h.Output(t.Context(), []string{"true"}); err != nil {
		t.Errorf("after that: %v", err)
	}
}

// Keys as ssh-keygen makes them.
func TestKeys(t *testing.T) {
	s := start(t, Options{})
	for _, c := range []struct {
		name string
		args []string
	}{
		{"ed25519", []string{"-t", "ed25519"}},
		{"rsa", []string{"-t", "rsa", "-b", "2048"}},
		{"ecdsa", []string{"-t", "ecdsa"}},
		{"pem", []string{"-t", "rsa", "-b", "2048", "-m", "PEM"}},
	} {
		for _, passphrase := range []string{"", "someRandomPass4Me!"} {
			t.Run(c.name+passphrase, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "key")
				args := append([]string{"-q", "-N", passphrase, "-f", path}, c.args...)
				if output, err := exec.Command("ssh-keygen", args...).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, output)
				}
				public, err := os.ReadFile(path + ".pub")
				if err == nil {
					err = s.Authorize(string(public))
				}
				if err != nil {
					t.Fatal(err)
				}
				o := s.SSH()
				o.KeyFile, o.Passphrase = path, passphrase
				if _, err := Connect(t, o).Output(t.Context(), []string{"true"}); err != nil {
					t.Error(err)
				}
				if passphrase == "" {
					return
				}
				for given, want := range map[string]string{"": "it has a passphrase, and none is given", "wrong": "incorrect"} {
					o.Passphrase = given
					if _, err := run.NewSSH(o); err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("with the passphrase %q: %v", given, err)
					}
				}
			})
		}
	}
}

// What happened to a command whose connection breaks is not known, whether it was done or not.
func TestCuts(t *testing.T) {
	s := start(t, Options{})
	h := Connect(t, s.SSH())
	for _, c := range []struct {
		moment Moment
		done   bool
	}{{Before, false}, {During, true}, {After, true}} {
		for range 3 {
			if _, err := h.Output(t.Context(), []string{"true"}); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "file")
			cut := s.CutAt(c.moment)
			_, err := h.Output(t.Context(), []string{"touch", file})
			if _, refused := errors.AsType[*run.ExitError](err); err == nil || refused || errors.Is(err, run.ErrNotStarted) {
				t.Errorf("%s: %v", c.moment, err)
			}
			if err := <-cut; err != nil {
				t.Fatal(err)
			}
			if c.done {
				for !exists(file) {
					time.Sleep(time.Millisecond)
				}
			} else if exists(file) {
				t.Error("it was done")
			}
		}
	}
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func TestLimit(t *testing.T) {
	s := start(t, Options{})
	o := s.SSH()
	gate := filepath.Join(t.TempDir(), "gate")
	if err := exec.Command("mkfifo", gate).Run(); err != nil {
		t.Fatal(err)
	}
	o.Limit = 500 * time.Millisecond
	_, err := Connect(t, o).Output(t.Context(), []string{"cat", gate})
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, run.ErrNotStarted) {
		t.Errorf("got %v", err)
	}
	f, err := os.OpenFile(gate, os.O_WRONLY, 0) // cat goes on where it runs, and ends now
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}
