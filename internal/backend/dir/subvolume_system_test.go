//go:build system

package dir_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

func createOf(t *testing.T, p *pool, name string, size int64) volume.Volume {
	t.Helper()
	s := volumetest.Spec(t, name)
	s.Size = size
	v, err := p.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// write writes so many MiB to a new file and syncs it: only then is it known that
// there was room.
func write(path string, mib int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	block := bytes.Repeat([]byte("berth!!\n"), 1<<17)
	for range mib {
		if _, err = f.Write(block); err != nil {
			break
		}
	}
	return errors.Join(err, f.Sync(), f.Close())
}

func TestSubvolumesAreKeptToTheirSize(t *testing.T) {
	p := open(t, btrfsQuota.mount(t))
	if err := p.Advisory(); err != nil {
		t.Fatalf("sizes are advisory: %v", err)
	}
	v := createOf(t, p, "pvc-1", 16<<20)
	if v.Limit != dir.LimitBtrfs || v.QuotaID == 0 {
		t.Errorf("limit is %q, id %d", v.Limit, v.QuotaID)
	}
	if err := write(filepath.Join(v.Dir, "fits"), 8); err != nil {
		t.Fatal(err)
	}
	if err := write(filepath.Join(v.Dir, "too-much"), 12); !errors.Is(err, unix.EDQUOT) {
		t.Errorf("writing beyond the size: got error %v, want %v", err, unix.EDQUOT)
	}
	v.Size = 32 << 20
	v, err := p.Update(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	if err := write(filepath.Join(v.Dir, "too-much"), 12); err != nil {
		t.Errorf("after growing: %v", err)
	}
	command(t, "btrfs", "filesystem", "sync", p.root)
	u, err := p.Usage(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	if mib := u.Bytes >> 20; mib < 20 || mib > 21 {
		t.Errorf("20 MiB are counted as %d bytes", u.Bytes)
	}
}

// qgroups are those of subvolumes.
func qgroups(t *testing.T, mounted string) (ids []string) {
	t.Helper()
	for line := range strings.Lines(command(t, "btrfs", "qgroup", "show", "--raw", mounted)) {
		if fields := strings.Fields(line); len(fields) > 0 && strings.HasPrefix(fields[0], "0/") && fields[0] != "0/5" {
			ids = append(ids, fields[0])
		}
	}
	return ids
}

func TestPurgeLeavesNoSubvolumeAndNoQGroup(t *testing.T) {
	p := open(t, btrfsQuota.mount(t))
	v := createOf(t, p, "pvc-1", 32<<20)
	if got, want := qgroups(t, p.root), fmt.Sprintf("0/%d", v.QuotaID); len(got) != 1 || got[0] != want {
		t.Errorf("qgroups %v, want %s", got, want)
	}
	if err := write(filepath.Join(v.Dir, "file"), 4); err != nil {
		t.Fatal(err)
	}
	// What only somebody at the host can make in there.
	nested := filepath.Join(v.Dir, "folder", "nested")
	if err := os.Mkdir(filepath.Dir(nested), 0o755); err != nil {
		t.Fatal(err)
	}
	command(t, "btrfs", "subvolume", "create", nested)
	command(t, "btrfs", "subvolume", "create", filepath.Join(nested, "deeper"))
	command(t, "btrfs", "subvolume", "snapshot", "-r", v.Dir, filepath.Join(nested, "snapshot"))
	if err := p.Discard(t.Context(), v.Name); err != nil {
		t.Fatal(err)
	}
	if got := qgroups(t, p.root); len(got) != 4 {
		t.Errorf("in the trash the limit has to hold; qgroups are %v", got)
	}
	if err := p.Purge(t.Context(), v.Name); err != nil {
		t.Fatal(err)
	}
	if got := files(t, p.root); len(got) > 0 {
		t.Errorf("there is %v", got)
	}
	for _, id := range qgroups(t, p.root) {
		if id == fmt.Sprintf("0/%d", v.QuotaID) {
			t.Errorf("the qgroup %s of the volume is left", id)
		}
	}
	if left := command(t, "btrfs", "subvolume", "list", p.root); left != "" {
		t.Errorf("subvolumes are left:\n%s", left)
	}
}

func TestPurgeOfASubvolumeInUseIsBusy(t *testing.T) {
	p := open(t, btrfsQuota.mount(t))
	v := createOf(t, p, "pvc-1", 32<<20)
	user, err := os.Create(filepath.Join(v.Dir, "in-use")) // as an NFS server has it
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Discard(t.Context(), v.Name); err != nil {
		t.Fatal(err)
	}
	if err := p.Purge(t.Context(), v.Name); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("got error %v, want %v", err, volume.ErrBusy)
	}
	if v, err := p.Get(t.Context(), v.Name); err != nil || v.State != volume.StateDiscarded {
		t.Errorf("the record is %s, %v: as long as there are bytes it has to stay", v.State, err)
	}
	user.Close()
	if err := p.Purge(t.Context(), v.Name); err != nil {
		t.Error(err)
	}
	if got := qgroups(t, p.root); len(got) > 0 {
		t.Errorf("qgroups %v are left", got)
	}
}

// As crashes leave it: the subvolume made and not limited, an empty directory of a run
// without quotas in its place, or nothing.
func TestCreateGoesOnWithSubvolumes(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T, dir string){
		"nothing":     func(*testing.T, string) {},
		"a subvolume": func(t *testing.T, dir string) { command(t, "btrfs", "subvolume", "create", dir) },
		"a directory": func(t *testing.T, dir string) {
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := open(t, btrfsQuota.mount(t))
			v := createOf(t, p, "pvc-1", 16<<20)
			command(t, "btrfs", "subvolume", "delete", v.Dir)
			leave(t, v.Dir)
			begun := v
			begun.State, begun.Limit, begun.QuotaID = volume.StateCreating, volume.LimitNone, 0
			if _, err := p.Update(t.Context(), begun); err != nil {
				t.Fatal(err)
			}
			again := createOf(t, p, "pvc-1", 16<<20)
			if again.State != volume.StateReady || again.Limit != dir.LimitBtrfs || again.QuotaID == v.QuotaID {
				t.Errorf("got %+v", again)
			}
			if err := write(filepath.Join(v.Dir, "file"), 20); !errors.Is(err, unix.EDQUOT) {
				t.Errorf("got error %v, want %v", err, unix.EDQUOT)
			}
		})
	}
}

