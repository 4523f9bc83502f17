package ganesha

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/berth-storage/berth/internal/export"
)

// driver brings a running Ganesha to what is wanted, one export at a time.
type driver struct {
	mu   sync.Mutex
	want map[export.ID]export.Export
	up   *instance     // nil while there is no server
	turn chan struct{} // closed and renewed whenever up changes
}

func newDriver() *driver {
	return &driver{want: map[export.ID]export.Export{}, turn: make(chan struct{})}
}

// instance is one run of the server.
type instance struct {
	bus *bus
	// have is what the server exports of ours, as far as is known.
	have map[export.ID]held
}

// held is an export that a server has.
type held struct {
	export.Export
	// sure: it has it as it is here. Otherwise a call had no clear outcome, or the
	// server had it before.
	sure bool
}

func (d *driver) setUp(inst *instance) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.up = inst
	close(d.turn)
	d.turn = make(chan struct{})
}

// Serving says whether the server is up.
func (d *driver) Serving() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.up != nil
}

// setWant says what is wanted, and gives the running server, if there is one, and
// what is closed when that changes.
func (d *driver) setWant(want []export.Export) (up *instance, turn <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.want = make(map[export.ID]export.Export, len(want))
	for _, e := range want {
		d.want[e.ID] = e
	}
	return d.up, d.turn
}

// wanted is what is wanted now.
func (d *driver) wanted() map[export.ID]export.Export {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.want)
}

// current is the running server, and what is closed when that changes.
func (d *driver) current() (up *instance, turn <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.up, d.turn
}

// await returns the running server, and waits for it if it is being started.
func (d *driver) await(ctx context.Context) (*instance, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, waitForServer, fmt.Errorf("it is not up after %s of waiting", waitForServer))
	defer cancel()
	for {
		up, turn := d.current()
		if up != nil {
			return up, nil
		}
		select {
		case <-turn:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", export.ErrUnavailable, context.Cause(ctx))
		}
	}
}

// align brings a running server to what is wanted.
func (d *driver) align(ctx context.Context, inst *instance) error {
	want := d.wanted()
	d.mu.Lock()
	have := maps.Clone(inst.have)
	d.mu.Unlock()
	var failed []error
	for id, old := range have {
		if e, wanted := want[id]; !wanted || !old.is(e) && !old.canBecome(e) {
			failed = append(failed, d.withdraw(ctx, inst, id))
		}
	}
	for id, e := range want {
		if !have[id].is(e) {
			failed = append(failed, d.publish(ctx, inst, e))
		}
	}
	return errors.Join(failed...)
}

// is says whether e is certainly exported like this.
func (h held) is(e export.Export) bool { return h.sure && h.Export == e }

// canBecome says whether Ganesha can make e of it while it is there: the rest of an
// export cannot be changed.
func (h held) canBecome(e export.Export) bool {
	return h.sure && h.Dir == e.Dir && h.Path == e.Path && h.FSID == e.FSID
}

// Publish implements export.Server.
func (d *driver) Publish(ctx context.Context, e export.Export) error {
	inst, err := d.await(ctx)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.want[e.ID] = e // a server that starts from here on has it in its configuration
	d.mu.Unlock()
	err = d.publish(ctx, inst, e)
	if errors.Is(err, export.ErrRefused) {
		d.mu.Lock()
		delete(d.want, e.ID)
		d.mu.Unlock()
	}
	return err
}

func (d *driver) publish(ctx context.Context, inst *instance, e export.Export) error {
	d.mu.Lock()
	old, known := inst.have[e.ID]
	d.mu.Unlock()
	switch {
	case old.is(e):
		return nil
	case old.canBecome(e):
		if err := inst.bus.update(ctx, e); err != nil {
			return err
		}
	case known:
		// An earlier call whose outcome is unknown may have added anything.
		if err := d.withdraw(ctx, inst, e.ID); err != nil {
			return err
		}
		fallthrough
	default:
		d.setHave(inst, held{Export: e})
		if err := inst.bus.add(ctx, e); errors.Is(err, export.ErrRefused) {
			return errors.Join(err, d.withdraw(ctx, inst, e.ID))
		} else if err != nil {
			return err
		}
	}
	d.setHave(inst, held{Export: e, sure: true})
	return nil
}

// Withdraw implements export.Server.
func (d *driver) Withdraw(ctx context.Context, e export.Export) error {
	d.mu.Lock()
	delete(d.want, e.ID) // a server that starts from here on lacks it
	d.mu.Unlock()
	// Waiting also when no server is up: the one being started may have been
	// given the export before it was taken out of want.
	inst, err := d.await(ctx)
	if err != nil {
		return err
	}
	return d.withdraw(ctx, inst, e.ID)
}

func (d *driver) withdraw(ctx context.Context, inst *instance, id export.ID) error {
	d.mu.Lock()
	old, known := inst.have[id]
	d.mu.Unlock()
	if !known {
		return nil
	}
	if err := inst.bus.remove(ctx, old.Export); err != nil {
		return err
	}
	d.mu.Lock()
	delete(inst.have, id)
	d.mu.Unlock()
	return nil
}

func (d *driver) setHave(inst *instance, h held) {
	d.mu.Lock()
	defer d.mu.Unlock()
	inst.have[h.ID] = h
}
