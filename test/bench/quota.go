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

// measureQuota measures what quotas of xfs cost when a volume is made, in the test VM:
// the kernel here may not have them.
func (b *bench) measureQuota(ctx context.Context) (err error) {
	program, err := harness.Program(ctx, b.folder, "test/bench/quotas")
	if err != nil {
		return err
	}
	guest, err := vm.Start(ctx, vm.Options{Log: os.Stdout})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, guest.Stop()) }()
	const inside = "/usr/local/bin/quotas"
	if err := guest.Put(ctx, program, inside); err != nil {
		return err
	}
	out, err := guest.Run(ctx, inside, "-n", fmt.Sprint(b.creations))
	if err != nil {
		return err
	}
	var took struct{ With, Without []float64 }
	if err := json.Unmarshal([]byte(out), &took); err != nil {
		return fmt.Errorf("what %s says: %w", inside, err)
	}
	with, without := median(took.With), median(took.Without)
	b.results.set("quota_create_p50_ms", with)
	b.results.set("quota_overhead_ratio", with/without)
	b.say("  %d creations each: median %.2f ms with quotas of xfs, %.2f ms without", b.creations, with, without)
	return nil
}
