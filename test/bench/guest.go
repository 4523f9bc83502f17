package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/vm"
)

// runInGuest builds a program of this module, runs it in a guest of its own, and reads
// the JSON that it prints into result: the kernel here may lack what is measured.
func (b *bench) runInGuest(ctx context.Context, options vm.Options, result any, program string, args ...string) (err error) {
	binary, err := harness.Program(ctx, b.folder, program)
	if err != nil {
		return err
	}
	options.Log = os.Stdout
	guest, err := vm.Start(ctx, options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, guest.Stop()) }()
	inside := path.Join("/usr/local/bin", path.Base(program))
	if err := guest.Put(ctx, binary, inside); err != nil {
		return err
	}
	out, err := guest.Run(ctx, append([]string{inside}, args...)...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), result); err != nil {
		return fmt.Errorf("%s printed %q: %w", inside, out, err)
	}
	return nil
}

// guestKubeconfig is where a Berth in a guest finds the cluster's.
const guestKubeconfig = "/host/kubeconfig"

// guestBerth is a Berth that runs in a guest.
type guestBerth struct {
	api     *harness.Forwarder
	logFile string
	cancel  context.CancelFunc
	ended   chan struct{} // closed when err is set
	err     error
}

// startInGuest starts Berth in the guest, with the arguments and environment of c.
func (b *bench) startInGuest(ctx context.Context, guest *vm.Guest, c vm.Command) (_ *guestBerth, err error) {
	g := &guestBerth{logFile: filepath.Join(b.folder, "guest.log"), ended: make(chan struct{})}
	if g.api, err = harness.Forward(net.JoinHostPort(guest.Host, "0"), strings.TrimPrefix(b.cluster.Server(), "https://")); err != nil {
		return nil, err
	}
	config, err := b.cluster.ClientKubeconfig("admin", []string{"system:masters"}, "https://"+g.api.Addr().String())
	if err == nil {
		err = os.WriteFile(filepath.Join(guest.Shared, path.Base(guestKubeconfig)), config, 0o600)
	}
	const inside = "/usr/local/bin/berth"
	if err == nil {
		err = guest.Put(ctx, b.berthBinary, inside)
	}
	var log *os.File
	if err == nil {
		log, err = os.Create(g.logFile)
	}
	if err != nil {
		return nil, errors.Join(err, g.api.Close())
	}
	c.Args = append([]string{inside}, c.Args...)
	c.Stdout, c.Stderr = log, log
	running, cancel := context.WithCancel(ctx)
	g.cancel = cancel
	go func() {
		defer close(g.ended)
		g.err = errors.Join(guest.Exec(running, c), log.Close())
	}()
	return g, nil
}

// Done implements program.
func (g *guestBerth) Done() <-chan struct{} { return g.ended }

// Log implements program.
func (g *guestBerth) Log() string { return (&harness.Process{LogFile: g.logFile}).Log() }

func (g *guestBerth) stop() error {
	g.cancel()
	<-g.ended
	err := g.err
	if errors.Is(err, context.Canceled) {
		err = nil // it ran until now
	} else if err == nil {
		err = errors.New("berth has ended by itself")
	}
	if err != nil {
		err = fmt.Errorf("%w; its log:\n%s", err, g.Log())
	}
	return errors.Join(err, g.api.Close())
}
