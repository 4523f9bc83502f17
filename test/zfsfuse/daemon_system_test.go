//go:build system

package zfsfuse_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/zfsfuse"
)

func TestMain(m *testing.M) {
	if err := harness.OwnMounts(); err != nil {
		fmt.Fprintln(os.Stderr, "zfsfuse:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestPoolsAreTheirProcesssOwn(t *testing.T) {
	folder := t.TempDir()
	d, err := zfsfuse.Start(folder)
	if err != nil {
		t.Fatal(err)
	}
	at, err := d.Create("tank", 128<<20)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := zfsfuse.Run("zfs", "create", "tank/data"); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(at, "data", "file"), []byte("data"), 0o600); err != nil {
		t.Error(err)
	}
	if _, err := zfsfuse.Run("zfs", "create", "tank/data"); err == nil || !strings.Contains(err.Error(), "dataset already exists") {
		t.Errorf("made twice: got error %v", err)
	}
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), folder) || strings.Contains(string(mounts), "/run/zfs") {
		t.Errorf("something is still mounted (%v):\n%s", err, mounts)
	}
	if d, err = zfsfuse.Start(folder); err != nil { // once more, in the same place
		t.Fatal(err)
	}
	if out, err := zfsfuse.Run("zpool", "list", "-H"); err != nil || out != "" && !strings.Contains(out, "no pools") {
		t.Errorf("the next one has the pool: %q, %v", out, err)
	}
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
}
