// Command quotas measures, in the test VM, what quotas cost when a volume is made: it
// makes volumes through the Manager in two pools of one xfs, one with quotas and one
// without, in turns, and prints the milliseconds of each.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/test/vm"
)

func main() {
	n := flag.Int("n", 100, "the `number` of volumes to make in each pool")
	flag.Parse()
	if err := run(context.Background(), *n, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "quotas:", err)
		os.Exit(1)
	}
}

// Times are those of making volumes, in milliseconds.
type Times struct {
	With    []float64 `json:"with"` // quotas
	Without []float64 `json:"without"`
}

func run(ctx context.Context, n int, out io.Writer) (err error) {
	const root = "/var/tmp/bench"
	if err := vm.MountNew(ctx, vm.Here{}, vm.XFS, root, 2<<30); err != nil {
		return err
	}
	with, err := open(ctx, filepath.Join(root, "with"), dir.QuotaRequired)
	if err != nil {
		return err
	}
	without, err := open(ctx, filepath.Join(root, "without"), dir.QuotaOff)
	if err != nil {
		return err
	}
	var t Times
	for i := range n {
		// Who is first in a turn pays for what both have to write.
		turns := []func() error{
			func() error { return create(ctx, with, i, &t.With) },
			func() error { return create(ctx, without, i, &t.Without) },
		}
		if err := errors.Join(turns[i%2](), turns[1-i%2]()); err != nil {
			return err
		}
	}
	return json.NewEncoder(out).Encode(t)
}

// open makes the Manager of a new pool, whose volumes nobody exports: that costs the
// same with quotas and without.
func open(ctx context.Context, root string, quota dir.Quota) (*volume.Manager, error) {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	b, err := dir.Open(ctx, root, dir.Options{Quota: quota})
	if err != nil {
		return nil, err
	}
	ids, err := export.OpenIDs(filepath.Join(root, dir.Private, "export-ids"))
	if err != nil {
		return nil, err
	}
	m := volume.NewManager(volume.Pool{Name: "bench", Backend: b, Server: nowhere{}, IDs: ids, ExportPath: "/bench", Log: slog.New(slog.DiscardHandler)})
	_, err = m.Recover(ctx)
	return m, err
}

// create makes volume number i and adds how long that took.
func create(ctx context.Context, m *volume.Manager, i int, took *[]float64) error {
	uid := fmt.Sprintf("00000000-0000-4000-8000-%012d", i)
	name, err := volume.NameForClaim(uid)
	if err != nil {
		return err
	}
	start := time.Now()
	_, err = m.Create(ctx, volume.Spec{
		Name: name, Path: name.RelPath(), Size: 1 << 20, Reclaim: volume.ReclaimDelete,
		Claim: volume.Claim{Namespace: "bench", Name: fmt.Sprint("claim-", i), UID: uid},
		Owner: volume.Owner{Mode: 0o777}, Export: volume.ExportRef{Squash: export.SquashNone},
	})
	*took = append(*took, float64(time.Since(start))/float64(time.Millisecond))
	return err
}

// nowhere is a server that exports nothing.
type nowhere struct{}

func (nowhere) Sync(context.Context, []export.Export) error   { return nil }
func (nowhere) Publish(context.Context, export.Export) error  { return nil }
func (nowhere) Withdraw(context.Context, export.Export) error { return nil }
