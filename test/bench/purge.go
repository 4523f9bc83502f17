package main

import (
	"context"
	"fmt"

	"github.com/berth-storage/berth/test/vm"
)

// measurePurge measures how fast deleted volumes on a share are freed, against rm -rf,
// in the test VM.
func (b *bench) measurePurge(ctx context.Context) error {
	var speeds struct{ Purge, RM []float64 }
	if err := b.runInGuest(ctx, vm.Options{}, &speeds, "test/bench/purges", "-files", fmt.Sprint(b.purgeFiles), "-turns", fmt.Sprint(b.purgeTurns)); err != nil {
		return err
	}
	purge, rm := median(speeds.Purge), median(speeds.RM)
	b.results.set("purge_files_per_s", purge)
	b.results.set("purge_ratio_vs_rm", purge/rm)
	b.say("  %d trees of %d files each: median %.0f files a second, %.0f by rm -rf", b.purgeTurns, b.purgeFiles, purge, rm)
	return nil
}
