//go:build system

package hostile

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/export/fixed"
	"github.com/berth-storage/berth/internal/volume"
)

// stormVariable has the test binary be a cluster in the storm: a process that makes and
// ends volumes, and may be killed and started again at any time.
const stormVariable = "BERTH_TEST_STORM"

// plan is what such a process is told.
type plan struct {
	Root, Cluster string
	Beside        bool   // where it keeps archives
	Log           string // what it has begun and ended, so that it goes on from there
	Claims        int
}

// The phases of a claim.
const (
	asked    = "asked"
	refused  = "refused" // given up
	made     = "made"
	deleting = "deleting"
	gone     = "gone"
	taken    = "taken" // gone, and what was kept of it is another claim's
)

// cluster does what Kubernetes does: it asks for volumes until it has them, and never
// forgets one that it has.
type cluster struct {
	plan
	m *volume.Manager
	b *dir.Backend

	mu     sync.Mutex
	log    *os.File
	phases map[volume.Name]string
}

// claim is number i of a cluster: what it asks for depends on that only.
func (p plan) claim(i int) (volume.Spec, error) {
	random := rand.New(rand.NewPCG(uint64(i), uint64(len(p.Cluster)+int(p.Cluster[0])))) //nolint:gosec // the same each time
	name, err := volume.ParseName(fmt.Sprintf("%s-%d", p.Cluster, i))
	if err != nil {
		return volume.Spec{}, err
	}
	top := random.IntN(8)
	path, err := volume.ParseRelPath(fmt.Sprintf("p%d%s", top, []string{"", "/a", "/a/b", "/c"}[random.IntN(4)]))
	if err != nil {
		return volume.Spec{}, err
	}
	s := volume.Spec{
		Name: name, Path: path, Size: 1 << 20, Cluster: p.Cluster, OnDelete: volume.OnDeleteDelete, Existing: volume.ExistingReuse,
		Claim: volume.Claim{Namespace: "storm", Name: name.String(), UID: name.String()}, Owner: volume.Owner{Mode: 0o777},
		Export: volume.ExportRef{Squash: export.SquashNone},
	}
	switch i / claimsAtOnce % 8 {
	case 1, 3, 5:
		s.OnDelete = volume.OnDeleteArchive
	case 2: // it shall get what the one before has left
		before, err := volume.ParseName(fmt.Sprintf("%s-%d", p.Cluster, i-claimsAtOnce))
		if err != nil {
			return volume.Spec{}, err
		}
		s.From = &volume.Source{Archive: before}
	case 7:
		s.OnDelete = volume.OnDeleteRetain
	}
	if top >= foreignFrom {
		s.Existing = volume.ExistingRefuse
	}
	return s, nil
}

// claims live so many at a time: number i begins when i-claimsAtOnce has ended.
const claimsAtOnce = 4

// foreignFrom is the first of the folders p0 to p7 in which foreign things may lie.
const foreignFrom = 4

// storm is the process. It ends with 0 when all its claims have ended.
func storm(ctx context.Context, text string) int {
	c := cluster{phases: map[volume.Name]string{}}
	err := json.Unmarshal([]byte(text), &c.plan)
	if err == nil {
		err = c.run(ctx)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "cluster %s: %v\n", c.Cluster, err)
		return 1
	}
	return 0
}

func (c *cluster) run(ctx context.Context) (err error) {
	if err := c.openLog(); err != nil {
		return err
	}
	if c.b, err = dir.Open(ctx, c.Root, dir.Options{Quota: dir.QuotaOff, Cluster: c.Cluster, ArchiveBeside: c.Beside, Wait: func(dir.Holder) {}}); err != nil {
		return err
	}
	c.m = volume.NewManager(volume.Pool{
		Name: c.Cluster, Backend: c.b, Server: fixed.Server{}, ExportPath: "/share", Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if _, err := c.m.Recover(ctx); err != nil {
		return err
	}
	if err := c.scavenge(ctx); err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	var background sync.WaitGroup
	background.Go(func() { c.m.Run(running) })
	err = c.claims(ctx)
	if err == nil {
		err = errors.Join(c.scavenge(ctx), c.awaitPurge(ctx))
	}
	stop()
	background.Wait()
	return errors.Join(err, c.b.Close())
}

// openLog reads what was done before.
func (c *cluster) openLog() (err error) {
	if c.log, err = os.OpenFile(c.Log, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		return err
	}
	lines := bufio.NewScanner(c.log)
	for lines.Scan() {
		phase, name, _ := strings.Cut(lines.Text(), " ")
		n, err := volume.ParseName(name)
		if err != nil {
			return err
		}
		c.phases[n] = phase
	}
	return lines.Err()
}

func (c *cluster) phase(n volume.Name) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.phases[n]
}

func (c *cluster) enter(phase string, n volume.Name) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.phases[n] = phase
	_, err := fmt.Fprintln(c.log, phase, n)
	return err
}

