package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/vm"
)

// measurePurge measures how fast deleted volumes on a share are freed, against rm -rf,
// in the test VM: the kernel here may have no NFS client.
func (b *bench) measurePurge(ctx context.Context) (err error) {
	program, err := harness.Program(ctx, b.folder, "test/bench/purges")
	if err != nil {
		return err
	}
	guest, err := vm.Start(ctx, vm.Options{Log: os.Stdout})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, guest.Stop()) }()
	const inside = "/usr/local/bin/purges"
	if err := guest.Put(ctx, program, inside); err != nil {
		return err
	}
	out, err := guest.Run(ctx, inside, "-files", fmt.Sprint(b.purgeFiles), "-turns", fmt.Sprint(b.purgeTurns))
	if err != nil {
		return err
	}
	var speeds struct{ Purge, RM []float64 }
	if err := json.Unmarshal([]byte(out), &speeds); err != nil {
		return fmt.Errorf("what %s says: %w", inside, err)
	}
	purge, rm := median(speeds.Purge), median(speeds.RM)
	b.results.set("purge_files_per_s", purge)
	b.results.set("purge_ratio_vs_rm", purge/rm)
	b.say("  %d trees of %d files each: median %.0f files a second, %.0f by rm -rf", b.purgeTurns, b.purgeFiles, purge, rm)
	return nil
}
