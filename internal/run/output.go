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
	// Stdout is what it printed all the same: of several things that it was asked about, those that are there.
	Stdout []byte
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s: exit status %d: %s", e.Program, e.Status, e.Stderr)
}

// ErrNotStarted says that the program was certainly not started, so nothing was done.
var ErrNotStarted = errors.New("not started")

// Here runs programs on this host, in the same way as SSH does on another one.
type Here struct {
	Limit time.Duration // how long one may take; 0 is a minute
}

// Output runs argv, a program's name or path and its arguments, as the function Output does.
// An error that is ErrNotStarted is sure to have changed nothing.
func (h Here) Output(ctx context.Context, argv []string) ([]byte, error) {
	path, err := find(argv[0])
	if err != nil {
		return nil, fmt.Errorf("%w: the program %s is not installed on this host", ErrNotStarted, argv[0])
	}
	if h.Limit == 0 {
		h.Limit = time.Minute
	}
	return Output(ctx, Command{Path: path, Args: argv[1:]}, h.Limit)
}

// Output runs c to its end and gives what it printed on standard output. It ends
// in one of three ways: done (nil), refused (*ExitError), or with any other error
// not known: the program may have done its work, or part of it. A program that
// takes longer than limit is killed; for one that the kernel does not let die (its disk does not answer) nobody
// waits. c.Line and c.ChangesUser have no meaning here.
func Output(ctx context.Context, c Command, limit time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Env = append(append(os.Environ(), "LC_ALL=C"), c.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's Ctrl-C is for Berth alone
	// For a grandchild that holds the output open. Not less: where starting programs is slow, a child that another
	// goroutine has just forked holds it for a while, too.
	cmd.WaitDelay = 10 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	end, late := make(chan error, 1), make(chan struct{})
	go func() { end <- cmd.Run() }()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(2*cmd.WaitDelay, func() { close(late) }) })()
	var err error
	select {
	case err = <-end:
	case <-late:
		return nil, fmt.Errorf("%s: it is not known what it does: %w, and it does not end although it was killed", filepath.Base(c.Path), context.Cause(ctx))
	}
	exit, ended := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return stdout.Bytes(), nil
	case ended && exit.Exited(): // by itself, not by a signal
		return nil, &ExitError{Program: filepath.Base(c.Path), Status: exit.ExitCode(), Stderr: strings.TrimSpace(stderr.String()), Stdout: stdout.Bytes()}
	default:
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		return nil, fmt.Errorf("%s: it is not known what it did: %w", filepath.Base(c.Path), err)
	}
}
