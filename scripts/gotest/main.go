// Command gotest runs `go test` with the arguments given and reports it for people: a line for each package and
// each slow test while it runs; at the end the output of what failed, the slowest tests, and the line
// "N passed, N failed", in which a test that ran twice counts once. The whole output stays in out/test.log, the last
// line also in out/test-summary.txt.
//
// With -system before the arguments it goes on, if nothing has failed, with the tests that have the build tag
// system, in all packages of the module that have such ones.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

const (
	systemFlag  = "-system"
	logFile     = "out/test.log"
	summaryFile = "out/test-summary.txt"
	// quiet is how long nothing may be printed before a line says what is running.
	quiet = 30 * time.Second
)

func main() {
	ok, err := run(context.Background(), os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (ok bool, err error) {
	system := len(args) > 0 && args[0] == systemFlag
	if system {
		args = args[1:]
	}
	// The last run's summary must not be taken for this one's.
	if err := os.Remove(summaryFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(logFile), 0o755); err != nil {
		return false, err
	}
	log, err := os.Create(logFile)
	if err != nil {
		return false, err
	}
	defer log.Close()

	r := newReport(os.Stdout, log)
	if err := r.goTest(ctx, args); err != nil {
		return false, err
	}
	if system && r.failed == 0 {
		fmt.Println("tests against real servers")
		all, err := lanes(ctx)
		if err == nil {
			err = r.goTest(ctx, all...)
		}
		if err != nil {
			return false, err
		}
	}
	summary := r.finish()
	return r.failed == 0, os.WriteFile(summaryFile, []byte(summary+"\n"), 0o644)
}

// goTest runs `go test` with each of these lists of arguments, all at once.
func (r *report) goTest(ctx context.Context, runs ...[]string) error {
	events := make(chan event)
	var all sync.WaitGroup
	ended := make([]error, len(runs))
	for i, args := range runs {
		all.Go(func() { ended[i] = stream(ctx, args, events) })
	}
	go func() {
		all.Wait()
		close(events)
	}()
	r.follow(events)
	err := errors.Join(ended...)
	if _, ok := errors.AsType[*exec.ExitError](err); !ok {
		return err
	}
	if r.failed == 0 {
		// go test itself failed, say for a wrong flag: its message is on stderr.
		r.failed++
	}
	return nil
}

// stream runs `go test` and sends its events.
func stream(ctx context.Context, args []string, events chan<- event) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	decode(stdout, events)
	return cmd.Wait()
}

// follow adds events until there are no more, and speaks up when the tests are silent for long.
func (r *report) follow(events <-chan event) {
	ticker := time.NewTicker(quiet)
	defer ticker.Stop()
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return
			}
			if r.add(e) {
				ticker.Reset(quiet)
			}
		case <-ticker.C:
			r.stillRunning()
		}
	}
}
