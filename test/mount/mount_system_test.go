//go:build system

package mount

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/test/vm"
)

var versions = []string{"3", "4.0", "4.1", "4.2"}

// Two hosts mount a volume by each version of NFS, and each sees what the other
// does.
func versionsOfNFS(t *testing.T, s *server, a, b client) {
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			e := s.publish(t)
			first, second := a.mount(t, e, version), b.mount(t, e, version)
			data := bytes.Repeat([]byte(version), 1<<20)
			must(t, writeFile(first+"/file", data))
			got, err := os.ReadFile(second + "/file")
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("the other host reads %d of %d bytes, %v", len(got), len(data), err)
			}
			must(t, os.MkdirAll(second+"/a/b", 0o755))
			must(t, os.Rename(second+"/file", second+"/a/b/file"))
			must(t, os.Symlink("b/file", second+"/a/link"))
			got, err = os.ReadFile(first + "/a/link")
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("after the other one's rename: %d of %d bytes, %v", len(got), len(data), err)
			}
			onDisk, err := os.ReadFile(e.Dir + "/a/b/file")
			if err != nil || !bytes.Equal(onDisk, data) {
				t.Errorf("on disk: %d of %d bytes, %v", len(onDisk), len(data), err)
			}
			must(t, os.RemoveAll(first+"/a"))
			if left, err := os.ReadDir(e.Dir); err != nil || len(left) != 0 {
				t.Errorf("left on disk: %v, %v", left, err)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// writeFile writes a file and has it reach the server's disk.
func writeFile(path string, data []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// Names that could be taken for something else by a server's configuration.
func names(t *testing.T, s *server, a, _ client) {
	for _, name := range []string{"with space, é", "a,b;c=d (rw) #*'$(id) @x:y %s", "-o"} {
		e := s.publish(t, func(e *export.Export) {
			e.Dir = filepath.Join(s.dir, name, "v")
			e.Path = e.Dir
		})
		for _, version := range []string{"3", "4.2"} {
			dir, err := a.tryMount(t, e, version)
			if err != nil {
				t.Errorf("%q, vers=%s: %v", name, version, err)
				continue
			}
			must(t, writeFile(dir+"/file", []byte(name)))
			if text, err := os.ReadFile(e.Dir + "/file"); err != nil || string(text) != name {
				t.Errorf("%q, vers=%s: on disk: %q, %v", name, version, text, err)
			}
		}
	}
}

// owner gives the owner and group of a file, as the client sees them.
func owner(t *testing.T, path string) [2]uint32 {
	t.Helper()
	var s unix.Stat_t
	must(t, unix.Stat(path, &s))
	return [2]uint32{s.Uid, s.Gid}
}

func rootSquash(t *testing.T, s *server, a, _ client) {
	free := s.publish(t)
	squashed := s.publish(t, func(e *export.Export) { e.Squash = export.SquashRoot })
	for _, version := range []string{"3", "4.2"} {
		for _, c := range []struct {
			e    export.Export
			want [2]uint32
		}{{free, [2]uint32{0, 0}}, {squashed, [2]uint32{65534, 65534}}} {
			dir := a.mount(t, c.e, version)
			must(t, writeFile(dir+"/of-root-"+version, nil))
			if got := owner(t, dir+"/of-root-"+version); got != c.want {
				t.Errorf("vers=%s, squash %s: root's file belongs to %d, want %d", version, c.e.Squash, got, c.want)
			}
			vm.Sh(t, `setpriv --reuid=1000 --regid=1001 --clear-groups touch "$1"`, dir+"/of-user-"+version)
			if got := owner(t, dir+"/of-user-"+version); got != [2]uint32{1000, 1001} {
				t.Errorf("vers=%s, squash %s: a user's file belongs to %d", version, c.e.Squash, got)
			}
		}
	}
	// What is root's alone is not for a root that is squashed.
	must(t, os.WriteFile(filepath.Join(squashed.Dir, "secret"), []byte("secret"), 0o600))
	if text, err := os.ReadFile(a.mount(t, squashed, "4.2") + "/secret"); !errors.Is(err, os.ErrPermission) {
		t.Errorf("a squashed root reads %q, %v", text, err)
	}
}

// Only hosts of the networks that are allowed can mount a volume.
func onlyItsClients(t *testing.T, s *server, a, b client) {
	some, err := export.ParseClients([]string{"192.0.2.1", a.network})
	must(t, err)
	e := s.publish(t, func(e *export.Export) { e.Clients = some })
	for _, version := range []string{"3", "4.0", "4.2"} {
		must(t, writeFile(a.mount(t, e, version)+"/file", nil))
		if _, err := b.tryMount(t, e, version); err == nil {
			t.Errorf("vers=%s: a host of another network has mounted it", version)
		}
	}
	// To a host that has it mounted it is gone when its network is taken away.
	dir := a.mount(t, e, "4.1")
	must(t, writeFile(dir+"/file", nil))
	e.Clients, err = export.ParseClients([]string{b.network})
	must(t, err)
	must(t, s.Publish(t.Context(), e))
	if err := writeFile(dir+"/file", []byte("late")); err == nil {
		t.Error("a host writes whose network is not allowed any more")
	}
	must(t, writeFile(b.mount(t, e, "4.2")+"/file", nil))
}

// A host that has a volume mounted while it is deleted does not reach it any more,
// also not by what it has open; and other volumes do not notice.
func withdraw(t *testing.T, s *server, a, _ client) {
	// The kernel's client tries for ten seconds to end its state of NFSv4.1 and later
	// at a server that holds a file of it open, when nothing of that is mounted any more.
	for _, version := range []string{"3", "4.0", "4.2"} {
		gone, kept := s.publish(t), s.publish(t)
		dir, other := a.mount(t, gone, version), a.mount(t, kept, version)
		f, err := os.Create(dir + "/file")
		must(t, err)
		defer f.Close()
		_, err = f.WriteString("before")
		must(t, errors.Join(err, f.Sync()))
		must(t, s.Withdraw(t.Context(), gone))
		_, err = f.WriteString("late")
		if err := errors.Join(err, f.Sync()); err == nil {
			t.Errorf("vers=%s: a file that was open can still be written to", version)
		}
		if err := writeFile(dir+"/new", nil); err == nil {
			t.Errorf("vers=%s: a file can be made", version)
		}
		if text, err := os.ReadFile(gone.Dir + "/file"); err != nil || string(text) != "before" {
			t.Errorf("vers=%s: on disk: %q, %v", version, text, err)
		}
		if _, err := a.tryMount(t, gone, version); err == nil {
			t.Errorf("vers=%s: it can be mounted again", version)
		}
		must(t, os.RemoveAll(gone.Dir))
		must(t, writeFile(other+"/file", nil))

		// The client hears of it only when the directory is gone.
		gone = s.publish(t)
		dir = a.mount(t, gone, version)
		must(t, writeFile(dir+"/file", nil))
		must(t, s.Withdraw(t.Context(), gone))
		must(t, os.RemoveAll(gone.Dir))
		if err := writeFile(dir+"/file", []byte("late")); err == nil {
			t.Errorf("vers=%s: a file of a directory that is gone can be written to", version)
		}
	}
}

// open is a file that one host has open and locked, and another one open.
type open struct {
	version     string
	mine, other *os.File
}

// What is open stays open over a restart of the server, and what is locked stays
// locked: within the grace period clients get back what they had, and nobody gets
// between.
func restart(t *testing.T, s *server, a, b client) {
	var files []open
	for _, version := range []string{"4.0", "4.1", "4.2"} {
		e := s.publish(t)
		mine, err := os.Create(a.mount(t, e, version) + "/file")
		must(t, err)
		defer mine.Close()
		_, err = mine.WriteString("before ")
		must(t, errors.Join(err, mine.Sync(), lock(mine)))
		other, err := os.OpenFile(b.mount(t, e, version)+"/file", os.O_RDWR, 0)
		must(t, err)
		defer other.Close()
		if err := lock(other); !errors.Is(err, syscall.EWOULDBLOCK) {
			t.Fatalf("vers=%s: two hosts have a lock: %v", version, err)
		}
		files = append(files, open{version, mine, other})
	}
	s.restart(t)
	// All at once, so that no client is late because another one waits.
	var all sync.WaitGroup
	for _, f := range files {
		all.Go(func() {
			_, err := f.mine.WriteString("after")
			if err := errors.Join(err, f.mine.Sync()); err != nil {
				t.Errorf("vers=%s: %v", f.version, err)
			}
		})
		all.Go(func() {
			// This waits for the end of the grace period.
			if err := lock(f.other); !errors.Is(err, syscall.EWOULDBLOCK) {
				t.Errorf("vers=%s: another host has got the lock: %v", f.version, err)
			}
		})
	}
	all.Wait()
	for _, f := range files {
		text := make([]byte, 100)
		if n, err := f.other.ReadAt(text, 0); string(text[:n]) != "before after" {
			t.Errorf("vers=%s: the other host reads %q, %v", f.version, text[:n], err)
		}
		must(t, errors.Join(syscall.Flock(int(f.mine.Fd()), syscall.LOCK_UN), lock(f.other)))
	}
}

// lock takes a file for its host alone, or says who has it.
func lock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }
