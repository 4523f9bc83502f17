package dir_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

// pool is a backend that remembers its root, for reopening.
type pool struct {
	*dir.Backend
	root string
}

func open(t *testing.T, root string) *pool {
	t.Helper()
	b, err := dir.Open(t.Context(), root, dir.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return &pool{b, root}
}

func runContract(t *testing.T, newRoot func(t *testing.T) string) {
	volumetest.Suite{
		Open: func(t *testing.T) volume.Backend { return open(t, newRoot(t)) },
		Reopen: func(t *testing.T, b volume.Backend) volume.Backend {
			p := b.(*pool)
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			return open(t, p.root)
		},
	}.Run(t)
}

func TestContract(t *testing.T) {
	runContract(t, func(t *testing.T) string { return t.TempDir() })
}

func create(t *testing.T, p *pool, name string) volume.Volume {
	t.Helper()
	v, err := p.Create(t.Context(), volumetest.Spec(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestCreateMakesTheDirectory(t *testing.T) {
	p := open(t, t.TempDir())
	v := create(t, p, "pvc-1")
	if want := filepath.Join(p.root, "pvc-1"); v.Dir != want {
		t.Errorf("Dir is %s, want %s", v.Dir, want)
	}
	info, err := os.Stat(v.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := info.Mode(), os.ModeDir|os.ModeSetgid|0o770; got != want {
		t.Errorf("mode is %v, want %v", got, want)
	}
}

func TestCreateGoesOnAfterACrash(t *testing.T) {
	root := t.TempDir()
	p := open(t, root)
	v := create(t, p, "pvc-1")
	// As a crash between the first record and the directory leaves it.
	v.State = volume.StateCreating
	if _, err := p.Update(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(v.Dir); err != nil {
		t.Fatal(err)
	}
	if got := create(t, p, "pvc-1"); got.State != volume.StateReady {
		t.Errorf("state is %s, want ready", got.State)
	}
	if _, err := os.Stat(v.Dir); err != nil {
		t.Error(err)
	}
}

func TestCreateRefusesAForeignDirectory(t *testing.T) {
	p := open(t, t.TempDir())
	foreign := filepath.Join(p.root, "pvc-1")
	if err := os.WriteFile(foreign, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Create(t.Context(), volumetest.Spec(t, "pvc-1")); !errors.Is(err, volume.ErrForeign) {
		t.Errorf("got error %v, want %v", err, volume.ErrForeign)
	}
	if text, err := os.ReadFile(foreign); err != nil || string(text) != "mine" {
		t.Errorf("the foreign file is now %q, %v", text, err)
	}
}

func TestDiscardAndPurgeFollowNoLink(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "precious")
	if err := os.MkdirAll(outside, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := open(t, t.TempDir())
	v := create(t, p, "pvc-1")
	if err := os.Symlink(outside, filepath.Join(v.Dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := p.Discard(t.Context(), v.Name); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(v.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Discard the directory is still there: %v", err)
	}
	if err := p.Purge(t.Context(), v.Name); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(outside, "file")); err != nil {
		t.Errorf("Purge reached outside: %v", err)
	}
	trash, err := os.ReadDir(filepath.Join(p.root, dir.Private, "trash"))
	if err != nil || len(trash) != 0 {
		t.Errorf("the trash holds %v, %v", trash, err)
	}
}

func TestDamagedRecordsAreReportedAndSkipped(t *testing.T) {
	p := open(t, t.TempDir())
	create(t, p, "pvc-good")
	for file, text := range map[string]string{
		"pvc-torn.json":    `{"version": 1, "name": "pvc-to`,
		"pvc-other.json":   `{"version": 1, "name": "pvc-good", "path": "pvc-good", "state": "ready"}`,
		"pvc-escape.json":  `{"version": 1, "name": "pvc-escape", "path": "../../etc", "state": "ready"}`,
		"pvc-nopath.json":  `{"version": 1, "name": "pvc-nopath", "state": "ready"}`,
		"pvc-state.json":   `{"version": 1, "name": "pvc-state", "path": "pvc-state", "state": "odd"}`,
		"pvc-version.json": `{"version": 99, "name": "pvc-version", "path": "pvc-version", "state": "ready"}`,
		"notes.txt":        "remember the milk",
	} {
		if err := os.WriteFile(filepath.Join(p.root, dir.Private, "volumes", file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	good, bad := 0, 0
	for v, err := range p.List(t.Context()) {
		switch {
		case err == nil && v.Name.String() == "pvc-good":
			good++
		case err != nil:
			bad++
		default:
			t.Errorf("listed %+v", v)
		}
	}
	if good != 1 || bad != 7 {
		t.Errorf("listed %d good and %d bad records, want 1 and 7", good, bad)
	}
	n, err := volume.ParseName("pvc-torn")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Get(t.Context(), n); err == nil || errors.Is(err, volume.ErrNotFound) {
		t.Errorf("Get of a torn record: %v; it must be an error and not ErrNotFound", err)
	}
}

func TestTemporaryFilesOfACrashAreRemoved(t *testing.T) {
	root := t.TempDir()
	p := open(t, root)
	temp := filepath.Join(root, dir.Private, "volumes", "pvc-1.json.tmp")
	if err := os.WriteFile(temp, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, root)
	if _, err := os.Stat(temp); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	root := t.TempDir()
	open(t, root)
	_, err := dir.Open(t.Context(), root, dir.Options{})
	var locked *dir.LockedError
	if !errors.As(err, &locked) {
		t.Fatalf("got error %v, want a LockedError", err)
	}
	if locked.Holder.PID != os.Getpid() || !strings.Contains(err.Error(), "--standby") {
		t.Errorf("the message does not say who holds it and what to do: %v", err)
	}
}

func TestStandbyTakesOver(t *testing.T) {
	root := t.TempDir()
	first := open(t, root)
	waiting := make(chan dir.Holder, 1)
	opened := make(chan error, 1)
	go func() {
		b, err := dir.Open(t.Context(), root, dir.Options{Wait: func(h dir.Holder) { waiting <- h }})
		if err == nil {
			err = b.Close()
		}
		opened <- err
	}()
	if h := <-waiting; h.PID != os.Getpid() {
		t.Errorf("waiting for %v", h)
	}
	select {
	case err := <-opened:
		t.Fatalf("opened while the pool was held: %v", err)
	case <-time.After(10 * time.Millisecond):
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
}

func TestStandbyEndsWithItsContext(t *testing.T) {
	root := t.TempDir()
	open(t, root)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := dir.Open(ctx, root, dir.Options{Wait: func(dir.Holder) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want %v", err, context.Canceled)
	}
}

func TestIdentityStays(t *testing.T) {
	root := t.TempDir()
	p := open(t, root)
	first := p.Identity()
	if len(first) != 36 {
		t.Errorf("identity %q is not a UUID", first)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if again := open(t, root).Identity(); again != first {
		t.Errorf("identity was %s and is %s", first, again)
	}
}

func TestOpenRefusesBadRoots(t *testing.T) {
	for root, want := range map[string]string{
		"relative":              "absolute",
		t.TempDir() + "/":       "clean",
		t.TempDir() + "/absent": "mkdir -p",
	} {
		_, err := dir.Open(t.Context(), root, dir.Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%q): got error %v, want one with %q", root, err, want)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version": 1, "name": "pvc-1", "path": "pvc-1", "state": "ready"}`))
	f.Add([]byte(`{"version": 1, "name": "pvc-1", "path": "../x", "state": "ready"}`))
	f.Add([]byte(`{"version": 1, "name": "pvc-1", "path": "ns/a", "state": "archived", "archivePath": ".berth/archive/pvc-1/ns/a"}`))
	f.Add([]byte(`{"version": 1, "name": "pvc-1", "path": "ns/a", "state": "archived", "archivePath": ".berth/archive/../../x"}`))
	n, err := volume.ParseName("pvc-1")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		v, err := dir.ParseRecord(n, text)
		if err != nil {
			return
		}
		if v.Name != n || !filepath.IsLocal(v.Path.String()) || v.ArchivePath != "" && filepath.Clean(v.ArchivePath) != v.ArchivePath ||
			!filepath.IsLocal("./"+v.ArchivePath) {
			t.Errorf("accepted %+v", v)
		}
	})
}
