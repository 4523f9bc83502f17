// Command commands measures how long a program takes that does nothing, over ssh: on a connection that is
// kept, and on a new one each. The server is OpenSSH's, on loopback. It prints JSON, and needs root.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/berth-storage/berth/internal/run"
	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/sshd"
)

func main() {
	if err := measure(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "commands:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context) (err error) {
	turns := flag.Int("turns", 100, "`commands` of each kind")
	flag.Parse()
	// Root's shell is sh here: another one reads files of its own each time.
	if err := errors.Join(harness.OwnMounts(), sshd.OwnAccounts()); err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "berth-bench-ssh-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	server, err := sshd.Start(sshd.Options{Dir: folder})
	if err != nil {
		return err
	}
	defer server.Close()
	kept, err := run.NewSSH(server.SSH())
	if err != nil {
		return err
	}
	defer kept.Close()
	if _, err := kept.Output(ctx, []string{"true"}); err != nil {
		return err
	}
	var result struct{ Kept, New []float64 } // milliseconds
	for range *turns {
		took, err := command(ctx, kept)
		if err != nil {
			return err
		}
		result.Kept = append(result.Kept, took)
		fresh, err := run.NewSSH(server.SSH())
		if err != nil {
			return err
		}
		took, err = command(ctx, fresh)
		fresh.Close()
		if err != nil {
			return err
		}
		result.New = append(result.New, took)
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// command is how many milliseconds one takes.
func command(ctx context.Context, host *run.SSH) (float64, error) {
	start := time.Now()
	_, err := host.Output(ctx, []string{"true"})
	return float64(time.Since(start)) / float64(time.Millisecond), err
}
