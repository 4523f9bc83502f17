//go:build system

package zfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/test/nfs4"
	"github.com/berth-storage/berth/test/vm"
)

// write writes so many MiB, and says whether there was room for all.
func write(t *testing.T, path string, mib int) bool {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	data := random(t, 1<<20)
	for range mib {
		if _, err = f.Write(data); err != nil {
			break
		}
	}
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil && !errors.Is(err, unix.EDQUOT) {
		t.Fatal(err)
	}
	return err == nil
}

func sizeSeen(t *testing.T, at string) int64 {
	t.Helper()
	var s unix.Statfs_t
	if err := unix.Statfs(at, &s); err != nil {
		t.Fatal(err)
	}
	return int64(s.Blocks) * s.Bsize
}

// Each exporter serves datasets: clients are stopped at the size, see it, and go on when
// it grows. What is deleted is out of sight.
func TestExporters(t *testing.T) {
	for _, c := range []struct {
		by       exporter
		versions []string
	}{
		{byZFS, []string{"3", "4.0", "4.1", "4.2"}},
		{byKernel, []string{"3", "4.2"}},
		{byGanesha, []string{"4.0", "4.2"}},
	} {
		t.Run(c.by.name, func(t *testing.T) {
			s := serve(t, vm.NewParent(t), c.by)
			for _, version := range c.versions {
				t.Run(version, func(t *testing.T) { s.stopsWritersAtTheSize(t, "pvc-"+version, version) })
			}
			// Linux' client keeps open for a minute, on the server, what it could not write: the purge waits.
			if left := vm.Sh(t, `zfs list -d 1 -Ho name "$1"`, s.parent); left != s.parent+"\n"+s.parent+"/.berth\n" {
				t.Errorf("the datasets that are left:\n%s", left)
			}
			if left := vm.Sh(t, `grep -F " /$1/" /proc/self/mounts || :; grep -F "/$1/" /var/lib/nfs/etab || :`, s.parent); left != "" {
				t.Errorf("mounts or exports are left:\n%s", left)
			}
		})
	}
}

func (s *site) stopsWritersAtTheSize(t *testing.T, name, version string) {
	v := s.create(t, name)
	at, unmountNow := s.mountNFS(t, v, version)
	if got := sizeSeen(t, at); got > v.Size || got < v.Size*9/10 {
		t.Errorf("a client sees %d bytes of a volume of %d", got, v.Size)
	}
	if !write(t, filepath.Join(at, "fits"), 12) {
		t.Error("there is no room for 12 of 16 MiB")
	}
	if write(t, filepath.Join(at, "large"), 12) {
		t.Error("24 MiB were written to a volume of 16")
	}
	if _, err := s.manager.Grow(t.Context(), v.Name, v.Cluster, 2*v.Size); err != nil {
		t.Fatal(err)
	}
	if !write(t, filepath.Join(at, "more"), 10) {
		t.Error("there is no room for 10 MiB more in a volume that has grown by 16")
	}
	unmountNow()
	s.delete(t, v)
}

