package cache

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func TestAFileIsMadeOnce(t *testing.T) {
	t.Setenv("BERTH_CACHE", t.TempDir())
	var made int // File's lock guards it
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			path, err := File(t.Context(), "thing-1", "thing", "the thing", io.Discard, func(path string) error {
				made++
				return os.WriteFile(path, []byte("content"), 0o600)
			})
			if err != nil {
				t.Error(err)
				return
			}
			if content, err := os.ReadFile(path); err != nil || string(content) != "content" {
				t.Errorf("the file has %q, %v", content, err)
			}
		})
	}
	all.Wait()
	if made != 1 {
		t.Errorf("made %d times", made)
	}
}

func TestAFailedMakingLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("BERTH_CACHE", dir)
	broken := errors.New("broken")
	_, err := File(t.Context(), "thing-1", "thing", "the thing", io.Discard, func(path string) error {
		return errors.Join(broken, os.WriteFile(path, []byte("half"), 0o600))
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want the error of the making", err)
	}
	for _, name := range []string{"thing", "work"} {
		if _, err := os.Stat(filepath.Join(dir, "thing-1", name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
}
