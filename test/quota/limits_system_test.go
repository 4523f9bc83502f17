//go:build system

package quota

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/quota"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

func TestContract(t *testing.T) {
	for _, fs := range allFileSystems {
		t.Run(fs.Kind, func(t *testing.T) {
			mounted, roots := mount(t, fs), 0
			volumetest.Suite{
				Open: func(t *testing.T) volume.Backend {
					roots++
					root := filepath.Join(mounted, fmt.Sprint("root-", roots))
					if err := os.Mkdir(root, 0o755); err != nil {
						t.Fatal(err)
					}
					return open(t, root, required)
				},
				Reopen: func(t *testing.T, b volume.Backend) volume.Backend { return b.(*pool).reopen(t) },
			}.Run(t)
		})
	}
}

// What a file system says to who writes beyond the limit.
var beyond = map[string]error{"xfs": unix.ENOSPC, "ext4": unix.EDQUOT, "btrfs": unix.EDQUOT}

func TestBytesAreLimited(t *testing.T) {
	for _, fs := range allFileSystems {
		t.Run(fs.Kind, func(t *testing.T) {
			p := open(t, mount(t, fs), required)
			v := create(t, p, spec(t, "pvc-1", 16<<20))
			other := create(t, p, spec(t, "pvc-2", 16<<20))
			mustFail := func(what string, mib int) {
				t.Helper()
				path := filepath.Join(v.Dir, what)
				if err := asUser(t, func() error { return write(path, mib) }); !errors.Is(err, beyond[fs.Kind]) {
					t.Errorf("%s: got error %v, want %v", what, err, beyond[fs.Kind])
				}
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
			if err := asUser(t, func() error { return write(filepath.Join(v.Dir, "fits"), 12) }); err != nil {
				t.Fatal(err)
			}
			mustFail("6-more", 6)
			// It is this volume's limit and no one else's.
			if err := asUser(t, func() error { return write(filepath.Join(other.Dir, "fits"), 12) }); err != nil {
				t.Fatal(err)
			}
			v.Size = 24 << 20
			v, err := p.Update(t.Context(), v)
			if err != nil {
				t.Fatal(err)
			}
			if err := asUser(t, func() error { return write(filepath.Join(v.Dir, "4-more"), 4) }); err != nil {
				t.Errorf("after growing: %v", err)
			}
			mustFail("12-more", 12)
			run(t, "sync", "-f", v.Dir)
			u, err := p.Usage(t.Context(), v)
			if err != nil {
				t.Fatal(err)
			}
			if mib := u.Bytes >> 20; mib < 16 || mib > 17 {
				t.Errorf("16 MiB are counted as %d bytes", u.Bytes)
			}
			if fs.Kind != "btrfs" && u.Inodes != 3 {
				t.Errorf("a folder with 2 files is counted as %d inodes", u.Inodes)
			}
		})
	}
}

func TestInodesAreLimited(t *testing.T) {
	for _, fs := range projectFileSystems {
		t.Run(fs.Kind, func(t *testing.T) {
			p := open(t, mount(t, fs), required)
			s := spec(t, "pvc-1", 64<<20)
			s.Inodes = 100 // with the volume's own directory
			v := create(t, p, s)
			made := 0
			err := asUser(t, func() (err error) { made, err = fill(v.Dir, 200); return err })
			if made != 99 || !errors.Is(err, beyond[fs.Kind]) {
				t.Errorf("made %d files until %v, want 99 and %v", made, err, beyond[fs.Kind])
			}
			u, err := p.Usage(t.Context(), v)
			if err != nil || u.Inodes != 100 || u.LimitInodes != 100 {
				t.Errorf("usage is %+v, %v", u, err)
			}
			v.Inodes = 0
			if v, err = p.Update(t.Context(), v); err != nil {
				t.Fatal(err)
			}
			if err := asUser(t, func() error { _, err := fill(v.Dir, 200); return err }); err != nil {
				t.Error(err)
			}
		})
	}
}

// The capability, and not the user, is what ext4 goes by; so Ganesha has to be without it.
func TestOnlyExt4LetsRootWriteBeyond(t *testing.T) {
	for _, fs := range allFileSystems {
		t.Run(fs.Kind, func(t *testing.T) {
			p := open(t, mount(t, fs), required)
			v := create(t, p, spec(t, "pvc-1", 8<<20))
			err := write(filepath.Join(v.Dir, "file"), 16)
			if fs.Kind == "ext4" && err != nil {
				t.Errorf("got error %v: docs/quotas.md says that root writes on", err)
			}
			if fs.Kind != "ext4" && !errors.Is(err, beyond[fs.Kind]) {
				t.Errorf("got error %v, want %v", err, beyond[fs.Kind])
			}
		})
	}
}

// What a client of an NFS server that passes it on sees.
func TestSizeOfTheVolumeIsSeen(t *testing.T) {
	for _, fs := range projectFileSystems {
		t.Run(fs.Kind, func(t *testing.T) {
			p := open(t, mount(t, fs), required)
			s := spec(t, "pvc-1", 16<<20)
			s.Inodes = 1000
			v := create(t, p, s)
			var seen unix.Statfs_t
			if err := unix.Statfs(v.Dir, &seen); err != nil {
				t.Fatal(err)
			}
			if bytes := int64(seen.Blocks) * seen.Bsize; bytes != v.Size || seen.Files != 1000 {
				t.Errorf("statfs says %d bytes and %d files, the volume has %d and 1000", bytes, seen.Files, v.Size)
			}
		})
	}
}

// Bytes in the trash still count, and the limit and the id are free again after that.
func TestLimitGoesWithTheBytes(t *testing.T) {
	for _, fs := range projectFileSystems {
		t.Run(fs.Kind, func(t *testing.T) {
			p := open(t, mount(t, fs), required)
			limits := limitsOf(t, p.root)
			v := create(t, p, spec(t, "pvc-1", 16<<20))
			if err := write(filepath.Join(v.Dir, "file"), 4); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(v.Dir, "a/b/c"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := p.Discard(t.Context(), v.Name); err != nil {
				t.Fatal(err)
			}
			used, limit, err := limits.Get(uint32(v.QuotaID))
			if err != nil || used.Bytes < 4<<20 || limit.Bytes != uint64(v.Size) {
				t.Errorf("in the trash: used %+v, limit %+v, %v", used, limit, err)
			}
			if err := p.Purge(t.Context(), v.Name); err != nil {
				t.Fatal(err)
			}
			run(t, "sync", "-f", p.root) // xfs counts an inode out a moment later
			used, limit, err = limits.Get(uint32(v.QuotaID))
			if err != nil || used != (quota.Amount{}) || limit != (quota.Amount{}) {
				t.Errorf("after purging: used %+v, limit %+v, %v", used, limit, err)
			}
			p = p.reopen(t)
			if again := create(t, p, spec(t, "pvc-2", 16<<20)); again.QuotaID != v.QuotaID {
				t.Errorf("the id %d was not used again, but %d", v.QuotaID, again.QuotaID)
			}
		})
	}
}

// limitsOf gives the quotas of a file system, as somebody beside Berth sees them.
func limitsOf(t *testing.T, root string) *quota.FS {
	t.Helper()
	d, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	fs, err := quota.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

func TestVolumesMadeWithoutQuotasStayAsTheyAre(t *testing.T) {
	for _, fs := range projectFileSystems {
		t.Run(fs.Kind, func(t *testing.T) {
			root := mount(t, fs)
			p := open(t, root, dir.Options{Quota: dir.QuotaOff})
			v := create(t, p, spec(t, "pvc-1", 8<<20))
			if v.Limit != volume.LimitNone || v.QuotaID != 0 || p.Advisory() == nil {
				t.Errorf("got %+v, advisory: %v", v, p.Advisory())
			}
			p.Close()
			p = open(t, root, required)
			v, err := p.Get(t.Context(), v.Name)
			if err != nil {
				t.Fatal(err)
			}
			v.Size = 4 << 20
			if v, err = p.Update(t.Context(), v); err != nil || v.Limit != volume.LimitNone {
				t.Errorf("got limit %q, %v", v.Limit, err)
			}
			if err := write(filepath.Join(v.Dir, "file"), 16); err != nil {
				t.Error(err)
			}
			remove(t, p, v.Name)
		})
	}
}

// The user of the article on nfs-provisioner saw "was not mounted with pquota nor
// prjquota" and no more.
func TestRefusalSaysWhatToDo(t *testing.T) {
	for _, c := range []struct {
		name        string
		kind        string
		make, mount string
		want        string
	}{
		{"xfs without the option", "xfs", "-q", "defaults", "not at a remount: umount "},
		{"xfs that only counts", "xfs", "-q", "pqnoenforce", "without the option prjquota"},
		{"ext4 without the feature", "ext4", "-q", "defaults", "tune2fs -O project,quota "},
		{"ext4 without the option", "ext4", "-qOquota,project", "defaults", "without the option prjquota"},
		{"btrfs without quotas", "btrfs", "-q", "defaults", "btrfs quota enable "},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			device := disk(t)
			run(t, "mkfs."+c.kind, c.make, device)
			run(t, "mount", "-t", c.kind, "-o", c.mount, device, root)
			t.Cleanup(func() { unmount(t, root) })
			_, err := dir.Open(t.Context(), root, required)
			if err == nil {
				t.Fatal("the pool is open")
			}
			for _, want := range []string{root, c.want} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got error %v, want one with %q", err, want)
				}
			}
			p := open(t, root, dir.Options{})
			if v := create(t, p, spec(t, "pvc-1", 8<<20)); v.Limit != volume.LimitNone || p.Advisory() == nil {
				t.Errorf("got limit %q, advisory: %v", v.Limit, p.Advisory())
			}
			p.Close()
			// What it says is what helps, word for word.
			_, command, _ := strings.Cut(err.Error(), "administrator can do that: ")
			if command == "" {
				_, command, _ = strings.Cut(err.Error(), ": umount ")
				command, _, _ = strings.Cut(command, ", and the same option")
				command = "umount " + command
			}
			run(t, "sh", "-ec", command)
			p = open(t, root, required)
			if v := create(t, p, spec(t, "pvc-2", 8<<20)); v.Limit == volume.LimitNone {
				t.Error("there is no limit")
			}
		})
	}
}

