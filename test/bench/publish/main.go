// Command publish measures, where it runs, how long the kernel's NFS server takes to
// have one export more, with few and with many others there, and to have one less. It
// prints the milliseconds as JSON. The bench runs it in a guest, whose kernel has
// that server; it exports directories of its own and takes the host for its own.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/export/kernel"
	"github.com/berth-storage/berth/test/bench/publish/times"
	"github.com/berth-storage/berth/test/vm"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "publish:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	few := flag.Int("few", 10, "`number` of other exports")
	many := flag.Int("many", 1000, "`number` of other exports")
	turns := flag.Int("turns", 4, "`number` of turns with few and with many each")
	calls := flag.Int("calls", 50, "`number` of calls in a turn")
	flag.Parse()
	folder, err := os.MkdirTemp("/srv", "bench-")
	if err != nil {
		return err
	}
	if err := vm.StartNFSD(ctx, vm.Here{}); err != nil {
		return err
	}
	s, err := kernel.New(ctx, kernel.Options{Instance: "bench", Address: "127.0.0.1:2049", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	var results times.Results
	for range *turns {
		for _, c := range []struct {
			others int
			times  *times.Times
		}{{*few, &results.Few}, {*many, &results.Many}} {
			others, err := exports(folder, 1, c.others)
			if err == nil {
				err = s.Sync(ctx, others)
			}
			if err == nil {
				err = measure(ctx, s, folder, c.others, *calls, c.times)
			}
			if err != nil {
				return err
			}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(results)
}

// exports makes directories and their exports, n of them from the id first on.
func exports(folder string, first, n int) ([]export.Export, error) {
	var all []export.Export
	for i := range n {
		dir := filepath.Join(folder, fmt.Sprintf("pvc-%d", first+i))
		if err := os.Mkdir(dir, 0o777); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
		all = append(all, export.Export{ID: export.ID(first + i), FSID: export.NewFSID(dir), Dir: dir, Path: dir, Squash: export.SquashNone})
	}
	return all, nil
}

// measure publishes exports and withdraws them, one at a time.
func measure(ctx context.Context, s *kernel.Server, folder string, others, calls int, t *times.Times) error {
	more, err := exports(folder, others+1, calls)
	if err != nil {
		return err
	}
	for _, e := range more {
		start := time.Now()
		if err := s.Publish(ctx, e); err != nil {
			return err
		}
		t.Publish = append(t.Publish, milliseconds(start))
		start = time.Now()
		if err := s.Withdraw(ctx, e); err != nil {
			return err
		}
		t.Withdraw = append(t.Withdraw, milliseconds(start))
	}
	return nil
}

func milliseconds(start time.Time) float64 {
	return float64(time.Since(start)) / float64(time.Millisecond)
}