// What was made with quotas is deleted without them, and the other way round.
func TestQuotasThatComeAndGo(t *testing.T) {
	root := btrfsQuota.mount(t)
	p := openWith(t, root, dir.Options{Quota: dir.QuotaOff})
	unlimited := createOf(t, p, "pvc-unlimited", 16<<20)
	if unlimited.Limit != volume.LimitNone || p.Advisory() == nil {
		t.Errorf("limit is %q, advisory: %v", unlimited.Limit, p.Advisory())
	}
	p.Close()
	p = openWith(t, root, dir.Options{Quota: dir.QuotaRequired})
	limited := createOf(t, p, "pvc-limited", 16<<20)
	if limited.Limit != dir.LimitBtrfs {
		t.Errorf("limit is %q", limited.Limit)
	}
	p.Close()
	command(t, "btrfs", "quota", "disable", root)

	_, err := dir.Open(t.Context(), root, dir.Options{Quota: dir.QuotaRequired})
	if err == nil || !strings.Contains(err.Error(), "btrfs quota enable "+root) {
		t.Errorf("got error %v, want one that says what to do", err)
	}
	p = open(t, root)
	if _, err := p.Usage(t.Context(), limited); !errors.Is(err, volume.ErrUnsupported) {
		t.Errorf("usage: got error %v, want %v", err, volume.ErrUnsupported)
	}
	limited.Published = true
	if limited, err = p.Update(t.Context(), limited); err != nil {
		t.Error(err)
	}
	limited.Size *= 2
	if _, err := p.Update(t.Context(), limited); err == nil {
		t.Error("a limit was raised that nothing enforces")
	}
	for _, v := range []volume.Volume{limited, unlimited} {
		if err := errors.Join(p.Discard(t.Context(), v.Name), p.Purge(t.Context(), v.Name)); err != nil {
			t.Error(err)
		}
	}
	if got := files(t, root); len(got) > 0 {
		t.Errorf("there is %v", got)
	}
}

// mountsOf are the mounts at a directory.
func mountsOf(t *testing.T, dir string) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(text), " "+dir+" ")
}

func TestSubvolumesAreMountedForTheServer(t *testing.T) {
	root := btrfsQuota.mount(t)
	p := openWith(t, root, dir.Options{MountVolumes: true})
	v := createOf(t, p, "pvc-1", 16<<20)
	for range 2 {
		if err := p.Mount(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		if got := mountsOf(t, v.Dir); got != 1 {
			t.Fatalf("%d mounts, want 1", got)
		}
	}
	// As a process that was killed leaves it.
	self, err := os.Open(v.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(v.Dir, v.Dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	self.Close()
	if err := p.Mount(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if err := p.Discard(t.Context(), v.Name); err != nil {
		t.Fatal(err)
	}
	if got := mountsOf(t, v.Dir); got != 0 {
		t.Errorf("%d mounts are left", got)
	}

	// Closing takes the others along.
	other := createOf(t, p, "pvc-2", 16<<20)
	if err := p.Mount(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if got := mountsOf(t, other.Dir); got != 0 {
		t.Errorf("%d mounts are left", got)
	}
}

func TestDiscardOfAMountInUseIsBusy(t *testing.T) {
	p := openWith(t, btrfsQuota.mount(t), dir.Options{MountVolumes: true})
	v := createOf(t, p, "pvc-1", 16<<20)
	if err := p.Mount(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	user, err := os.Create(filepath.Join(v.Dir, "in-use"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Discard(t.Context(), v.Name); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("got error %v, want %v", err, volume.ErrBusy)
	}
	if _, err := os.Stat(filepath.Join(v.Dir, "in-use")); err != nil {
		t.Error(err)
	}
	user.Close()
	if err := errors.Join(p.Discard(t.Context(), v.Name), p.Purge(t.Context(), v.Name)); err != nil {
		t.Error(err)
	}
}

// Somebody put another subvolume in the place of a volume's.
func TestMountRefusesAnotherSubvolume(t *testing.T) {
	p := openWith(t, btrfsQuota.mount(t), dir.Options{MountVolumes: true})
	v := createOf(t, p, "pvc-1", 16<<20)
	command(t, "btrfs", "subvolume", "delete", v.Dir)
	command(t, "btrfs", "subvolume", "create", v.Dir)
	if err := p.Mount(t.Context(), v); !errors.Is(err, volume.ErrForeign) {
		t.Errorf("got error %v, want %v", err, volume.ErrForeign)
	}
	if got := mountsOf(t, v.Dir); got != 0 {
		t.Errorf("%d mounts", got)
	}
}