// disk makes a device that stays while nothing is mounted from it.
func disk(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	run(t, "truncate", "-s", fmt.Sprint(diskSize), file)
	device := strings.TrimSpace(run(t, "losetup", "--find", "--show", file))
	t.Cleanup(func() { undo(t, "losetup", "--detach", device) })
	return device
}

func TestRootInSomebodysProjectIsLeftAlone(t *testing.T) {
	for _, fs := range projectFileSystems {
		t.Run(fs.Kind, func(t *testing.T) {
			root := filepath.Join(mount(t, fs), "root")
			if err := os.Mkdir(root, 0o755); err != nil {
				t.Fatal(err)
			}
			tag(t, root, 77)
			if _, err := dir.Open(t.Context(), root, required); err == nil || !strings.Contains(err.Error(), "project 77 of somebody else") {
				t.Errorf("got error %v", err)
			}
			p := open(t, root, dir.Options{})
			v := create(t, p, spec(t, "pvc-1", 8<<20))
			if got := projectOf(t, v.Dir); got != 77 || v.Limit != volume.LimitNone {
				t.Errorf("the volume is of project %d, limit %q", got, v.Limit)
			}
			remove(t, p, v.Name)
		})
	}
}

func TestSettingQuotasNeedsACapability(t *testing.T) {
	for _, fs := range allFileSystems {
		t.Run(fs.Kind, func(t *testing.T) {
			root := mount(t, fs)
			err := without(t, []int{unix.CAP_SYS_ADMIN}, func() error {
				_, err := dir.Open(t.Context(), root, required)
				return err
			})
			if err == nil || !strings.Contains(err.Error(), "capability SYS_ADMIN") {
				t.Errorf("got error %v, want one that names the capability", err)
			}
		})
	}
}
