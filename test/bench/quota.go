package main

import (
	"context"
	"fmt"

	"github.com/berth-storage/berth/test/vm"
)

// measureQuota measures what quotas of xfs cost when a volume is made, in the test VM.
func (b *bench) measureQuota(ctx context.Context) error {
	var took struct{ With, Without []float64 }
	if err := b.runInGuest(ctx, vm.Options{}, &took, "test/bench/quotas", "-n", fmt.Sprint(b.creations)); err != nil {
		return err
	}
	with, without := median(took.With), median(took.Without)
	b.results.set("quota_create_p50_ms", with)
	b.results.set("quota_overhead_ratio", with/without)
	b.say("  %d creations each: median %.2f ms with quotas of xfs, %.2f ms without", b.creations, with, without)
	return nil
}
