package main

import (
	"context"
	"fmt"

	"github.com/berth-storage/berth/test/vm"
)

// purgeTurn is what a purge and rm took for trees of the same files, in seconds.
type purgeTurn struct {
	Files     int
	Purge, RM float64
}

// measurePurge measures how fast deleted volumes on a share are freed, against rm -rf,
// in the test VM: large and small ones, and ones with nothing in them.
func (b *bench) measurePurge(ctx context.Context) error {
	args := []string{"-turns", fmt.Sprint(b.purgeTurns)}
	for _, files := range []int{b.purgeFiles, b.purgeFew, 0} {
		args = append(args, "-files", fmt.Sprint(files))
	}
	var turns []purgeTurn
	if err := b.runInGuest(ctx, vm.Options{}, &turns, "test/bench/purges", args...); err != nil {
		return err
	}
	of := func(files int, value func(purgeTurn) float64) float64 {
		var values []float64
		for _, t := range turns {
			if t.Files == files {
				values = append(values, value(t))
			}
		}
		return median(values)
	}
	purge := func(t purgeTurn) float64 { return t.Purge }
	rm := func(t purgeTurn) float64 { return t.RM }
	// Of the two in a turn, which the machine disturbs alike.
	ratio := func(t purgeTurn) float64 { return t.RM / t.Purge }
	most, none := float64(b.purgeFiles), 0
	b.results.set("purge_files_per_s", most/of(b.purgeFiles, purge))
	b.results.set("purge_ratio_vs_rm", of(b.purgeFiles, ratio))
	b.results.set("purge_ratio_vs_rm_1000", of(b.purgeFew, ratio))
	b.results.set("purge_empty_ms", 1000*of(none, purge))
	b.results.set("rm_empty_ms", 1000*of(none, rm))
	b.results.set("purge_file_us", 1e6*(of(b.purgeFiles, purge)-of(none, purge))/most)
	b.results.set("rm_file_us", 1e6*(of(b.purgeFiles, rm)-of(none, rm))/most)
	for _, files := range []int{b.purgeFiles, b.purgeFew} {
		b.say("  %d trees of %d files each: median %.0f files a second, %.0f by rm -rf, ratio %.2f",
			b.purgeTurns, files, float64(files)/of(files, purge), float64(files)/of(files, rm), of(files, ratio))
	}
	return nil
}
