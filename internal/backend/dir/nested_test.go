package dir_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

func openWith(t *testing.T, root string, o dir.Options) *pool {
	t.Helper()
	b, err := dir.Open(t.Context(), root, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return &pool{b, root}
}

func createAt(t *testing.T, p *pool, name, path string) volume.Volume {
	t.Helper()
	v, err := p.Create(t.Context(), volumetest.SpecAt(t, name, path))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func gone(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there (%v)", path, err)
		}
	}
}

func there(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	}
}

func drop(t *testing.T, p *pool, v volume.Volume) {
	t.Helper()
	if err := errors.Join(p.Discard(t.Context(), v.Name), p.Purge(t.Context(), v.Name)); err != nil {
		t.Fatal(err)
	}
}

func TestParentsAreMadeAndRemoved(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	p := open(t, t.TempDir())
	theirs := filepath.Join(p.root, "theirs")
	if err := os.Mkdir(theirs, 0o700); err != nil {
		t.Fatal(err)
	}
	first, second := createAt(t, p, "pvc-1", "ns/deep/a"), createAt(t, p, "pvc-2", "ns/b")
	third := createAt(t, p, "pvc-3", "theirs/new/c")
	for _, folder := range []string{"ns", "ns/deep", "theirs/new"} {
		info, err := os.Stat(filepath.Join(p.root, folder))
		if err != nil || info.Mode() != fs.ModeDir|0o755 {
			t.Errorf("%s: %v, %v; want drwxr-xr-x", folder, info.Mode(), err)
		}
	}
	drop(t, p, first)
	gone(t, filepath.Join(p.root, "ns/deep"))
	there(t, second.Dir)
	drop(t, p, second)
	drop(t, p, third)
	gone(t, filepath.Join(p.root, "ns"), filepath.Join(p.root, "theirs/new"))
	there(t, theirs) // nobody made it for a volume
	notes, err := os.ReadDir(filepath.Join(p.root, ".berth/parents"))
	if err != nil || len(notes) != 0 {
		t.Errorf("notes of %v are left, %v", notes, err)
	}
}

func TestParentsWithSomethingInThemStay(t *testing.T) {
	p := open(t, t.TempDir())
	v := createAt(t, p, "pvc-1", "ns/deep/a")
	file := filepath.Join(p.root, "ns/readme")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	drop(t, p, v)
	there(t, file)
	gone(t, filepath.Join(p.root, "ns/deep"))
}

