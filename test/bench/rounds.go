package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/berth-storage/berth/test/harness"
)

// round is what was measured in one: claims bound and volumes deleted a second,
// the share of the processors that other programs had, and of Berth its steps.
type round struct {
	bind, remove, others float64
	steps                steps
}

// runner runs one round in a namespace of that name.
type runner func(ctx context.Context, name string) (round, error)

// measureBind measures many claims at once, with Berth and the no-op provisioner
// in turns. Only one of them runs at a time.
func (b *bench) measureBind(ctx context.Context) error {
	if err := errors.Join(b.needBerth(ctx), b.needCluster(ctx)); err != nil {
		return err
	}
	noopBinary, err := harness.Program(ctx, b.folder, "test/bench/noop")
	if err != nil {
		return err
	}
	root, err := b.newPool()
	if err != nil {
		return err
	}
	runners := []runner{
		func(ctx context.Context, name string) (round, error) { return b.noopRound(ctx, name, noopBinary) },
		func(ctx context.Context, name string) (round, error) { return b.berthRound(ctx, name, root) },
	}
	// noop, berth, berth, noop, and so on: what drifts is the same for both.
	measured := make([][]round, len(runners))
	for i := range 2 * b.turns {
		who := (i + 1) / 2 % 2
		r, err := b.undisturbed(ctx, runners[who])
		if err != nil {
			return err
		}
		measured[who] = append(measured[who], r)
	}
	b.setBindResults(measured[0], measured[1])
	return nil
}

func (b *bench) setBindResults(noop, berth []round) {
	of := func(rounds []round, value func(round) float64) float64 {
		var values []float64
		for _, r := range rounds {
			values = append(values, value(r))
		}
		return median(values)
	}
	bind := func(r round) float64 { return r.bind }
	remove := func(r round) float64 { return r.remove }
	b.results.set("bind_per_s", of(berth, bind))
	b.results.set("noop_bind_per_s", of(noop, bind))
	b.results.set("bind_ratio_vs_noop", of(berth, bind)/of(noop, bind))
	b.results.set("delete_per_s", of(berth, remove))
	b.results.set("noop_delete_per_s", of(noop, remove))
	b.results.set("bind_others_cpu_percent", of(slices.Concat(noop, berth), func(r round) float64 { return r.others }))
	// Estimated from the buckets of Berth's metrics, as Prometheus would.
	var all steps
	for _, r := range berth {
		all.provision = all.provision.add(r.steps.provision, 1)
		all.create = all.create.add(r.steps.create, 1)
	}
	b.results.set("provision_step_p50_ms", 1000*all.provision.quantile(0.50))
	b.results.set("provision_step_p99_ms", 1000*all.provision.quantile(0.99))
	b.results.set("volume_create_p50_ms", 1000*all.create.quantile(0.50))
}

// undisturbed runs a round at a quiet moment, and again if other programs took
// much of the processors meanwhile, as long as there are repeats left.
func (b *bench) undisturbed(ctx context.Context, run runner) (round, error) {
	for {
		if err := awaitQuiet(ctx); err != nil {
			return round{}, err
		}
		b.rounds++
		r, err := run(ctx, fmt.Sprintf("round-%d", b.rounds))
		if err != nil {
			return round{}, fmt.Errorf("round %d: %w", b.rounds, err)
		}
		if r.others < disturbing || b.repeats == 0 {
			return r, nil
		}
		b.repeats--
		b.say("  once more: other programs had %.0f %% of the processors", r.others)
	}
}

func (b *bench) noopRound(ctx context.Context, name, binary string) (r round, err error) {
	p, err := harness.Start(filepath.Join(b.folder, "noop.log"), binary, "-kubeconfig", b.cluster.Kubeconfig(), "-provisioner", noopName)
	if err != nil {
		return r, err
	}
	defer p.Kill()
	s, err := b.newSetting(ctx, name, noopName, p)
	if err != nil {
		return r, err
	}
	r, err = b.bindAndDelete(ctx, s, func() (steps, error) { return steps{}, nil })
	if err != nil {
		return r, err
	}
	b.say("  noop : %.1f claims bound a second, %.1f volumes deleted", r.bind, r.remove)
	return r, errors.Join(s.remove(ctx), p.Stop())
}

func (b *bench) berthRound(ctx context.Context, name, root string) (r round, err error) {
	berth, err := b.startBerth(root, berthName)
	if err != nil {
		return r, err
	}
	defer berth.Kill()
	if err := berth.Ready(ctx); err != nil {
		return r, err
	}
	s, err := b.newSetting(ctx, name, berthName, berth.Process)
	if err != nil {
		return r, err
	}
	r, err = b.bindAndDelete(ctx, s, func() (steps, error) { return readSteps(ctx, berth) })
	if err != nil {
		return r, err
	}
	if counted := r.steps.provision.total(); counted < float64(b.claims) {
		return r, fmt.Errorf("%d claims are bound and Berth's metric counts %g provisions", b.claims, counted)
	}
	b.say("  berth: %.1f claims bound a second, %.1f volumes deleted; provision step p50 %.1f ms, of it the volume %.1f", r.bind, r.remove,
		1000*r.steps.provision.quantile(0.5), 1000*r.steps.create.quantile(0.5))
	if err := b.awaitEmpty(ctx, berth.Process, root); err != nil {
		return r, err
	}
	return r, errors.Join(s.remove(ctx), berth.Stop())
}

// bindAndDelete is a round without its preparations.
func (b *bench) bindAndDelete(ctx context.Context, s *setting, read func() (steps, error)) (r round, err error) {
	before, err := read()
	if err != nil {
		return r, err
	}
	then, err := readCPU()
	if err != nil {
		return r, err
	}
	took, err := s.bind(ctx, "claim", b.claims)
	if err != nil {
		return r, err
	}
	r.bind = float64(b.claims) / took.Seconds()
	after, err := read()
	if err != nil {
		return r, err
	}
	r.steps = steps{after.provision.add(before.provision, -1), after.create.add(before.create, -1)}
	if took, err = s.deleteAll(ctx); err != nil {
		return r, err
	}
	r.remove = float64(b.claims) / took.Seconds()
	r.others, err = othersSince(then)
	return r, err
}

// steps are how long Berth's own parts took so far.
type steps struct{ provision, create histogram }

func readSteps(ctx context.Context, berth *harness.Berth) (s steps, err error) {
	text, err := berth.Metrics(ctx)
	if err != nil {
		return s, err
	}
	var errs [2]error
	s.provision, errs[0] = parseHistogram(text, "berth_provisioner_step_seconds", `step="provision"`, `result="ok"`)
	s.create, errs[1] = parseHistogram(text, "berth_volume_operation_seconds", `operation="create"`, `result="ok"`)
	return s, errors.Join(errs[:]...)
}
