package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/nfs4"
)

// measureRestart measures how long Berth takes from the start of its process
// until an NFS client finds all of many volumes.
func (b *bench) measureRestart(ctx context.Context) error {
	if err := errors.Join(b.needBerth(ctx), b.needManyVolumes(ctx), b.needCluster(ctx)); err != nil {
		return err
	}
	var took []float64
	for range b.restarts {
		seconds, err := b.restart(ctx)
		if err != nil {
			return err
		}
		took = append(took, seconds)
		b.say("  %d volumes served after %.1f s", b.many, seconds)
	}
	b.results.set("restart_5000_s", median(took))
	return nil
}

func (b *bench) restart(ctx context.Context) (float64, error) {
	start := time.Now()
	berth, err := b.startBerth(b.manyVolumes, "bench.example.com/restart")
	if err != nil {
		return 0, err
	}
	defer berth.Kill()
	// Ganesha opens its port when it has all exports; until then this is refused.
	if err := b.await(ctx, berth.Process, "the NFS server answers", func() bool { return answers(berth.Address()) }); err != nil {
		return 0, err
	}
	client, err := nfs4.Dial(ctx, berth.Address(), nfs4.Options{})
	if err != nil {
		return 0, err
	}
	defer client.Close()
	exports, err := client.ReadDir(ctx, "/"+poolName)
	if err != nil {
		return 0, err
	}
	took := time.Since(start)
	if len(exports) != b.many {
		return 0, fmt.Errorf("the port answers and a client finds %d exports, not %d", len(exports), b.many)
	}
	last, err := specOf(b.many - 1)
	if err != nil {
		return 0, err
	}
	// The listing is of the server's own tree; this one is of the volume's.
	if _, err := client.Stat(ctx, "/"+poolName+"/"+last.Name.String()); err != nil {
		return 0, err
	}
	if err := berth.Ready(ctx); err != nil {
		return 0, err
	}
	return took.Seconds(), berth.Stop()
}

func answers(address string) bool {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// startBerth starts Berth on the pool at root.
func (b *bench) startBerth(root, provisioner string) (*harness.Berth, error) {
	return b.startBerthWith(harness.Options{Root: root, Provisioner: provisioner})
}

// startBerthWith starts Berth on what o says of the pool.
func (b *bench) startBerthWith(o harness.Options) (_ *harness.Berth, err error) {
	if o.NFSPort, err = harness.FreePort(); err != nil {
		return nil, err
	}
	o.Binary, o.Folder, o.Kubeconfig = b.berthBinary, b.folder, b.cluster.Kubeconfig()
	return harness.StartBerth(o)
}

// logTail is how much of a program's log an error shows.
const logTail = 4000

// await waits until done says so, or the process that was to do it has ended.
func (b *bench) await(ctx context.Context, p program, what string, done func() bool) error {
	ended := false
	err := harness.Until(ctx, what, func() bool {
		select {
		case <-p.Done():
			ended = true
			return true
		default:
			return done()
		}
	})
	if ended {
		err = fmt.Errorf("the process ended while this waited until %s", what)
	}
	if err == nil || errors.Is(ctx.Err(), context.Canceled) {
		return err // of an interrupted run nobody wants the log
	}
	log := p.Log()
	return fmt.Errorf("%w; the end of its log:\n%s", err, log[max(0, len(log)-logTail):])
}
