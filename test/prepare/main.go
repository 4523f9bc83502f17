// Command prepare makes what the tests need and what takes long to make: the control plane, the kubelet and the
// snapshot-controller, and the image of the test VM and OpenZFS for it. Both at once: one compiles on all processors, the other one mostly
// waits for the network or has work for one. All is kept in the cache, see package cache.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/berth-storage/berth/test/cluster"
	"github.com/berth-storage/berth/test/vm"
)

// makes makes something if it is not in the cache, and gives its file.
type makes func(ctx context.Context, log io.Writer) (file string, err error)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := prepare(ctx, os.Stderr, []makes{cluster.Binary, cluster.Kubelet, cluster.SnapshotController}, []makes{vm.Image, vm.OpenZFS})
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "prepare:", err)
		os.Exit(1)
	}
}

// prepare works on all rows at once, on what is in one in this order. The first error ends all.
func prepare(ctx context.Context, log io.Writer, rows ...[]makes) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	var once sync.Once
	var failed error
	for _, row := range rows {
		all.Go(func() {
			for _, do := range row {
				if _, err := do(ctx, log); err != nil {
					once.Do(func() { failed = err })
					cancel()
					return
				}
			}
		})
	}
	all.Wait()
	return failed
}
