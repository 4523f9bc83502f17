package subdir

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"testing"
)

func TestAnswers(t *testing.T) {
	if err := Answers(t.Context(), t.TempDir()); err != nil {
		t.Error(err)
	}
	if err := Answers(t.Context(), filepath.Join(t.TempDir(), "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of what is not there: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 { // both may be ready
		if err := Answers(ended, t.TempDir()); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}
