//go:build system

package hostile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/test/vm"
)

const (
	attacked = 1000 // volumes, every second one of which is archived
	atOnce   = 8
	// All of what Berth makes is for this user and this mode: so what it has touched
	// outside is seen by that.
	tenant     = 4242
	tenantMode = 0o2775
)

func TestAttackOnADisk(t *testing.T) {
	disk := filepath.Join("/srv", "attacked")
	must(t, vm.MountNew(t.Context(), vm.Here{}, vm.XFS, disk, 1<<30))
	t.Cleanup(func() {
		if _, err := (vm.Here{}).Run(context.Background(), "umount", disk); err != nil {
			t.Error(err)
		}
	})
	attack(t, disk, disk)
}

func TestAttackOnAShare(t *testing.T) {
	s := newShare(t)
	attack(t, s.mount(t, "4.2"), s.disk)
}

// attack makes, archives and deletes volumes in root while tenants swap, on the
// server's disk, all that a tenant can have his hands on for symbolic links, many times
// in each step: the folders that volumes lie in, their directories, and what is in these.
func attack(t *testing.T, root, disk string) {
	outside := newOutside(t, disk)
	b, err := dir.Open(t.Context(), root, dir.Options{Quota: dir.QuotaOff})
	must(t, err)
	defer b.Close()
	must(t, os.Mkdir(filepath.Join(disk, "spare"), 0o777))

	var workers sync.WaitGroup
	jobs := make(chan int)
	var seen counts
	for range atOnce {
		workers.Go(func() {
			for i := range jobs {
				if err := life(t.Context(), b, disk, i, outside, &seen); err != nil {
					t.Errorf("volume %d: %v", i, err)
				}
			}
		})
	}
	for i := range attacked {
		jobs <- i
	}
	close(jobs)
	workers.Wait()
	t.Logf("%d swaps; %d calls refused; under attack %d volumes were made, %d archived, %d deleted",
		seen.swaps.Load(), seen.refused.Load(), seen.made.Load(), seen.archived.Load(), seen.deleted.Load())
	if seen.refused.Load() == 0 || seen.made.Load() == 0 || seen.archived.Load() == 0 || seen.deleted.Load() == 0 {
		t.Error("the attack did not meet what it was to meet")
	}
	outside.check(t)
}

type counts struct{ swaps, refused, made, archived, deleted atomic.Int64 }

// life is that of one volume: it is made, archived or not, and deleted, under attack.
func life(ctx context.Context, b *dir.Backend, disk string, i int, o outside, seen *counts) (err error) {
	team := fmt.Sprint("team-", i)
	if err := errors.Join(os.Mkdir(filepath.Join(disk, team), 0o777), os.Chmod(filepath.Join(disk, team), 0o777)); err != nil {
		return err
	}
	a, err := newAttacker(disk, team, o, seen)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	n, err := volume.ParseName(fmt.Sprint("pvc-", i))
	if err != nil {
		return err
	}
	p, err := volume.ParseRelPath(team + "/data")
	if err != nil {
		return err
	}
	s := volume.Spec{
		Name: n, Path: p, Size: 1 << 20, Claim: volume.Claim{Namespace: team, Name: "data", UID: n.String()}, Existing: volume.ExistingReuse,
		Owner: volume.Owner{UID: tenant, GID: tenant, Mode: tenantMode}, Export: volume.ExportRef{FSID: export.NewFSID(n.String()), Path: p.Below("/"), Squash: export.SquashNone},
	}
	steps := []struct {
		done *atomic.Int64
		do   func() error
	}{
		{&seen.made, func() error { _, err := b.Create(ctx, s); return err }},
		{&seen.archived, func() error {
			if i%2 == 0 {
				return nil
			}
			_, err := b.Archive(ctx, n, func(volume.RelPath) error { return nil })
			if errors.Is(err, volume.ErrNotFound) { // it is the link that the attackers have
				return nil
			}
			return err
		}},
		{&seen.deleted, func() error { return b.Discard(ctx, n) }},
		{&seen.deleted, func() error { return b.Purge(ctx, n) }},
	}
	for _, step := range steps {
		a.start()
		var err error
		for try := range 5 {
			if try > 0 {
				seen.refused.Add(1)
			}
			if err = step.do(); err == nil {
				step.done.Add(1)
				break
			}
		}
		a.stop()
		if err != nil { // without attackers it has to go on from there
			a.restore()
			if err := retry(ctx, step.do); err != nil {
				return err
			}
		}
	}
	_, err = b.Get(ctx, n)
	if !errors.Is(err, volume.ErrNotFound) {
		return fmt.Errorf("its record: %w", err)
	}
	return nil
}

