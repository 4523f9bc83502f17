package ganesha

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/export/probe"
)

// ExternalOptions are those of an External.
type ExternalOptions struct {
	Address  string // where it answers, host:port
	StateDir string // kept: the file of exports
	Log      *slog.Logger
	// Taken is told of export ids that are not Berth's. It may be nil.
	Taken func(export.ID)
}

// includeFile is the file in the state folder that Ganesha's configuration may
// include, so that a Ganesha that is started again has all exports at once.
const includeFile = "exports.conf"

// External is an NFS-Ganesha that somebody else runs on this host, driven over the
// system bus. It implements export.Server. Exports that are not Berth's are left alone.
type External struct {
	*driver
	o      ExternalOptions
	file   *exportsFile
	synced chan struct{} // closed by the first Sync: before that nobody knows what is wanted
	// stale are directories that an earlier run of Berth exported and that are not wanted.
	stale map[export.ID]string // guarded by the driver's mu
	// repairing keeps a repair from working on an export that a caller works on.
	repairing sync.RWMutex
}

var _ export.Server = (*External)(nil)

// NewExternal reads what was exported before. Whether that Ganesha runs is a matter
// for Run and Serving.
func NewExternal(o ExternalOptions) (*External, error) {
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("state of the NFS server: %w", err)
	}
	file, err := openExportsFile(filepath.Join(o.StateDir, includeFile))
	if err != nil {
		return nil, err
	}
	if o.Taken == nil {
		o.Taken = func(export.ID) {}
	}
	return &External{driver: newDriver(), o: o, file: file, synced: make(chan struct{})}, nil
}

// Sync implements export.Server. If no Ganesha runs, it is brought to want as soon as one does.
func (x *External) Sync(ctx context.Context, want []export.Export) error {
	before, err := x.file.set(want)
	failed := []error{err}
	up, _ := x.setWant(want)
	x.mu.Lock()
	x.stale = before
	for id, e := range x.want {
		if before[id] == e.Dir {
			delete(x.stale, id)
		}
	}
	x.mu.Unlock()
	select {
	case <-x.synced:
	default:
		close(x.synced)
	}
	if up != nil {
		failed = append(failed, x.align(ctx, up))
	}
	return errors.Join(failed...)
}

// Publish implements export.Server.
func (x *External) Publish(ctx context.Context, e export.Export) error {
	x.repairing.RLock()
	defer x.repairing.RUnlock()
	if err := x.file.add(e); err != nil {
		return err
	}
	err := x.driver.Publish(ctx, e)
	if errors.Is(err, export.ErrRefused) {
		err = errors.Join(err, x.file.remove(e.ID))
	}
	return err
}

// Withdraw implements export.Server.
func (x *External) Withdraw(ctx context.Context, e export.Export) error {
	x.repairing.RLock()
	defer x.repairing.RUnlock()
	// After a crash between the two Ganesha may bring it back; its record still wants it then.
	if err := x.driver.Withdraw(ctx, e); err != nil {
		return err
	}
	return x.file.remove(e.ID)
}

// Run drives whatever Ganesha is on the system bus, until ctx ends. Then all stays
// exported.
func (x *External) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-x.synced:
	}
	said := ""
	for ctx.Err() == nil {
		err := x.attach(ctx, func() { said = "" })
		if ctx.Err() != nil || errors.Is(err, errChanged) {
			continue
		}
		if err.Error() != said {
			said = err.Error()
			x.o.Log.Error("volumes cannot be mounted, or not be made and deleted", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(attachEvery):
		}
	}
	return nil
}

const (
	attachEvery = time.Second
	// A Ganesha is on the bus a moment before its port answers.
	awaitPort = 10 * time.Second
)

// errChanged says that a Ganesha has come or gone.
var errChanged = errors.New("NFS-Ganesha has come to the system bus, or left it")

