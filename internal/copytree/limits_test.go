package copytree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// A tenant has all the time to make what would take all the memory of the process, which serves others too.
func TestMoreThanThereIsRoomForIsRefused(t *testing.T) {
	few := limits{depth: 3, names: 5000, links: 4}
	for name, c := range map[string]struct {
		most, more func(dir string) error // what is copied, and what is too much
	}{
		"folders in each other": {
			func(dir string) error { return os.MkdirAll(filepath.Join(dir, "1/2/3"), 0o755) },
			func(dir string) error { return os.MkdirAll(filepath.Join(dir, "1/2/3/4"), 0o755) },
		},
		"names in a folder": {
			func(dir string) error { return touch(dir, 5000) },
			func(dir string) error { return touch(dir, 9000) },
		},
		"files with several names": {
			func(dir string) error { return links(dir, 4) },
			func(dir string) error { return links(dir, 5) },
		},
	} {
		for fits, prepare := range map[bool]func(string) error{true: c.most, false: c.more} {
			from, to := t.TempDir(), t.TempDir()
			if err := prepare(from); err != nil {
				t.Fatal(err)
			}
			copier := newCopier(t.Context(), Options{})
			copier.most = few
			if err := copier.copy(opened(t, from), opened(t, to)); errors.Is(err, ErrTooMuch) == fits || fits && err != nil {
				t.Errorf("%s: %v, want that it fits: %v", name, err, fits)
			}
		}
	}
	if c := newCopier(context.Background(), Options{}); c.most != most {
		t.Errorf("the limits are %+v", c.most)
	}
}

func touch(dir string, files int) error {
	var failed error
	for i := range files {
		failed = errors.Join(failed, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600))
	}
	return failed
}

// links makes files that have one name in each of two folders.
func links(dir string, files int) error {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	failed := errors.Join(os.Mkdir(a, 0o755), os.Mkdir(b, 0o755), touch(a, files))
	for i := range files {
		failed = errors.Join(failed, os.Link(filepath.Join(a, fmt.Sprint(i)), filepath.Join(b, fmt.Sprint(i))))
	}
	return failed
}

func opened(t *testing.T, dir string) *os.File {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}
