// Command gotest runs `go test` with the arguments given and reports it for people: a line for each package and
// each slow test while it runs; at the end the output of what failed, the slowest tests, and the line
// "N passed, N failed". The whole output stays in out/test.log, the last line also in out/test-summary.txt.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const (
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

	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return false, err
	}
	if err := cmd.Start(); err != nil {
		return false, err
	}

	r := newReport(os.Stdout, log)
	r.follow(stdout)
	exit := cmd.Wait()
	if exit != nil && r.failed == 0 {
		// go test itself failed, say for a wrong flag: its message is on stderr.
		r.failed++
	}
	summary := r.finish()
	return exit == nil && r.failed == 0, os.WriteFile(summaryFile, []byte(summary+"\n"), 0o644)
}

// follow reads events until in ends, and speaks up when a test is silent for long.
func (r *report) follow(in io.Reader) {
	events := make(chan event)
	go decode(in, events)
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
