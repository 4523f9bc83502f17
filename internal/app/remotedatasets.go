package app

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/berth-storage/berth/internal/backend/zfs"
	"github.com/berth-storage/berth/internal/run"
)

// How a host with datasets is looked after.
const (
	probeHost    = 5 * time.Second  // between two questions whether it answers
	hostStalls   = 10 * time.Second // after that long without an answer it does not
	openHostMin  = time.Second      // before it is tried again, at first
	openHostMax  = 30 * time.Second
	hostIsOpened = "it is being opened"
)

// serveRemoteDatasets keeps the datasets of p open until ctx ends, and serves its volumes.
func (a *app) serveRemoteDatasets(ctx context.Context, p *remotePool) {
	a.tellAsBefore(p.config)
	a.remoteChanged(p, errors.New(hostIsOpened))
	retry := openHostMin
	for ctx.Err() == nil {
		err := a.datasetsTerm(ctx, p, func() { retry = openHostMin })
		if ctx.Err() != nil {
			return
		}
		a.remoteChanged(p, err)
		pause(ctx, retry)
		retry = min(2*retry, openHostMax)
	}
}

// datasetsTerm opens the datasets of p and serves its volumes until ctx ends, or they have
// to be opened anew: it says why.
func (a *app) datasetsTerm(ctx context.Context, p *remotePool, opened func()) error {
	o, err := sshOptions(p.config.ZFS.SSH)
	if err != nil {
		return err
	}
	o.Lock = []string{"berth-zfs", "lock", p.config.ZFS.Dataset} // of deploy/zfs-server, if that is there
	host, err := run.NewSSH(o)
	if err != nil {
		return err
	}
	defer host.Close()
	g := newGate(host)
	settings := datasetOptions(p.config.ZFS, g)
	settings.Log = a.log.With("component", "zfs", "pool", p.config.Name)
	b, err := zfs.Open(ctx, settings)
	if err != nil {
		return err
	}
	defer b.Close()
	opened()
	a.remoteChanged(p, nil)
	working, stop := context.WithCancelCause(ctx)
	var serving sync.WaitGroup
	serving.Go(func() {
		if a.adoptRemote(working, p, func() error { return a.adoptDatasetsOnce(working, p.config, b) }) {
			a.serveOpen(working, p, b, sharer(b), b.Root())
		}
	})
	lost := a.watchHost(ctx, p, host.Lost(), g, func(ctx context.Context) error {
		_, err := b.Capacity(ctx)
		return err
	})
	g.shut(lost)
	stop(lost)
	serving.Wait()
	return lost
}

// watchHost asks again and again whether the host of p answers, and lets nothing through to it
// as long as it does not. It gives the reason why the datasets have to be opened anew.
func (a *app) watchHost(ctx context.Context, p *remotePool, lost <-chan struct{}, g *gate, ask func(context.Context) error) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-lost:
			return errors.New("the connection was lost, and the lock on the datasets with it")
		case <-time.After(probeHost):
		}
		asking, cancel := context.WithTimeout(passGate(ctx), hostStalls)
		err := ask(asking)
		cancel()
		if ctx.Err() != nil {
			continue
		}
		if err == nil {
			if g.open() {
				a.remoteChanged(p, nil)
			}
			continue
		}
		why := fmt.Errorf("%s does not answer: %w", p.config.ZFS.SSH.Host, err)
		if g.shut(why) {
			a.remoteChanged(p, why)
		}
	}
}
