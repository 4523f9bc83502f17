package dir_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/volume"
)

func discarded(t *testing.T, p *pool, name string) volume.Volume {
	t.Helper()
	v := create(t, p, name)
	if err := p.Discard(t.Context(), v.Name); err != nil {
		t.Fatal(err)
	}
	v.Dir = filepath.Join(p.root, dir.Private, "trash", name)
	return v
}

// nest makes directories one in the other, deeper than a path may be long.
func nest(t *testing.T, top string, depth int) {
	t.Helper()
	at, err := unix.Open(top, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range depth {
		if err := unix.Mkdirat(at, "deep-1", 0o700); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(at, "deep-1", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err := errors.Join(err, unix.Close(at)); err != nil {
			t.Fatal(err)
		}
		at = next
	}
	if err := unix.Close(at); err != nil {
		t.Fatal(err)
	}
}

func TestPurgeOfADeepTreeHoldsFewFilesOpen(t *testing.T) {
	p := open(t, t.TempDir())
	v := discarded(t, p, "pvc-1")
	nest(t, v.Dir, 3000)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	few := old
	few.Cur = 200
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	err := p.Purge(t.Context(), v.Name)
	if err := errors.Join(err, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(v.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}

// Several workers meet deep trees at once, with names in the way at the top.
func TestPurgeOfManyDeepTrees(t *testing.T) {
	p := open(t, t.TempDir())
	v := discarded(t, p, "pvc-1")
	for i := range 20 {
		top := filepath.Join(v.Dir, fmt.Sprint(i))
		if err := os.Mkdir(top, 0o700); err != nil {
			t.Fatal(err)
		}
		nest(t, top, 100)
		// What is in the way: a file, an empty directory, and one that is not empty.
		switch name := filepath.Join(v.Dir, fmt.Sprint("deep-", i+1)); i % 3 {
		case 0:
			if err := os.WriteFile(name, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		case 1:
			if err := os.Mkdir(name, 0o700); err != nil {
				t.Fatal(err)
			}
		default:
			if err := os.MkdirAll(filepath.Join(name, "x", "y"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := p.Purge(t.Context(), v.Name); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(v.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}

func TestPurgeOfAWideTree(t *testing.T) {
	p := open(t, t.TempDir())
	v := discarded(t, p, "pvc-1")
	for i := range 3000 {
		if err := os.WriteFile(filepath.Join(v.Dir, fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Purge(t.Context(), v.Name); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(v.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}

// countdown is a context that ends after a number of questions.
type countdown struct {
	context.Context
	left atomic.Int64
}

func (c *countdown) Err() error {
	if c.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

func TestPurgeStopsWithItsContextAndGoesOn(t *testing.T) {
	p := open(t, t.TempDir())
	v := discarded(t, p, "pvc-1")
	for i := range 100 {
		if err := os.WriteFile(filepath.Join(v.Dir, fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx := &countdown{Context: t.Context()}
	ctx.left.Store(50)
	if err := p.Purge(ctx, v.Name); !errors.Is(err, context.Canceled) {
		t.Fatalf("got error %v, want %v", err, context.Canceled)
	}
	left, err := os.ReadDir(v.Dir)
	if err != nil || len(left) == 0 || len(left) == 100 {
		t.Errorf("%d of 100 files are left, %v; want some", len(left), err)
	}
	if err := p.Purge(t.Context(), v.Name); err != nil {
		t.Fatal(err)
	}
}

func TestDiscardAgainLeavesWhatCameSince(t *testing.T) {
	p := open(t, t.TempDir())
	v := discarded(t, p, "pvc-1")
	since := filepath.Join(p.root, "pvc-1")
	if err := os.Mkdir(since, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.Discard(t.Context(), v.Name), p.Purge(t.Context(), v.Name)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(since); err != nil {
		t.Errorf("a directory that was put there afterwards: %v", err)
	}
}

func TestNamesThatLookLikeSuffixes(t *testing.T) {
	p := open(t, t.TempDir())
	names := []string{"a", "a.json", "a.discarded", "a.json.discarded"}
	for _, name := range names {
		create(t, p, name)
	}
	n, err := volume.ParseName("a")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Discard(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	var listed []string
	for v, err := range p.List(t.Context()) {
		if err != nil {
			t.Error(err)
		}
		listed = append(listed, fmt.Sprint(v.Name, " ", v.State))
	}
	got := strings.Join(listed, ", ")
	for _, want := range []string{"a discarded", "a.json ready", "a.discarded ready", "a.json.discarded ready"} {
		if !strings.Contains(got, want) || len(listed) != len(names) {
			t.Errorf("listed %s; lacks %s", got, want)
		}
	}
}
