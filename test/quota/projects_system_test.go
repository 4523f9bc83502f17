//go:build system

package quota

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/quota"
	"github.com/berth-storage/berth/internal/volume"
)

// onProjects runs a test on each file system with project quotas.
func onProjects(t *testing.T, test func(t *testing.T, root string)) {
	t.Helper()
	for _, fs := range projectFileSystems {
		t.Run(fs.Kind, func(t *testing.T) { test(t, mount(t, fs)) })
	}
}

// foreign makes a directory with a project, as somebody else on the file system does.
func foreign(t *testing.T, root string, project uint32) string {
	t.Helper()
	folder := filepath.Join(root, fmt.Sprint("foreign-", project))
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	tag(t, folder, project)
	return folder
}

func wantLimit(t *testing.T, fs *quota.FS, project uint32, want quota.Amount) {
	t.Helper()
	if _, limit, err := fs.Get(project); err != nil || limit != want {
		t.Errorf("project %d is limited to %+v (%v), want %+v", project, limit, err, want)
	}
}

func TestProjectsOfOthersAreNotUsed(t *testing.T) {
	onProjects(t, func(t *testing.T, root string) {
		p, fs := open(t, root, required), limitsOf(t, root)
		first := uint32(create(t, p, spec(t, "pvc-1", 8<<20)).QuotaID)
		foreign(t, root, first+1) // has a directory
		reserved := quota.Amount{Bytes: 1 << 20}
		if err := fs.SetLimit(first+2, reserved); err != nil { // has a limit only
			t.Fatal(err)
		}
		name(t, "/etc/projects", fmt.Sprintf("%d:/srv/projects/a\n", first+3)) // has neither yet
		name(t, "/etc/projid", fmt.Sprintf("# ours\nb:%d\n", first+4))
		if got := uint32(create(t, p, spec(t, "pvc-2", 8<<20)).QuotaID); got != first+5 {
			t.Errorf("the project is %d, want %d", got, first+5)
		}
		wantLimit(t, fs, first+1, quota.Amount{})
		wantLimit(t, fs, first+2, reserved)
	})
}

// name appends to a file of names until the test ends.
func name(t *testing.T, file, line string) {
	t.Helper()
	before, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(before, line...), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(file, before, 0o644); err != nil {
			t.Error(err)
		}
	})
}

