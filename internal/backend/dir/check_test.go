package dir_test

import (
	"errors"
	"os"
	"path/filepath"
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
