// Command datasets measures, in a test VM with OpenZFS, how long making a volume that is
// a dataset takes: through the Manager, and by the very zfs create that this has run
// alone, in turns. It prints times.Results.
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
	"path"
	"slices"
	"sync"
	"time"

	"github.com/berth-storage/berth/internal/backend/zfs"
	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/run"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/test/bench/datasets/times"
	"github.com/berth-storage/berth/test/vm"
)

func main() {
	few := flag.Int("few", 10, "the `number` of volumes in the pool that has few")
	many := flag.Int("many", 500, "the `number` of volumes in the pool that has many")
	turns := flag.Int("turns", 25, "how `often` a volume is made in each, and a dataset")
	flag.Parse()
	if err := measure(context.Background(), *few, *many, *turns, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "datasets:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, few, many, turns int, out io.Writer) error {
	const tank = "tank"
	if err := vm.NewPool(ctx, vm.Here{}, tank, 4<<30); err != nil {
		return err
	}
	if err := zfsCommand(ctx, "create", tank+"/plain"); err != nil {
		return err
	}
	if err := vm.StartNFSD(ctx, vm.Here{}); err != nil {
		return err
	}
	pools := map[string]*pool{}
	for name, n := range map[string]int{"few": few, "many": many} {
		p, err := newPool(ctx, tank+"/"+name, n)
		if err != nil {
			return err
		}
		pools[name] = p
	}
	var r times.Results
	for i := range turns {
		steps := []func() error{
			func() error { return pools["few"].createAndDelete(ctx, i, &r.Few) },
			func() error { return pools["many"].createAndDelete(ctx, i, &r.Many) },
			func() error { return pools["few"].createPlain(ctx, tank+"/plain/v", &r.Plain) },
		}
		// Each comes first in its turn: what drifts is the same for all.
		for j := range steps {
			if err := steps[(i+j)%len(steps)](); err != nil {
				return err
			}
		}
	}
	return json.NewEncoder(out).Encode(r)
}

// pool is a parent dataset with its Manager.
type pool struct {
	manager *volume.Manager
	runner  *recorder
	n       int // volumes that stay
}

func newPool(ctx context.Context, dataset string, n int) (*pool, error) {
	if err := zfsCommand(ctx, "create", dataset); err != nil {
		return nil, err
	}
	p := &pool{n: n, runner: &recorder{}}
	b, err := zfs.Open(ctx, zfs.Options{Dataset: dataset, Runner: p.runner, Local: true, Share: "rw=@127.0.0.0/8,no_root_squash"})
	if err != nil {
		return nil, err
	}
	p.manager = volume.NewManager(volume.Pool{Name: "bench", Backend: b, Server: b.Sharer(), ExportPath: b.Root(), Log: slog.New(slog.DiscardHandler)})
	if _, err := p.manager.Recover(ctx); err != nil {
		return nil, err
	}
	for i := range n {
		if err := p.create(ctx, i); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// name is that of volume number i.
func name(i int) (volume.Name, string, error) {
	uid := fmt.Sprintf("00000000-0000-4000-8000-%012d", i)
	n, err := volume.NameForClaim(uid)
	return n, uid, err
}

func (p *pool) create(ctx context.Context, i int) error {
	n, uid, err := name(i)
	if err != nil {
		return err
	}
	_, err = p.manager.Create(ctx, volume.Spec{
		Name: n, Path: n.RelPath(), Size: 1 << 20, Cluster: "bench", Reclaim: volume.ReclaimDelete,
		Claim: volume.Claim{Namespace: "bench", Name: fmt.Sprint("claim-", i), UID: uid},
		Owner: volume.Owner{Mode: 0o777}, Export: volume.ExportRef{Squash: export.SquashNone},
	})
	return err
}

// createAndDelete makes one volume more, adds to took how long that took, and deletes it
// to the last.
func (p *pool) createAndDelete(ctx context.Context, turn int, took *[]float64) error {
	i := p.n + turn
	err := timed(took, func() error { return p.create(ctx, i) })
	if err != nil {
		return err
	}
	n, _, err := name(i)
	if err != nil {
		return err
	}
	return p.manager.Delete(ctx, n, "bench")
}

// createPlain makes a dataset by the command that the last volume was made by, and
// destroys it.
func (p *pool) createPlain(ctx context.Context, dataset string, took *[]float64) error {
	args := slices.Clone(p.runner.lastCreate())
	if len(args) == 0 {
		return errors.New("no volume was made by zfs create")
	}
	args[len(args)-1] = dataset
	err := timed(took, func() error {
		_, err := run.Here{}.Output(ctx, args)
		return err
	})
	if err != nil {
		return err
	}
	return zfsCommand(ctx, "destroy", dataset)
}

func timed(took *[]float64, what func() error) error {
	start := time.Now()
	err := what()
	*took = append(*took, float64(time.Since(start))/float64(time.Millisecond))
	return err
}

func zfsCommand(ctx context.Context, args ...string) error {
	_, err := run.Here{}.Output(ctx, append([]string{"zfs"}, args...))
	return err
}

// recorder runs programs here, and remembers the last zfs create.
type recorder struct {
	run.Here
	mu   sync.Mutex
	last []string
}

// Output implements zfs.Runner.
func (r *recorder) Output(ctx context.Context, args []string) ([]byte, error) {
	if path.Base(args[0]) == "zfs" && args[1] == "create" {
		r.mu.Lock()
		r.last = slices.Clone(args)
		r.mu.Unlock()
	}
	return r.Here.Output(ctx, args)
}

func (r *recorder) lastCreate() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}