// Two pools of one file system, which know nothing of each other, never share a project.
func TestPoolsOnOneFileSystem(t *testing.T) {
	onProjects(t, func(t *testing.T, root string) {
		var pools []*pool
		for i := range 2 {
			folder := filepath.Join(root, fmt.Sprint("pool-", i))
			if err := os.MkdirAll(filepath.Join(folder, ".berth"), 0o700); err != nil {
				t.Fatal(err)
			}
			// The same identity makes both begin at the same place.
			if err := os.WriteFile(filepath.Join(folder, ".berth/identity"), []byte("same\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			pools = append(pools, open(t, folder, required))
		}
		const each = 20
		ids := make(chan uint64, 2*each)
		for _, p := range pools {
			go func() {
				for i := range each {
					v, err := p.Create(t.Context(), spec(t, fmt.Sprint("pvc-", i), 8<<20))
					if err != nil {
						t.Error(err)
					}
					ids <- v.QuotaID
				}
			}()
		}
		seen := map[uint64]bool{}
		for range 2 * each {
			id := <-ids
			if id == 0 || seen[id] {
				t.Errorf("project %d is used twice", id)
			}
			seen[id] = true
		}
	})
}

// begun brings a volume back to what a crash leaves after its record is written.
func begun(t *testing.T, p *pool, v volume.Volume) volume.Volume {
	t.Helper()
	v.State, v.Limit = volume.StateCreating, volume.LimitNone
	v, err := p.Update(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestCreateGoesOnAfterACrash(t *testing.T) {
	for name, crash := range map[string]func(t *testing.T, fs *quota.FS, v volume.Volume){
		"before the directory": func(t *testing.T, fs *quota.FS, v volume.Volume) {
			free(t, fs, uint32(v.QuotaID))
			if err := os.Remove(v.Dir); err != nil {
				t.Fatal(err)
			}
		},
		"before the project": func(t *testing.T, fs *quota.FS, v volume.Volume) {
			free(t, fs, uint32(v.QuotaID))
			tag(t, v.Dir, 0)
		},
		"before the limit": func(t *testing.T, fs *quota.FS, v volume.Volume) { free(t, fs, uint32(v.QuotaID)) },
		"before ready":     func(*testing.T, *quota.FS, volume.Volume) {},
	} {
		t.Run(name, func(t *testing.T) {
			onProjects(t, func(t *testing.T, root string) {
				p, fs := open(t, root, required), limitsOf(t, root)
				v := begun(t, p, create(t, p, spec(t, "pvc-1", 8<<20)))
				crash(t, fs, v)
				settle(t, root)
				p = p.reopen(t)
				again := create(t, p, spec(t, "pvc-1", 8<<20))
				if again.State != volume.StateReady || again.Limit == volume.LimitNone || again.QuotaID != v.QuotaID {
					t.Errorf("got %+v, the record said %+v", again, v)
				}
				if got := projectOf(t, again.Dir); uint64(got) != again.QuotaID {
					t.Errorf("the directory is of project %d, want %d", got, again.QuotaID)
				}
				wantLimit(t, fs, uint32(again.QuotaID), quota.Amount{Bytes: 8 << 20})

				// Or nobody asks for it again.
				begun(t, p, again)
				remove(t, p, again.Name)
				settle(t, root)
				wantLimit(t, fs, uint32(again.QuotaID), quota.Amount{})
			})
		})
	}
}

// free takes a project's limit away.
func free(t *testing.T, fs *quota.FS, project uint32) {
	t.Helper()
	if err := fs.SetLimit(project, quota.Amount{}); err != nil {
		t.Fatal(err)
	}
}

// settle waits until xfs has counted out what was removed.
func settle(t *testing.T, root string) {
	t.Helper()
	run(t, "sync", "-f", root)
}

// Between the record and the directory somebody else took the project: nothing of his
// is limited, counted as ours, or set free.
func TestProjectTakenAfterACrash(t *testing.T) {
	for name, take := range map[string]func(t *testing.T, root string, fs *quota.FS, id uint32) quota.Amount{
		"by a directory": func(t *testing.T, root string, _ *quota.FS, id uint32) quota.Amount {
			foreign(t, root, id)
			return quota.Amount{}
		},
		"by a directory with a limit": func(t *testing.T, root string, fs *quota.FS, id uint32) quota.Amount {
			foreign(t, root, id)
			return limitTo(t, fs, id)
		},
		"by a limit": func(t *testing.T, _ string, fs *quota.FS, id uint32) quota.Amount { return limitTo(t, fs, id) },
	} {
		t.Run(name, func(t *testing.T) {
			onProjects(t, func(t *testing.T, root string) {
				p, fs := open(t, root, required), limitsOf(t, root)
				crashed := func(n string) (volume.Volume, quota.Amount) {
					v := begun(t, p, create(t, p, spec(t, n, 8<<20)))
					free(t, fs, uint32(v.QuotaID))
					tag(t, v.Dir, 0)
					settle(t, root)
					return v, take(t, root, fs, uint32(v.QuotaID))
				}
				// It is asked for again.
				v, limit := crashed("pvc-1")
				again := create(t, p, spec(t, "pvc-1", 8<<20))
				if again.QuotaID == v.QuotaID || again.Limit == volume.LimitNone {
					t.Errorf("the volume has project %d, limit %q", again.QuotaID, again.Limit)
				}
				wantLimit(t, fs, uint32(v.QuotaID), limit)
				wantLimit(t, fs, uint32(again.QuotaID), quota.Amount{Bytes: 8 << 20})

				// It is not.
				v, limit = crashed("pvc-2")
				remove(t, p, v.Name)
				wantLimit(t, fs, uint32(v.QuotaID), limit)
			})
		})
	}
}

// limitTo limits a project as its owner wants it.
func limitTo(t *testing.T, fs *quota.FS, id uint32) quota.Amount {
	t.Helper()
	limit := quota.Amount{Bytes: 64 << 20, Inodes: 5}
	if err := fs.SetLimit(id, limit); err != nil {
		t.Fatal(err)
	}
	return limit
}

// Two took the same project at the same moment, and a crash came before ours noticed.
func TestProjectThatTwoHaveTaken(t *testing.T) {
	onProjects(t, func(t *testing.T, root string) {
		p, fs := open(t, root, required), limitsOf(t, root)
		shared := func(n string) (volume.Volume, quota.Amount) {
			v := begun(t, p, create(t, p, spec(t, n, 8<<20)))
			foreign(t, root, uint32(v.QuotaID))
			return v, limitTo(t, fs, uint32(v.QuotaID))
		}
		v, limit := shared("pvc-1")
		again := create(t, p, spec(t, "pvc-1", 8<<20))
		if again.QuotaID == v.QuotaID || projectOf(t, again.Dir) != uint32(again.QuotaID) {
			t.Errorf("the volume has project %d", again.QuotaID)
		}
		wantLimit(t, fs, uint32(v.QuotaID), limit)

		v, limit = shared("pvc-2")
		remove(t, p, v.Name)
		wantLimit(t, fs, uint32(v.QuotaID), limit)
	})
}

// The limit is gone, the directory and the record are not yet, and with the next start
// somebody else has the project.
func TestPurgeGoesOnAfterACrash(t *testing.T) {
	onProjects(t, func(t *testing.T, root string) {
		p, fs := open(t, root, required), limitsOf(t, root)
		v := create(t, p, spec(t, "pvc-1", 8<<20))
		if err := p.Discard(t.Context(), v.Name); err != nil {
			t.Fatal(err)
		}
		free(t, fs, uint32(v.QuotaID))
		trash := filepath.Join(root, ".berth/trash", v.Name.String())
		if err := os.Remove(trash); err != nil {
			t.Fatal(err)
		}
		settle(t, root)
		foreign(t, root, uint32(v.QuotaID))
		limit := limitTo(t, fs, uint32(v.QuotaID))
		if err := p.Purge(t.Context(), v.Name); err != nil {
			t.Fatal(err)
		}
		wantLimit(t, fs, uint32(v.QuotaID), limit)
	})
}

// Whoever controls what is below a volume's directory gains nothing outside of it.
func TestTenantsLinksAreNotFollowed(t *testing.T) {
	onProjects(t, func(t *testing.T, root string) {
		p := open(t, root, required)
		victim := create(t, p, spec(t, "pvc-victim", 8<<20))
		v := create(t, p, spec(t, "pvc-1", 8<<20))
		if err := errors.Join(os.Symlink(victim.Dir, filepath.Join(v.Dir, "link")), os.Mkdir(filepath.Join(victim.Dir, "data"), 0o755)); err != nil {
			t.Fatal(err)
		}
		v.Size = 16 << 20
		if _, err := p.Update(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		// A volume cannot leave its project by a rename, nor by a hard link.
		if err := unix.Link(v.Dir+"/link", victim.Dir+"/link"); !errors.Is(err, unix.EXDEV) {
			t.Errorf("a link into another volume: got error %v, want %v", err, unix.EXDEV)
		}
		if err := os.Rename(v.Dir+"/link", victim.Dir+"/link"); !errors.Is(err, unix.EXDEV) {
			t.Errorf("a rename into another volume: got error %v, want %v", err, unix.EXDEV)
		}
		remove(t, p, v.Name)
		if got := projectOf(t, filepath.Join(victim.Dir, "data")); uint64(got) != victim.QuotaID {
			t.Errorf("the other volume's folder is of project %d, want %d", got, victim.QuotaID)
		}
		wantLimit(t, limitsOf(t, root), uint32(victim.QuotaID), quota.Amount{Bytes: 8 << 20})
	})
}
