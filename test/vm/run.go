package vm

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/berth-storage/berth/test/vm/wire"
)

// Command is a program to run in the guest, as root.
type Command struct {
	Args []string
	// Env is added to the environment, as NAME=value.
	Env []string
	// Dir is the folder to run in; "" is /.
	Dir string
	// Stdin may be nil for an empty input, the others to discard output.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// ExitError is how a program ended that did not end well.
type ExitError struct {
	Args []string
	// Code is the exit status, or -1 if a signal ended the program.
	Code int
	// Signal is the signal's name.
	Signal string
	// Stderr is what the program wrote, if the caller did not take it himself.
	Stderr string
}

func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit status %d", e.Code)
	if e.Signal != "" {
		how = "signal: " + e.Signal
	}
	return strings.TrimSpace(fmt.Sprintf("%q in the guest: %s\n%s", e.Args, how, e.Stderr))
}

// Run runs a program to its end and returns its standard output. The error of one
// that did not end with exit status 0 is an *ExitError, which has its standard error.
func (g *Guest) Run(ctx context.Context, args ...string) (stdout string, err error) {
	var out, errOut bytes.Buffer
	err = g.Exec(ctx, Command{Args: args, Stdout: &out, Stderr: &errOut})
	if exit, ok := errors.AsType[*ExitError](err); ok {
		exit.Stderr = errOut.String()
	}
	return out.String(), err
}

// Exec runs a program to its end. When ctx ends, the program and those that it has
// started are killed. An error other than an *ExitError says that it could not be
// started, or that nobody knows how it ended.
func (g *Guest) Exec(ctx context.Context, c Command) error {
	conn, err := g.dial(ctx)
	if err != nil {
		return fmt.Errorf("reaching the guest: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	exit, err := c.talk(conn)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%q in the guest was killed: %w", c.Args, context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("%q in the guest: %w; the end of its console:\n%s", c.Args, err, g.consoleTail())
	case exit.Error != "":
		return fmt.Errorf("%q in the guest: %s", c.Args, exit.Error)
	case exit.Code != 0:
		return &ExitError{Args: c.Args, Code: exit.Code, Signal: exit.Signal}
	}
	return nil
}

// talk sends the command and its input, and passes its output on until it has ended.
func (c Command) talk(conn net.Conn) (*wire.Exit, error) {
	to, from := gob.NewEncoder(conn), gob.NewDecoder(conn)
	if err := to.Encode(wire.Command{Args: c.Args, Env: c.Env, Dir: c.Dir}); err != nil {
		return nil, err
	}
	input := make(chan error, 1)
	go func() { input <- sendInput(to, c.Stdin) }()
	outputs := map[int]io.Writer{wire.Stdout: c.Stdout, wire.Stderr: c.Stderr}
	for {
		var f wire.Frame
		if err := from.Decode(&f); err != nil {
			return nil, fmt.Errorf("the connection broke: %w", err)
		}
		if f.Exit != nil {
			return f.Exit, nil
		}
		if w := outputs[f.Stream]; w != nil {
			if _, err := w.Write(f.Data); err != nil {
				return nil, fmt.Errorf("passing its output on: %w", err)
			}
		}
	}
}

// sendInput sends a program's standard input to its end.
func sendInput(to *gob.Encoder, input io.Reader) error {
	if input != nil {
		buffer := make([]byte, 64<<10)
		for {
			n, err := input.Read(buffer)
			if n > 0 {
				if err := to.Encode(wire.Frame{Stream: wire.Stdin, Data: buffer[:n]}); err != nil {
					return err
				}
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
		}
	}
	return to.Encode(wire.Frame{Stream: wire.Stdin})
}

// Put copies a file of the host, with its permissions, to a path in the guest.
func (g *Guest) Put(ctx context.Context, file, path string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	err = g.Exec(ctx, Command{
		Args:  []string{"sh", "-c", `mkdir -p "$1" && cat >"$2" && chmod "$3" "$2" && sync "$2" "$1"`, "sh", filepath.Dir(path), path, fmt.Sprintf("%o", info.Mode().Perm())},
		Stdin: f,
	})
	if err != nil {
		return fmt.Errorf("copying %s to %s: %w", file, path, err)
	}
	return nil
}
