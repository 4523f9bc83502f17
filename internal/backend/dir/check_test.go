package dir_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-storage/berth/internal/backend/dir"
)

func TestCheckNoticesARootThatWasRemoved(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	p := open(t, root)
	if err := p.Check(); err != nil {
		t.Error(err)
	}
	if err := errors.Join(os.RemoveAll(root), os.Mkdir(root, 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := p.Check(); !errors.Is(err, dir.ErrLost) {
		t.Errorf("got error %v, want %v", err, dir.ErrLost)
	}
}

// Where hosts do not see each other's locks, one that opens the pool too must not put the
// first one out: they would go on like that in turns.
func TestCheckWhereLocksAreLocal(t *testing.T) {
	root := t.TempDir()
	p := openWith(t, root, dir.Options{LocalLocks: true})
	lock := filepath.Join(root, dir.Private, "lock")
	if err := os.WriteFile(lock, []byte(`{"pid":7,"host":"other"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Check(); err != nil {
		t.Errorf("another host has it open: %v", err)
	}
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	if err := p.Check(); !errors.Is(err, dir.ErrLost) {
		t.Errorf("the lock was removed: got error %v, want %v", err, dir.ErrLost)
	}
}

func TestCheckNoticesThatTheLockWasSomebodyElses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(lock string) error
		want   string
	}{
		"held meanwhile": {func(lock string) error {
			return os.WriteFile(lock, []byte(`{"pid":7,"host":"other","command":"berth serve","since":"2026-01-02T03:04:05Z"}`), 0o600)
		}, "meanwhile in use by process 7 on host other"},
		"held meanwhile, with the disk full": {func(lock string) error { return os.Truncate(lock, 0) }, "meanwhile in use by another process"},
		"removed":                            {os.Remove, "was removed"},
		"made anew":                          {func(lock string) error { return errors.Join(os.Remove(lock), os.WriteFile(lock, nil, 0o600)) }, "meanwhile in use"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			p := open(t, root)
			if err := p.Check(); err != nil {
				t.Error(err)
			}
			if err := c.change(filepath.Join(root, dir.Private, "lock")); err != nil {
				t.Fatal(err)
			}
			err := p.Check()
			if !errors.Is(err, dir.ErrLost) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want %v with %q", err, dir.ErrLost, c.want)
			}
		})
	}
}
