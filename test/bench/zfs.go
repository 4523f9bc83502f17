package main

import (
	"context"
	"fmt"

	"github.com/berth-storage/berth/test/bench/datasets/times"
	"github.com/berth-storage/berth/test/vm"
)

// measureZFS measures what a volume that is a dataset costs more than the dataset alone,
// with few and with many others there, in the test VM.
func (b *bench) measureZFS(ctx context.Context) error {
	var r times.Results
	err := b.runInGuest(ctx, vm.Options{ZFS: true}, &r, "test/bench/datasets",
		fmt.Sprintf("-few=%d", b.few), fmt.Sprintf("-many=%d", b.manyZFS), fmt.Sprintf("-turns=%d", b.zfsTurns))
	if err != nil {
		return err
	}
	few, many, plain := median(r.Few), median(r.Many), median(r.Plain)
	b.results.set("zfs_create_p50_ms", few)
	b.results.set("zfs_create_overhead_ratio", few/plain)
	b.results.set("zfs_create_ratio_500_vs_10", many/few)
	b.say("  %d volumes each: median %.0f ms with %d others, %.0f ms with %d; %.0f ms by zfs create alone with %d",
		b.zfsTurns, few, b.few, many, b.manyZFS, plain, b.few)
	return nil
}
