package main

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/test/vm/wire"
)

// answer runs the command that conn asks for and tells how it ended.
func answer(conn net.Conn) error {
	in := gob.NewDecoder(conn)
	var command wire.Command
	if err := in.Decode(&command); err != nil {
		return fmt.Errorf("reading a command: %w", err)
	}
	out := &sender{to: gob.NewEncoder(conn)}
	exit, err := run(command, in, out)
	if err != nil {
		exit = wire.Exit{Code: -1, Error: err.Error()}
	}
	if err := out.send(wire.Frame{Exit: &exit}); err != nil {
		return fmt.Errorf("the host did not wait for the end of %q: %w", command.Args, err)
	}
	return nil
}

// run runs the command to its end. It does not wait for daemons that the command
// leaves behind, though they may hold its output open.
func run(command wire.Command, in *gob.Decoder, out *sender) (wire.Exit, error) {
	if len(command.Args) == 0 {
		return wire.Exit{}, errors.New("no command")
	}
	cmd := exec.Command(command.Args[0], command.Args[1:]...)
	cmd.Dir = command.Dir
	cmd.Env = append(os.Environ(), command.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return wire.Exit{}, err
	}
	stdout, stdoutEnd, err := os.Pipe()
	if err != nil {
		return wire.Exit{}, err
	}
	defer stdout.Close()
	stderr, stderrEnd, err := os.Pipe()
	if err != nil {
		stdoutEnd.Close()
		return wire.Exit{}, err
	}
	defer stderr.Close()
	cmd.Stdout, cmd.Stderr = stdoutEnd, stderrEnd
	err = cmd.Start()
	stdoutEnd.Close()
	stderrEnd.Close()
	if err != nil {
		return wire.Exit{}, err
	}

	var streams sync.WaitGroup
	streams.Go(func() { out.copy(wire.Stdout, stdout) })
	streams.Go(func() { out.copy(wire.Stderr, stderr) })
	group := &group{id: cmd.Process.Pid}
	go func() {
		if feed(stdin, in) != nil {
			group.kill() // The host is gone: nobody waits for the command.
		}
	}()
	group.wait()
	_ = cmd.Wait() // its outcome is in the state
	_ = stdout.SetReadDeadline(time.Now())
	_ = stderr.SetReadDeadline(time.Now())
	streams.Wait()
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	exit := wire.Exit{Code: status.ExitStatus()}
	if status.Signaled() {
		exit.Signal = status.Signal().String()
	}
	return exit, nil
}

// group is a command and the processes that it started.
type group struct {
	id    int
	mu    sync.Mutex
	ended bool // its id may be another's
}

// wait waits for the end of the command, and leaves its exit status to be fetched.
func (g *group) wait() {
	for unix.Waitid(unix.P_PID, g.id, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended = true
}

func (g *group) kill() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.ended {
		_ = unix.Kill(-g.id, unix.SIGKILL)
	}
}

// feed writes what the host sends to the command's standard input. It returns when
// the host hangs up.
func feed(stdin io.WriteCloser, in *gob.Decoder) error {
	defer stdin.Close()
	for {
		var f wire.Frame
		if err := in.Decode(&f); err != nil {
			return err
		}
		if len(f.Data) == 0 {
			stdin.Close()
		} else {
			_, _ = stdin.Write(f.Data) // a command need not read it
		}
	}
}

// sender sends frames of several goroutines.
type sender struct {
	mu sync.Mutex
	to *gob.Encoder
}

func (s *sender) send(f wire.Frame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.to.Encode(f)
}

// copy sends what can be read from a pipe until all its writers have closed it. With
// a deadline set, only what is in it then: the rest is not the command's own.
func (s *sender) copy(stream int, pipe *os.File) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := pipe.Read(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.drain(stream, pipe, buffer)
			return
		}
		if n > 0 && s.send(wire.Frame{Stream: stream, Data: buffer[:n]}) != nil || err != nil {
			return
		}
	}
}

// drain sends what is in the pipe now.
func (s *sender) drain(stream int, pipe *os.File, buffer []byte) {
	_ = pipe.SetReadDeadline(time.Time{})
	raw, err := pipe.SyscallConn()
	if err != nil {
		return
	}
	for {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			n, err = unix.Read(int(fd), buffer)
			return true // also if there is nothing: it must not wait
		})
		if err != nil || n <= 0 || s.send(wire.Frame{Stream: stream, Data: buffer[:n]}) != nil {
			return
		}
	}
}