// Whoever may write to a folder can make it a link at any time.
func TestNothingGoesThroughALink(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	precious := filepath.Join(outside, "a/file")
	if err := errors.Join(os.MkdirAll(filepath.Dir(precious), 0o755), os.WriteFile(precious, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	p := open(t, t.TempDir())
	v := createAt(t, p, "pvc-1", "ns/a")
	inside := createAt(t, p, "pvc-2", "other/a")
	link := func(target string) {
		ns := filepath.Join(p.root, "ns")
		if err := errors.Join(os.RemoveAll(ns), os.Symlink(target, ns)); err != nil {
			t.Fatal(err)
		}
	}
	for _, target := range []string{outside, "other", filepath.Join(p.root, "other")} {
		link(target)
		s := volumetest.SpecAt(t, "pvc-3", "ns/b")
		if _, err := p.Create(t.Context(), s); !errors.Is(err, volume.ErrForeign) {
			t.Errorf("Create below a link: %v", err)
		}
		s = volumetest.SpecAt(t, "pvc-3", "ns/a")
		s.Existing = volume.ExistingReuse
		if _, err := p.Create(t.Context(), s); !errors.Is(err, volume.ErrForeign) {
			t.Errorf("Create that takes over what is behind a link: %v", err)
		}
		if _, err := p.Archive(t.Context(), v.Name, nil); !errors.Is(err, volume.ErrForeign) {
			t.Errorf("Archive: %v", err)
		}
	}
	if err := p.Discard(t.Context(), v.Name); !errors.Is(err, volume.ErrForeign) {
		t.Errorf("Discard: %v", err)
	}
	there(t, precious, inside.Dir)
	gone(t, filepath.Join(p.root, "other/b"), filepath.Join(outside, "b"))
}

// A volume that a link took the place of is discarded as a link.
func TestDiscardOfALinkLeavesItsTarget(t *testing.T) {
	p := open(t, t.TempDir())
	v, other := createAt(t, p, "pvc-1", "ns/a"), createAt(t, p, "pvc-2", "ns/b")
	if err := errors.Join(os.Remove(v.Dir), os.Symlink("b", v.Dir)); err != nil {
		t.Fatal(err)
	}
	drop(t, p, v)
	gone(t, v.Dir)
	there(t, other.Dir)
}

func TestTakingOver(t *testing.T) {
	p := open(t, t.TempDir())
	old := filepath.Join(p.root, "ns/old")
	if err := os.MkdirAll(old, 0o700); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		if err := os.Chown(old, 1234, 1234); err != nil {
			t.Fatal(err)
		}
	}
	was, err := os.Stat(old)
	if err != nil {
		t.Fatal(err)
	}
	s := volumetest.SpecAt(t, "pvc-1", "ns/old")
	s.Existing = volume.ExistingReuse
	v, err := p.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	is, err := os.Stat(old)
	if err != nil {
		t.Fatal(err)
	}
	owner := is.Sys().(*syscall.Stat_t)
	if before := was.Sys().(*syscall.Stat_t); owner.Uid != before.Uid || owner.Gid != before.Gid {
		t.Errorf("the owner is %d:%d, was %d:%d; nobody asked for another", owner.Uid, owner.Gid, before.Uid, before.Gid)
	}
	if is.Mode() != fs.ModeDir|fs.ModeSetgid|0o770 || v.Owner != (volume.Owner{UID: owner.Uid, GID: owner.Gid, Mode: 0o2770}) {
		t.Errorf("mode is %v, the record says %+v", is.Mode(), v.Owner)
	}
	// What a file system has found is nobody's to take.
	if err := os.MkdirAll(filepath.Join(p.root, "lost+found/x"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"lost+found", "lost+found/x"} {
		s := volumetest.SpecAt(t, "pvc-2", path)
		s.Existing = volume.ExistingShare
		if _, err := p.Create(t.Context(), s); !errors.Is(err, volume.ErrForeign) {
			t.Errorf("Create at %s: %v", path, err)
		}
	}
	// A file is no directory to take over.
	file := filepath.Join(p.root, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s = volumetest.SpecAt(t, "pvc-2", "file")
	s.Existing = volume.ExistingReuse
	if _, err := p.Create(t.Context(), s); !errors.Is(err, volume.ErrForeign) {
		t.Errorf("Create over a file: %v", err)
	}
	there(t, file)
}

func TestSharingLeavesOwnerAndMode(t *testing.T) {
	p := open(t, t.TempDir())
	for i, mode := range []uint32{0o700, 0o777} {
		s := volumetest.SpecAt(t, "pvc-"+string(rune('1'+i)), "ns/a")
		s.Existing, s.Owner.Mode = volume.ExistingShare, mode
		v, err := p.Create(t.Context(), s)
		if err != nil || v.Owner.Mode != 0o700 {
			t.Errorf("mode %o, %v", v.Owner.Mode, err)
		}
	}
}

// What cannot be given away says so, and leaves nothing.
func TestOwnersThatCannotBe(t *testing.T) {
	if os.Getuid() == 0 {
		mayNotChown(t)
	}
	p := open(t, t.TempDir())
	s := volumetest.SpecAt(t, "pvc-1", "ns/a")
	s.Owner = volume.Owner{UID: 4321, Mode: 0o770}
	if _, err := p.Create(t.Context(), s); !errors.Is(err, volume.ErrUnsupported) || !strings.Contains(err.Error(), "root_squash") {
		t.Errorf("got error %v", err)
	}
	gone(t, filepath.Join(p.root, "ns"))
	if got := listed(t, p); got != "" {
		t.Errorf("left is %s", got)
	}
	s.Owner.UID = 0 // nobody asked for it
	v, err := p.Create(t.Context(), s)
	if err != nil || v.Owner.UID != uint32(unix.Geteuid()) {
		t.Errorf("owner %+v, %v", v.Owner, err)
	}
}

// mayNotChown takes the right to give files away from this test, as a server with
// root_squash does.
func mayNotChown(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // and never unlock it: the thread ends with the test
	var caps [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &caps[0]); err != nil {
		t.Fatal(err)
	}
	caps[0].Effective &^= 1<<unix.CAP_CHOWN | 1<<unix.CAP_FOWNER
	if err := unix.Capset(&header, &caps[0]); err != nil {
		t.Fatal(err)
	}
}

func TestEmptyParentsDoNotRaceWithNewVolumes(t *testing.T) {
	p := open(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s := volumetest.SpecAt(t, "pvc-1", "ns/deep/a")
		for ctx.Err() == nil {
			if _, err := p.Create(t.Context(), s); err != nil {
				t.Error(err)
				return
			}
			if err := errors.Join(p.Discard(t.Context(), s.Name), p.Purge(t.Context(), s.Name)); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for range 50 {
		drop(t, p, createAt(t, p, "pvc-2", "ns/deep/b"))
	}
	cancel()
	<-done
	gone(t, filepath.Join(p.root, "ns"))
}

// What was to be taken over can be taken away after a crash.
func TestTakingOverWhatIsGone(t *testing.T) {
	p := open(t, t.TempDir())
	s := volumetest.SpecAt(t, "pvc-1", "ns/a")
	s.Existing = volume.ExistingReuse
	v := volume.New(s, time.Now())
	v.TookOver = true
	writeRecord(t, p, v)
	if v, err := p.Create(t.Context(), s); err != nil || v.State != volume.StateReady {
		t.Errorf("got %+v, %v", v, err)
	}
	there(t, filepath.Join(p.root, "ns/a"))
}
