package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/export/ganesha"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/test/harness"
)

// Of the pools that the bench fills without Kubernetes. The cluster is one that
// does not exist, so that no Berth takes these volumes for left-overs of its own.
const (
	poolName    = "local"
	benchAbsent = "no-cluster"
)

// fillers is how many volumes are made at the same time where only their number
// counts.
const fillers = 32

// stack is what Berth has below its Kubernetes front end: a pool of directories,
// its Manager, and an NFS-Ganesha.
type stack struct {
	backend   *dir.Backend
	manager   *volume.Manager
	publish   *timedServer
	purged    chan error
	stop      context.CancelFunc
	running   sync.WaitGroup
	serverErr error
	next      int // number of the next volume
}

// timedServer notes how long the NFS server takes to add an export.
type timedServer struct {
	export.Server
	took []float64 // milliseconds
}

// Publish implements export.Server.
func (s *timedServer) Publish(ctx context.Context, e export.Export) error {
	start := time.Now()
	err := s.Server.Publish(ctx, e)
	s.took = append(s.took, milliseconds(time.Since(start)))
	return err
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// startStack opens the pool at root and serves it.
func (b *bench) startStack(ctx context.Context, root string) (_ *stack, err error) {
	s := &stack{purged: make(chan error, 1)}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.backend, err = dir.Open(ctx, root, dir.Options{}); err != nil {
		return nil, err
	}
	ids, err := export.OpenIDs(idsFile(root))
	if err != nil {
		return nil, err
	}
	port, err := harness.FreePort()
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	server, err := ganesha.New(ganesha.Options{
		Listen: "127.0.0.1", Port: port, GracePeriod: 30 * time.Second, Log: log,
		StateDir: filepath.Dir(idsFile(root)), RunDir: root + "-run",
	})
	if err != nil {
		return nil, err
	}
	s.publish = &timedServer{Server: server}
	s.manager = volume.NewManager(volume.Pool{
		Name: poolName, Backend: s.backend, Server: s.publish, IDs: ids, ExportPath: "/" + poolName, Log: log,
		Observe: func(operation string, _ time.Duration, err error) {
			if operation == "purge" {
				s.purged <- err
			}
		},
	})
	return s, s.serve(ctx, serving, server, ids)
}

// idsFile is where Berth keeps the order of export ids of a pool.
func idsFile(root string) string { return filepath.Join(root, dir.Private, "ganesha", "export-ids") }

// serve brings the stack up as internal/app does.
func (s *stack) serve(ctx, serving context.Context, server *ganesha.Server, ids *export.IDs) error {
	want, err := s.manager.Recover(ctx)
	if err != nil {
		return err
	}
	s.next = len(want)
	if err := ids.Compact(); err != nil {
		return err
	}
	starting, failed := context.WithCancelCause(ctx)
	defer failed(nil)
	s.running.Go(func() {
		s.serverErr = server.Run(serving)
		failed(s.serverErr)
	})
	s.running.Go(func() { s.manager.Run(serving) })
	return server.Sync(starting, want)
}

func (s *stack) close() error {
	s.stop()
	s.running.Wait()
	if s.backend == nil {
		return s.serverErr
	}
	return errors.Join(s.serverErr, s.backend.Close())
}

// specOf is the request for volume number i.
func specOf(i int) (volume.Spec, error) {
	uid := fmt.Sprintf("00000000-0000-4000-8000-%012d", i)
	name, err := volume.NameForClaim(uid)
	return volume.Spec{
		Name: name, Path: name.RelPath(), Size: 1 << 20, Cluster: benchAbsent, Reclaim: volume.ReclaimDelete,
		Claim: volume.Claim{Namespace: "bench", Name: fmt.Sprintf("claim-%d", i), UID: uid},
		Owner: volume.Owner{Mode: 0o777}, Export: volume.ExportRef{Squash: export.SquashNone},
	}, err
}

// createAndDelete makes one volume more and takes it away again, and gives the
// milliseconds that the first took. When it returns, nothing goes on in the
// background.
func (s *stack) createAndDelete(ctx context.Context) (float64, error) {
	spec, err := specOf(s.next)
	if err != nil {
		return 0, err
	}
	s.next++
	start := time.Now()
	if _, err := s.manager.Create(ctx, spec); err != nil {
		return 0, err
	}
	took := milliseconds(time.Since(start))
	if err := s.manager.Delete(ctx, spec.Name, spec.Cluster); err != nil {
		return 0, err
	}
	select {
	case err := <-s.purged:
		return took, err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// nowhere is a server for volumes that nobody reaches yet.
type nowhere struct{}

func (nowhere) Sync(context.Context, []export.Export) error   { return nil }
func (nowhere) Publish(context.Context, export.Export) error  { return nil }
func (nowhere) Withdraw(context.Context, export.Export) error { return nil }

// fill makes n volumes in a new pool, as Berth would, and returns its root. They
// are exported when the pool is opened by a Berth that has a server.
func (b *bench) fill(ctx context.Context, n int) (root string, err error) {
	if root, err = b.newPool(); err != nil {
		return "", err
	}
	backend, err := dir.Open(ctx, root, dir.Options{})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, backend.Close()) }()
	if err := os.MkdirAll(filepath.Dir(idsFile(root)), 0o700); err != nil {
		return "", err
	}
	ids, err := export.OpenIDs(idsFile(root))
	if err != nil {
		return "", err
	}
	// What waits to be written of so many files would slow down what is measured next.
	defer unix.Sync()
	manager := volume.NewManager(volume.Pool{
		Name: poolName, Backend: backend, Server: nowhere{}, IDs: ids, ExportPath: "/" + poolName, Log: slog.Default(),
	})
	return root, inParallel(ctx, fillers, n, func(ctx context.Context, i int) error {
		spec, err := specOf(i)
		if err == nil {
			_, err = manager.Create(ctx, spec)
		}
		return err
	})
}

// inParallel calls do for 0 to n-1, several at the same time, and gives the first
// error.
func inParallel(ctx context.Context, atOnce, n int, do func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	numbers := make(chan int)
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			for i := range numbers {
				if ctx.Err() != nil {
					continue
				}
				if err := do(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range n {
		numbers <- i
	}
	close(numbers)
	workers.Wait()
	return context.Cause(ctx)
}

// needManyVolumes makes the pool of many volumes.
func (b *bench) needManyVolumes(ctx context.Context) (err error) {
	if b.manyVolumes != "" {
		return nil
	}
	start := time.Now()
	root, err := b.fill(ctx, b.many)
	if err != nil {
		return fmt.Errorf("making %d volumes: %w", b.many, err)
	}
	b.manyVolumes = root
	b.say("  made %d volumes in %.1f s", b.many, time.Since(start).Seconds())
	return nil
}

// measureCreate measures Manager.Create, one call at a time, with few and with
// many volumes there. Both pools are served at the same time and take turns, so
// that a slow minute of the machine is one for both.
func (b *bench) measureCreate(ctx context.Context) (err error) {
	if err := b.needManyVolumes(ctx); err != nil {
		return err
	}
	fewVolumes, err := b.fill(ctx, b.few)
	if err != nil {
		return err
	}
	few, err := b.startStack(ctx, fewVolumes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, few.close()) }()
	many, err := b.startStack(ctx, b.manyVolumes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, many.close()) }()
	b.say("  NFS-Ganesha serves %d volumes, and another one %d", b.few, b.many)

	stacks := []*stack{few, many}
	took := make([][]float64, len(stacks))
	for range b.creations {
		for i, s := range stacks {
			t, err := s.createAndDelete(ctx)
			if err != nil {
				return err
			}
			took[i] = append(took[i], t)
		}
	}
	low, high := median(took[0]), median(took[1])
	b.results.set("create_p50_ms_10", low)
	b.results.set("create_p50_ms_5000", high)
	b.results.set("create_p50_ratio_5000_vs_10", high/low)
	b.say("  %d creations each: median %.2f ms with %d volumes (%.2f of it NFS-Ganesha), %.2f ms with %d (%.2f)", b.creations,
		low, b.few, median(few.publish.took), high, b.many, median(many.publish.took))
	return nil
}
