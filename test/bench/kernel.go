package main

import (
	"context"
	"fmt"

	"github.com/berth-storage/berth/test/bench/publish/times"
	"github.com/berth-storage/berth/test/vm"
)

// measureKernel measures how long the kernel's NFS server takes to have an export more,
// and one less, with few and with many others there. That is in a guest, whose kernel
// has that server.
func (b *bench) measureKernel(ctx context.Context) error {
	var r times.Results
	err := b.runInGuest(ctx, vm.Options{}, &r, "test/bench/publish", fmt.Sprintf("-few=%d", b.few), fmt.Sprintf("-many=%d", b.manyKernel),
		fmt.Sprintf("-turns=%d", b.publishTurns), "-calls=20")
	if err != nil {
		return err
	}
	few, many := median(r.Few.Publish), median(r.Many.Publish)
	b.results.set("kernel_publish_p50_ms_10", few)
	b.results.set("kernel_publish_p50_ms_1000", many)
	b.results.set("kernel_publish_p50_ratio_1000_vs_10", many/few)
	b.results.set("kernel_withdraw_p50_ratio_1000_vs_10", median(r.Many.Withdraw)/median(r.Few.Withdraw))
	b.say("  %d exports added and withdrawn, each: median %.2f and %.2f ms with %d others, %.2f and %.2f ms with %d",
		len(r.Few.Publish), few, median(r.Few.Withdraw), b.few, many, median(r.Many.Withdraw), b.manyKernel)
	return nil
}