// retry does what has to succeed in the end: a client of NFS knows for some seconds only
// what it has seen.
func retry(ctx context.Context, do func() error) error {
	const patience = 4 * time.Minute
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := do()
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// attacker has his hands on what one volume lies in, and on what is in it. He works on the
// server's disk, by descriptors, so that he is not caught by his own links.
type attacker struct {
	disk, team, spare int // descriptors; the folder spare has a link for each swap
	name              string
	o                 outside
	seen              *counts
	end               chan struct{}
	running           sync.WaitGroup
}

const openFolder = unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

func newAttacker(disk, team string, o outside, seen *counts) (*attacker, error) {
	a := &attacker{name: team, o: o, seen: seen}
	var errs [5]error
	a.disk, errs[0] = unix.Open(disk, openFolder, 0)
	a.team, errs[1] = unix.Openat(a.disk, team, openFolder, 0)
	a.spare, errs[2] = unix.Openat(a.disk, "spare", openFolder, 0)
	errs[3] = unix.Symlinkat("victim", a.spare, team)
	errs[4] = unix.Symlinkat(o.precious, a.spare, team+"-data")
	return a, errors.Join(errs[:]...)
}

func (a *attacker) close() error {
	return errors.Join(unix.Close(a.team), unix.Close(a.disk), unix.Close(a.spare))
}

func (a *attacker) start() {
	a.end = make(chan struct{})
	a.running.Go(func() { a.swap(a.disk, a.name, a.spare, a.name) })
	a.running.Go(func() { a.swap(a.team, "data", a.spare, a.name+"-data") })
	a.running.Go(a.within)
}

func (a *attacker) stop() {
	close(a.end)
	a.running.Wait()
}

// swap swaps two names again and again, if both are there.
func (a *attacker) swap(folder int, name string, other int, link string) {
	for !a.ended() {
		if unix.Renameat2(folder, name, other, link, unix.RENAME_EXCHANGE) == nil {
			a.seen.swaps.Add(1)
		}
	}
}

func (a *attacker) ended() bool {
	select {
	case <-a.end:
		return true
	// The guest has one processor. Attackers who leave Berth none of it only meet it less often: with pauses ten
	// times shorter as many calls are refused, in three times the time.
	case <-time.After(time.Duration(rand.IntN(3000)) * time.Microsecond):
		return false
	}
}

// within works in the volume, also when that is in the trash or the archive by now: he
// has it open.
func (a *attacker) within() {
	for !a.ended() {
		top, err := unix.Openat(a.team, "data", openFolder, 0)
		if err != nil {
			continue
		}
		for _, folder := range []string{"a", "a/b", "a/b/c"} {
			_ = unix.Mkdirat(top, folder, 0o777)
		}
		_ = unix.Symlinkat(a.o.precious, top, "link")
		_ = unix.Symlinkat("../../../victim", top, "a/link")
		for !a.ended() {
			if unix.Renameat2(top, "a/b", top, "link", unix.RENAME_EXCHANGE) == nil {
				a.seen.swaps.Add(1)
			}
			if unix.Renameat2(top, "a/b/c", top, "a/link", unix.RENAME_EXCHANGE) == nil {
				a.seen.swaps.Add(1)
			}
		}
		_ = unix.Close(top)
	}
}

// restore has the directories, and not the links, at their names, where they are still
// anywhere.
func (a *attacker) restore() {
	for _, s := range []struct {
		folder     int
		name, link string
	}{{a.disk, a.name, a.name}, {a.team, "data", a.name + "-data"}} {
		var is unix.Stat_t
		if unix.Fstatat(s.folder, s.name, &is, unix.AT_SYMLINK_NOFOLLOW) == nil && is.Mode&unix.S_IFMT == unix.S_IFLNK {
			_ = unix.Renameat2(s.folder, s.name, a.spare, s.link, unix.RENAME_EXCHANGE)
		}
	}
}

// outside is what the attackers' links lead to: a victim on the share, and something
// precious on Berth's own host.
type outside struct {
	victim, precious string
	was              []string
}

func newOutside(t *testing.T, disk string) outside {
	t.Helper()
	o := outside{victim: filepath.Join(disk, "victim"), precious: t.TempDir()}
	for _, top := range []string{o.victim, o.precious} {
		// With the names of all that Berth looks for there.
		for _, folder := range []string{"data/a/b/c", "a/b/c", "b/c", "c"} {
			must(t, os.MkdirAll(filepath.Join(top, folder), 0o700), os.WriteFile(filepath.Join(top, folder, "file"), []byte(folder), 0o600))
		}
	}
	o.was = o.list(t)
	return o
}

// list describes all that is outside.
func (o outside) list(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, top := range []string{o.victim, o.precious} {
		must(t, filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var s unix.Stat_t
			if err := unix.Lstat(path, &s); err != nil {
				return err
			}
			all = append(all, fmt.Sprintf("%s %o %d:%d", path, s.Mode, s.Uid, s.Gid))
			return nil
		}))
	}
	return all
}

func (o outside) check(t *testing.T) {
	t.Helper()
	if is := o.list(t); !slices.Equal(is, o.was) {
		t.Errorf("outside there was:\n%s\nand is:\n%s", strings.Join(o.was, "\n"), strings.Join(is, "\n"))
	}
}