func (c *cluster) scavenge(ctx context.Context) error {
	_, err := c.m.Scavenge(ctx, c.Cluster, 0, func(_ context.Context, v volume.Volume) (bool, error) {
		return c.phase(v.Name) != refused, nil
	})
	return err
}

// claims has all claims live and end, some at a time.
func (c *cluster) claims(ctx context.Context) error {
	var workers sync.WaitGroup
	errs := make([]error, claimsAtOnce)
	for w := range claimsAtOnce {
		workers.Go(func() {
			for i := w; i < c.Claims && errs[w] == nil; i += claimsAtOnce {
				errs[w] = c.live(ctx, i)
			}
		})
	}
	workers.Wait()
	return errors.Join(errs...)
}

// live is the life of a claim from where it was.
func (c *cluster) live(ctx context.Context, i int) error {
	s, err := c.claim(i)
	if err != nil {
		return err
	}
	if s.From != nil && c.phase(s.From.Archive) == refused {
		s.From = nil
	}
	for {
		switch c.phase(s.Name) {
		case "":
			err = c.enter(asked, s.Name)
		case asked:
			err = c.ask(ctx, s)
		case made:
			err = c.use(ctx, s)
		case deleting:
			if err = c.m.Delete(ctx, s.Name, c.Cluster); err == nil {
				err = c.enter(gone, s.Name)
			}
		default:
			return nil
		}
		if err != nil {
			return fmt.Errorf("volume %s at %s: %w", s.Name, s.Path, err)
		}
	}
}

// ask asks for a volume, and gives up if its path stays another one's.
func (c *cluster) ask(ctx context.Context, s volume.Spec) error {
	const tries = 3
	for try := 1; ; {
		v, err := c.m.Create(ctx, s)
		// Not found is what another claim of this cluster has just got.
		inTheWay := errors.Is(err, volume.ErrExists) || errors.Is(err, volume.ErrForeign) || errors.Is(err, volume.ErrNotFound)
		switch {
		case err == nil:
			// Nothing may be in it but what it was made from and, after being killed, our
			// own, maybe not written to yet.
			allowed := []string{"", v.RestoredFrom.String()}
			if v.RestoredFrom == (volume.Name{}) {
				allowed = append(allowed, nothing)
			}
			if err := c.check(v, allowed...); err != nil {
				return err
			}
			if v.RestoredFrom != (volume.Name{}) {
				if err := c.enter(taken, v.RestoredFrom); err != nil {
					return err
				}
			}
			if err := os.WriteFile(filepath.Join(v.Dir, owner), []byte(s.Name.String()), 0o600); err != nil {
				return err
			}
			return c.enter(made, s.Name)
		case inTheWay && try == tries:
			return c.enter(refused, s.Name)
		case inTheWay:
			try++
		case !inTheWay && !errors.Is(err, volume.ErrBusy):
			return err
		}
		time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond) //nolint:gosec // when does not matter
	}
}

// owner is the file that says whose a directory is.
const owner = "owner"

// use has a volume for a while.
func (c *cluster) use(ctx context.Context, s volume.Spec) error {
	if err := c.m.MarkPublished(ctx, s.Name); err != nil {
		return err
	}
	time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond) //nolint:gosec // likewise
	v, err := c.b.Get(ctx, s.Name)
	if err == nil {
		err = c.check(v)
	}
	if err != nil {
		return err
	}
	return c.enter(deleting, s.Name)
}

// nothing is what a directory without a file says about its owner.
const nothing = "nothing"

// check says whether a volume is all its owner's, or one's that is allowed too. It may
// have empty folders in it: those that volumes lay in before.
func (c *cluster) check(v volume.Volume, allowed ...string) error {
	var files []string
	err := filepath.WalkDir(v.Dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && path != v.Dir:
			return nil // tidied away
		case err == nil && !d.IsDir():
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	is, file := nothing, filepath.Join(v.Dir, owner)
	if slices.Equal(files, []string{file}) {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		is = string(text)
	} else if len(files) > 0 {
		return fmt.Errorf("its directory holds %v", files)
	}
	if is != v.Name.String() && !slices.Contains(allowed, is) {
		return fmt.Errorf("its directory is %q's", is)
	}
	return nil
}

// awaitPurge waits until nothing more is to be freed.
func (c *cluster) awaitPurge(ctx context.Context) error {
	for {
		left := 0
		for v, err := range c.b.List(ctx) {
			if err != nil {
				return err
			}
			if v.State == volume.StateDiscarded {
				left++
			}
		}
		if left == 0 {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
}
