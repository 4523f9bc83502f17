package vm

import (
	"os"
	"testing"
)

// NewFolder makes a folder with a short path, as sockets need it, which anybody may look
// into. It goes with the test.
func NewFolder(t testing.TB) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "") //nolint:usetesting // for its short path
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(folder); err != nil {
			t.Error(err)
		}
	})
	return folder
}