// attach connects to the bus and serves the Ganesha that is on it until it goes. It
// returns an error in any case.
func (x *External) attach(ctx context.Context, up func()) error {
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		return fmt.Errorf("there is no system bus, over which the host's NFS-Ganesha is driven; start both (systemctl start dbus nfs-ganesha): %w", err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	changed := make(chan *dbus.Signal, 16)
	conn.Signal(changed)
	// Before it is asked who is there, so that no change is missed.
	err = conn.AddMatchSignalContext(ctx, dbus.WithMatchInterface("org.freedesktop.DBus"),
		dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, busName))
	if err != nil {
		return fmt.Errorf("the system bus: %w", err)
	}
	owned, err := isOnBus(ctx, conn)
	if err != nil {
		return fmt.Errorf("the system bus: %w", err)
	}
	go func() {
		select {
		case <-ctx.Done():
		case <-changed:
			cancel(errChanged)
		case <-conn.Context().Done():
			cancel(errors.New("the connection to the system bus is lost"))
		}
	}()
	if owned {
		err = x.serve(ctx, &bus{conn: conn, folder: x.o.StateDir, shared: true}, up)
	} else {
		err = errors.New("no NFS-Ganesha is on the system bus; start it (systemctl start nfs-ganesha)")
		select {
		case <-ctx.Done():
		case <-time.After(attachEvery):
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// serve has one run of Ganesha export what is wanted, and sees to it until it ends.
func (x *External) serve(ctx context.Context, b *bus, up func()) error {
	// First of all: its clients may be waiting for it.
	inst, err := x.take(ctx, b)
	if err != nil {
		return err
	}
	if err := x.awaitAnswer(ctx); err != nil {
		return err
	}
	x.setUp(inst)
	defer x.setUp(nil)
	x.o.Log.Info("the host's NFS-Ganesha is serving", "address", x.o.Address, "exports", len(inst.have))
	up()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(probeEvery):
		}
		if err := x.answers(ctx); err != nil {
			return err
		}
		if err := x.repair(ctx, inst); err != nil {
			return err
		}
	}
}

func (x *External) answers(ctx context.Context) error {
	if err := probe.Null(ctx, x.o.Address, probeTimeout); err != nil {
		return fmt.Errorf("the host's NFS-Ganesha does not answer NFSv4 at %s: %w", x.o.Address, err)
	}
	return nil
}

func (x *External) awaitAnswer(ctx context.Context) error {
	deadline := time.Now().Add(awaitPort)
	for {
		err := x.answers(ctx)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(pollStart)
	}
}

// take finds out what of ours a Ganesha has, and brings it to what is wanted.
func (x *External) take(ctx context.Context, b *bus) (*instance, error) {
	exported, err := b.exports(ctx)
	if err != nil {
		return nil, err
	}
	inst := &instance{bus: b, have: map[export.ID]held{}}
	want := x.wanted()
	x.mu.Lock()
	stale := maps.Clone(x.stale)
	x.mu.Unlock()
	for id, dir := range exported {
		switch e := want[id]; dir {
		case e.Dir:
			// Who may mount it, and as whom, may be of an earlier configuration: that
			// can be updated.
			e.Squash = ""
			inst.have[id] = held{Export: e, sure: true}
		case stale[id]:
			inst.have[id] = held{Export: export.Export{ID: id, Dir: dir}}
		default:
			x.o.Taken(id)
		}
	}
	if err := x.align(ctx, inst); err != nil {
		x.o.Log.Error("not everything could be exported", "err", err)
	}
	return inst, ctx.Err()
}

// repair adds what somebody has removed. (SIGHUP makes Ganesha drop what its
// configuration does not have.)
func (x *External) repair(ctx context.Context, inst *instance) error {
	x.repairing.Lock()
	defer x.repairing.Unlock()
	exported, err := inst.bus.exports(ctx)
	if err != nil {
		return err
	}
	missing := 0
	x.mu.Lock()
	for id, h := range inst.have {
		if exported[id] != h.Dir {
			delete(inst.have, id)
			missing++
		}
	}
	x.mu.Unlock()
	if missing == 0 {
		return nil
	}
	x.o.Log.Warn("somebody has removed exports of volumes; they are added again", "volumes", missing)
	if err := x.align(ctx, inst); err != nil {
		x.o.Log.Error("not everything could be exported", "err", err)
	}
	return nil
}
