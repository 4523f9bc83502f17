package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"

	"github.com/berth-storage/berth/test/harness"
)

// measureSSH measures what it costs to run a program on another host.
func (b *bench) measureSSH(ctx context.Context) error {
	binary, err := harness.Program(ctx, b.folder, "test/bench/commands")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, binary, fmt.Sprintf("-turns=%d", b.commands))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("commands over ssh: %w", err)
	}
	var r struct{ Kept, New []float64 }
	if err := json.Unmarshal(out, &r); err != nil {
		return fmt.Errorf("%s printed %q: %w", binary, out, err)
	}
	b.results.set("ssh_command_p50_ms", median(r.Kept))
	b.say("  %d commands each: median %.1f ms on a connection that is kept, %.0f ms on new ones", b.commands, median(r.Kept), median(r.New))
	return nil
}
