package dir

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/berth-storage/berth/internal/quota"
	"github.com/berth-storage/berth/internal/volume"
)

// projects limits volumes by project quotas. A volume's project is in its record
// before its directory bears it.
type projects struct {
	plain
	fs  *quota.FS
	ids *projectIDs
}

func newProjects(ctx context.Context, b *Backend, fs *quota.FS) (*projects, error) {
	p := &projects{plain: plain{b}, fs: fs, ids: newProjectIDs(b.identity, fs.Get)}
	for v, err := range b.List(ctx) {
		if err == nil {
			p.ids.reserve(v.QuotaID)
		}
		// Of a damaged record the directory still bears the project, so it is in use.
		if errors.Is(err, volume.ErrUnknown) || ctx.Err() != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *projects) name() volume.Limit {
	if p.fs.Kind() == "xfs" {
		return LimitXFS
	}
	return LimitExt4
}

func (p *projects) admit(v *volume.Volume) (err error) {
	if !p.b.enforces() && v.QuotaID == 0 {
		return p.plain.admit(v)
	}
	size := p.fs.Round(uint64(v.Size))
	if size > math.MaxInt64 {
		return fmt.Errorf("%w: volume %s: %d bytes is more than a quota can hold", volume.ErrInvalid, v.Name, v.Size)
	}
	v.Size = int64(size)
	if v.QuotaID == 0 {
		v.QuotaID, err = p.ids.take()
	}
	return err
}

// limit gives the directory the project that the record names, then the limit. A crash
// in between leaves a directory with a project, or with a limit too, and the next run
// finds that the project is its own.
func (p *projects) limit(v *volume.Volume, d *os.File) error {
	if v.QuotaID == 0 {
		return nil
	}
	for {
		ours, err := p.claim(d, uint32(v.QuotaID))
		if err != nil {
			return err
		}
		if ours {
			break
		}
		// Somebody else has taken it since it was chosen, another pool on this file
		// system for instance. The record names the next one before anything bears it.
		if v.QuotaID, err = p.ids.take(); err != nil {
			return err
		}
		if *v, err = p.b.save(*v); err != nil {
			return err
		}
	}
	v.Limit = p.name()
	return p.resize(*v)
}

// adopt notes what limits v, whose directory has had its project from another program.
// One that is counted only, or whose limit was lifted, stays without.
func (p *projects) adopt(v *volume.Volume) error {
	_, limit, err := p.fs.Get(uint32(v.QuotaID))
	if err != nil {
		return err
	}
	if limit.Bytes == 0 {
		v.QuotaID = 0
		return nil
	}
	v.Limit, v.Inodes = p.name(), int64(min(limit.Inodes, math.MaxInt64))
	p.ids.reserve(v.QuotaID)
	return nil
}

// claim gives d, which is empty, the project, and says whether it is d's alone. The
// kernel decides: who comes second finds two inodes in it. Limits are set after that
// only, so that no one's project is ever limited by another.
func (p *projects) claim(d *os.File, id uint32) (ours bool, err error) {
	has, _, err := quota.Project(d)
	if err != nil {
		return false, err
	}
	if has != id {
		if free, err := p.ids.free(id); !free || err != nil {
			return false, err
		}
		if err := quota.SetProject(d, id); err != nil {
			return false, err
		}
	}
	used, _, err := p.fs.Get(id)
	if err != nil || used.Inodes == 1 {
		return err == nil, err
	}
	return false, quota.SetProject(d, 0)
}

func (p *projects) resize(v volume.Volume) error {
	return p.fs.SetLimit(uint32(v.QuotaID), quota.Amount{Bytes: uint64(v.Size), Inodes: uint64(v.Inodes)})
}

func (p *projects) round(bytes uint64) uint64 { return min(p.fs.Round(bytes), math.MaxInt64) }

func (p *projects) usage(v volume.Volume) (volume.Usage, error) {
	used, limit, err := p.fs.Get(uint32(v.QuotaID))
	return volume.Usage{Bytes: used.Bytes, Inodes: used.Inodes, LimitBytes: limit.Bytes, LimitInodes: limit.Inodes}, err
}

// remove takes the limit back when the directory is empty and before it is gone: as
// long as it bears the project, nobody else takes that. So a limit that is not there
// any more is never taken for one that still has to go, and may be somebody else's.
func (p *projects) remove(ctx context.Context, v volume.Volume, parent *os.File, name string) error {
	return removeTree(ctx, parent, name, func(top *os.File) error {
		has, _, err := quota.Project(top)
		if err != nil || has == 0 || uint64(has) != v.QuotaID {
			return err
		}
		if v.Limit == volume.LimitNone { // cut off before it was known whose the project is
			used, _, err := p.fs.Get(has)
			if err != nil || used.Inodes != 1 {
				return err
			}
		}
		return p.fs.SetLimit(has, quota.Amount{})
	})
}

func (p *projects) forget(v volume.Volume) { p.ids.giveBack(v.QuotaID) }

// The projects that Berth uses: a range that nobody else is known to choose from.
// nfs-provisioner used 1 to 65535, kubelet begins at 1048577.
const (
	firstProject  = 0x42000000
	projectsCount = 1 << 24
)

// Where administrators name their own projects; see xfs_quota(8).
var projectFiles = []string{"/etc/projects", "/etc/projid"}

// projectIDs are the ids of projects that may be given to volumes.
type projectIDs struct {
	get   func(project uint32) (used, limit quota.Amount, err error)
	count uint32 // of ids, from firstProject

	mu    sync.Mutex
	taken map[uint64]bool // by records of this pool
	next  uint32          // below count
}

// newProjectIDs begins at a place of the pool's own, so that several pools on one file
// system seldom try the same id.
func newProjectIDs(identity string, get func(uint32) (used, limit quota.Amount, err error)) *projectIDs {
	h := fnv.New32a()
	h.Write([]byte(identity))
	return &projectIDs{get: get, count: projectsCount, taken: map[uint64]bool{}, next: h.Sum32() % projectsCount}
}

func (p *projectIDs) reserve(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken[id] = true
}

func (p *projectIDs) giveBack(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.taken, id)
}

// take gives an id that is nobody's.
func (p *projectIDs) take() (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	named, err := namedProjects(projectFiles)
	if err != nil {
		return 0, err
	}
	for range p.count {
		id := firstProject + p.next
		p.next = (p.next + 1) % p.count
		if p.taken[uint64(id)] || named[id] {
			continue
		}
		free, err := p.free(id)
		if err != nil {
			return 0, err
		}
		if free {
			p.taken[uint64(id)] = true
			return uint64(id), nil
		}
	}
	return 0, fmt.Errorf("%w: all %d projects are in use", volume.ErrNoSpace, p.count)
}

// free says whether the kernel knows no file and no limit of a project.
func (p *projectIDs) free(id uint32) (bool, error) {
	used, limit, err := p.get(id)
	return err == nil && used == quota.Amount{} && limit == quota.Amount{}, err
}

// namedProjects reads the ids in files whose lines are "id:path" or "name:id".
func namedProjects(files []string) (map[uint32]bool, error) {
	ids := map[uint32]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("projects that have a name: %w", err)
		}
		for line := range strings.Lines(string(text)) {
			for field := range strings.SplitSeq(strings.TrimSpace(line), ":") {
				if id, err := strconv.ParseUint(strings.TrimSpace(field), 10, 32); err == nil {
					ids[uint32(id)] = true
				}
			}
		}
	}
	return ids, nil
}
