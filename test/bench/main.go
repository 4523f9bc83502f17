// Command bench measures Berth on a development cluster of its own, prints a
// table and writes the numbers to a file (flat JSON: name to number).
//
// A number that misses its bar is told in the table and is not a failure of the
// command: machines differ. What cannot be measured is a failure.
//
// What is compared with each other is measured in turns, and everything that a
// turn has made is gone before the next one begins, because on a small or busy
// machine only ratios from one run mean much. It needs root, for NFS-Ganesha. It
// leaves nothing behind, also when it is interrupted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/test/cluster"
	"github.com/berth-storage/berth/test/harness"
)

func main() {
	err := harness.OwnMounts() // what is measured on file systems of its own leaves no mounts then
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err = run(ctx, os.Args[1:])
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// phase measures some of the metrics.
type phase struct {
	name string
	says string
	run  func(*bench, context.Context) error
}

// phases are in the order in which they run: what needs no cluster comes first,
// while there is none to share the processors with, and what fills it comes last.
var phases = []phase{
	{"create", "creating volumes through the Manager, with few and with many there", (*bench).measureCreate},
	{"ssh", "running programs over ssh, on one connection and on new ones in turns", (*bench).measureSSH},
	{"kernel", "publishing exports by the kernel's NFS server, in a guest", (*bench).measureKernel},
	{"quota", "creating volumes with and without quotas, in the test VM", (*bench).measureQuota},
	{"zfs", "making datasets of OpenZFS, through the Manager and by zfs create alone in turns, in the test VM", (*bench).measureZFS},
	{"purge", "freeing deleted volumes on a share and rm -rf in turns, in the test VM", (*bench).measurePurge},
	{"share", "deleting volumes of many files on a share, with Berth in the test VM", (*bench).measureShare},
	{"restart", "restarting Berth with many volumes", (*bench).measureRestart},
	{"single", "claims one at a time", (*bench).measureSingle},
	{"copies", "growing, snapshotting and cloning claims, on each storage", (*bench).measureCopies},
	{"clone", "cloning a claim of 10 GiB and making an empty one, in turns", (*bench).measureBigClone},
	{"bind", "many claims at once, Berth and a no-op provisioner in turns", (*bench).measureBind},
	{"rss", "the memory of Berth with many volumes, at rest", (*bench).measureRSS},
}

// phaseLimit is how long a phase may take. It ends a wait for what never comes.
const phaseLimit = 20 * time.Minute

func run(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	out := flags.String("out", "out/bench.json", "the `file` for the numbers")
	only := flags.String("only", "", "measure only these `phases`, as in \"bind,rss\"; of "+strings.Join(phaseNames(), ", "))
	quick := flags.Bool("quick", false, "smaller numbers, to try the bench itself: they are not comparable")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	b, err := newBench(*quick)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	for _, p := range chosen {
		if err := b.runPhase(ctx, p); err != nil {
			return err
		}
	}
	fmt.Println()
	return errors.Join(b.results.table(os.Stdout), b.results.write(*out, *quick))
}

func phaseNames() []string {
	var names []string
	for _, p := range phases {
		names = append(names, p.name)
	}
	return names
}

func choose(only string) ([]phase, error) {
	if only == "" {
		return phases, nil
	}
	wanted := strings.Split(only, ",")
	for _, name := range wanted {
		if !slices.Contains(phaseNames(), name) {
			return nil, fmt.Errorf("there is no phase %q: choose from %s", name, strings.Join(phaseNames(), ", "))
		}
	}
	return slices.DeleteFunc(slices.Clone(phases), func(p phase) bool { return !slices.Contains(wanted, p.name) }), nil
}

// sizes are the numbers of what is measured.
type sizes struct {
	claims       int // bound at once
	turns        int // of Berth and of the no-op provisioner each
	repeats      int // of rounds that other programs disturbed, in all
	singles      int // claims one at a time
	resting      int // volumes while memory is measured
	few, many    int // volumes that exist while others are created
	creations    int // with each of these
	commands     int // over ssh, of each kind
	manyKernel   int // exports of the kernel's server, while others are published
	publishTurns int // with few and with so many, of 20 publications each
	manyZFS      int // datasets, while others are created
	zfsTurns     int // with few and with so many, of a volume and a dataset each
	purgeFiles   int // in a tree
	purgeFew     int // in a small one
	purgeTurns   int // of Berth and of rm
	shareFiles   int // in a volume
	shareTurns   int // volumes that are deleted
	copyTurns    int // on each storage
	copyMiB      int // in the volume that is cloned
	cloneTurns   int // of a large volume and an empty one
	cloneGiB     int // in the large one
	restarts     int
	restPatience time.Duration // until Berth counts as at rest
}

var (
	fullSizes  = sizes{claims: 300, turns: 4, repeats: 4, singles: 20, resting: 1000, few: 10, many: 5000, creations: 500, commands: 200, manyKernel: 1000, publishTurns: 15, manyZFS: 500, zfsTurns: 10, purgeFiles: 5000, purgeFew: 1000, purgeTurns: 6, shareFiles: 200_000, shareTurns: 1, copyTurns: 10, copyMiB: 64, cloneTurns: 40, cloneGiB: 10, restarts: 3, restPatience: 60 * time.Second}
	quickSizes = sizes{claims: 50, turns: 1, singles: 5, resting: 100, few: 10, many: 500, creations: 30, commands: 20, manyKernel: 100, publishTurns: 1, manyZFS: 30, zfsTurns: 3, purgeFiles: 1000, purgeFew: 100, purgeTurns: 2, shareFiles: 5000, shareTurns: 1, copyTurns: 2, copyMiB: 8, cloneTurns: 3, cloneGiB: 1, restarts: 1, restPatience: 5 * time.Second}
)

// bench is a run of the bench. Parts that several phases use are made by the
// first one that needs them.
type bench struct {
	sizes
	started time.Time
	folder  string
	results results

	berthBinary string
	manyVolumes string // the root of the pool of many volumes
	cluster     *cluster.Cluster
	client      kubernetes.Interface
	pools       int // so far, for names
	rounds      int // likewise
}

func newBench(quick bool) (*bench, error) {
	b := &bench{sizes: fullSizes, started: time.Now(), results: results{}}
	if quick {
		b.sizes = quickSizes
	}
	var err error
	if b.folder, err = os.MkdirTemp("", "berth-bench-"); err != nil {
		return nil, err
	}
	if err := dir.CheckFileHandles(b.folder); err != nil {
		return nil, errors.Join(fmt.Errorf("set TMPDIR to a folder on a disk: %w", err), b.close())
	}
	return b, nil
}

// close ends and removes all that the bench has made.
func (b *bench) close() error {
	var failed []error
	if b.cluster != nil {
		failed = append(failed, b.cluster.Stop())
	}
	return errors.Join(append(failed, os.RemoveAll(b.folder))...)
}

// say prints a line of progress.
func (b *bench) say(format string, args ...any) {
	fmt.Printf("%4.0f s  %s\n", time.Since(b.started).Seconds(), fmt.Sprintf(format, args...))
}

func (b *bench) runPhase(ctx context.Context, p phase) error {
	b.say("%s: %s", p.name, p.says)
	ctx, cancel := context.WithTimeoutCause(ctx, phaseLimit, fmt.Errorf("it took more than %s", phaseLimit))
	defer cancel()
	err := p.run(b, ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

// needBerth builds Berth's binary.
func (b *bench) needBerth(ctx context.Context) (err error) {
	if b.berthBinary == "" {
		b.berthBinary, err = harness.Program(ctx, b.folder, "cmd/berth")
	}
	return err
}

// needCluster starts the cluster.
func (b *bench) needCluster(ctx context.Context) (err error) {
	if b.cluster != nil {
		return nil
	}
	b.say("  starting a cluster")
	if b.cluster, err = cluster.Start(ctx, cluster.Options{Log: os.Stdout}); err != nil {
		return err
	}
	b.client, err = harness.NewClient(b.cluster.Kubeconfig())
	return err
}

// newPool makes an empty folder for a pool.
func (b *bench) newPool() (string, error) {
	b.pools++
	root := filepath.Join(b.folder, fmt.Sprintf("pool-%d", b.pools))
	return root, os.Mkdir(root, 0o755)
}
