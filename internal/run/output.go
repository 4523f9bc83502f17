package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ExitError says that a program ended by itself and was not content: what it says
// on standard error is its reason.
type ExitError struct {
	Program string
	Status  int
	Stderr  string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s: exit status %d: %s", e.Program, e.Status, e.Stderr)
}

// Output runs c to its end and gives what it printed on standard output. It ends
// in one of three ways: done (nil), refused (*ExitError), or with any other error
// not known: the program may have done its work, or part of it. A program that
// takes longer than limit is killed. c.Line and c.ChangesUser have no meaning here.
func Output(ctx context.Context, c Command, limit time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Env = append(append(os.Environ(), "LC_ALL=C"), c.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's Ctrl-C is for Berth alone
	cmd.WaitDelay = time.Second                           // for a grandchild that holds the output open
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	exit, ended := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return stdout.Bytes(), nil
	case ended && exit.Exited(): // by itself, not by a signal
		return nil, &ExitError{Program: filepath.Base(c.Path), Status: exit.ExitCode(), Stderr: strings.TrimSpace(stderr.String())}
	default:
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		return nil, fmt.Errorf("%s: it is not known what it did: %w", filepath.Base(c.Path), err)
	}
}