// A volume that a client has open is deleted at once. Its bytes are freed when the client is gone.
func TestDeletionUnderAClient(t *testing.T) {
	s := serve(t, vm.NewParent(t), byZFS)
	v := s.create(t, "pvc-1")
	at, unmountNow := s.mountNFS(t, v, "4.2")
	f, err := os.Create(filepath.Join(at, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := s.manager.Delete(t.Context(), v.Name, v.Cluster); err != nil {
		t.Error(err)
	}
	if left := vm.Sh(t, `grep -F " /$1/" /proc/self/mounts || :`, s.parent); left != "" {
		t.Errorf("mounts are left:\n%s", left)
	}
	if _, err := os.ReadDir(at); err == nil {
		t.Error("a client reads a volume that is deleted")
	}
	if err := <-s.purged; !errors.Is(err, volume.ErrBusy) {
		t.Errorf("purging what a client has open: %v", err)
	}
	_ = f.Close() // which it cannot tell the server any more, so it is as if it had died
	unmountNow()
	s.waitPurged(t)
}

// A client dies with files open in two volumes. One volume is deleted, and Berth started again: the bytes are freed
// all the same when the client's lease has run out, and the server keeps what it has open in the other volume, until
// that is deleted too.
func TestPurgeAfterARestart(t *testing.T) {
	parent, by := vm.NewParent(t), byZFS
	by.share += ",insecure" // for the ports of these clients
	s := serve(t, parent, by)
	kept, v := s.create(t, "pvc-kept"), s.create(t, "pvc-1")
	for _, v := range []volume.Volume{kept, v} { // a client for each
		c, err := nfs4.Dial(t.Context(), "127.0.0.1:2049", nfs4.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Create(t.Context(), v.Export.Path+"/file", 0o600); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil { // of the connection
			t.Fatal(err)
		}
	}
	s.delete(t, v)
	if err := <-s.purged; !errors.Is(err, volume.ErrBusy) {
		t.Errorf("purging what a client had open when it died: %v", err)
	}
	s.stop()
	s = serve(t, parent, by)
	s.waitPurged(t)
	var at unix.Stat_t
	if err := unix.Stat(kept.Dir, &at); err != nil {
		t.Fatal(err)
	}
	device := fmt.Sprintf(`superblock: "%02x:%02x:`, unix.Major(at.Dev), unix.Minor(at.Dev))
	if open := vm.Sh(t, `cat /proc/fs/nfsd/clients/*/states`); !strings.Contains(open, device) {
		t.Errorf("what a client has open in another volume is gone; there is:\n%s", open)
	}
	s.delete(t, kept)
	s.waitPurged(t)
	if left := vm.Sh(t, `zfs list -rHo name "$1"`, parent); left != parent+"\n"+parent+"/.berth\n" {
		t.Errorf("the datasets that are left:\n%s", left)
	}
}

// What somebody mounts in a volume is not unmounted with it.
func TestDeletionWithAMountInside(t *testing.T) {
	s := serve(t, vm.NewParent(t), byZFS)
	v := s.create(t, "pvc-1")
	vm.Sh(t, `mkdir "$1/in"; mount -t tmpfs theirs "$1/in"`, v.Dir)
	if err := s.manager.Delete(t.Context(), v.Name, v.Cluster); !errors.Is(err, volume.ErrBusy) || !strings.Contains(err.Error(), v.Dir+"/in") {
		t.Errorf("deleting a volume in which something is mounted: %v", err)
	}
	vm.Sh(t, `mountpoint -q "$1/in" && umount "$1/in"`, v.Dir)
	s.delete(t, v)
	s.waitPurged(t)
}

// What clients have mounted and open goes on when Berth, and with it the server that it
// runs, is started again.
func TestRestartUnderAClient(t *testing.T) {
	for _, by := range []exporter{byZFS, byKernel} { // Ganesha has another port each time
		t.Run(by.name, func(t *testing.T) {
			parent := vm.NewParent(t)
			s := serve(t, parent, by)
			v := s.create(t, "pvc-1")
			at, unmountNow := s.mountNFS(t, v, "4.2")
			f, err := os.Create(filepath.Join(at, "file"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			s.stop()
			serve(t, parent, by)
			if _, err := f.WriteString("data"); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if got := vm.Sh(t, `cat "$1/file"`, v.Dir); got != "data" {
				t.Errorf("the file has %q", got)
			}
			unmountNow()
		})
	}
}

// A clone holds what its source did, and goes its own way.
func TestClonesOverNFS(t *testing.T) {
	s := serve(t, vm.NewParent(t), byZFS)
	source := s.create(t, "pvc-source")
	from, _ := s.mountNFS(t, source, "4.2")
	vm.Sh(t, `head -c 5000000 /dev/urandom >"$1/a"; mkdir "$1/d"; head -c 100000 /dev/urandom >"$1/d/b"; sync -f "$1/a"`, from)
	sum := func(at string) string { return vm.Sh(t, `cd "$1"; find . -type f | sort | xargs sha256sum`, at) }
	before := sum(from)

	clone := s.create(t, "pvc-clone", func(s *volume.Spec) { s.From = &volume.Source{Volume: source.Name} })
	to, _ := s.mountNFS(t, clone, "4.2")
	if got := sum(to); got != before {
		t.Errorf("the clone holds\n%s, its source\n%s", got, before)
	}
	vm.Sh(t, `echo more >"$1/more"; sync -f "$1/more"`, to)
	if got := sum(from); got != before {
		t.Errorf("the source has changed with its clone:\n%s", got)
	}
}
