package durable_test

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-storage/berth/internal/durable"
)

func want(t *testing.T, file, text string) {
	t.Helper()
	got, err := os.ReadFile(file)
	if err != nil || string(got) != text {
		t.Errorf("%s has %q, %v; want %q", file, got, err, text)
	}
}

func write(file string, text []byte, mode os.FileMode) error {
	return durable.WriteFile(file, mode, func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
}

func TestWriteFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	for _, text := range []string{"first", "a longer second", ""} {
		if err := write(file, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		want(t, file, text)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 1 {
		t.Errorf("the folder has %v, %v", left, err)
	}
}

// What a crash has left behind is neither taken for the file nor in the way.
func TestLeftOver(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file+".new", []byte("half of what was to be writ"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := write(file, []byte("whole"), 0o600); err != nil {
		t.Fatal(err)
	}
	want(t, file, "whole")
}

func TestFailureKeepsTheOldFile(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "file")
	if err := write(file, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(file+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := write(file, []byte("new"), 0o600); err == nil {
		t.Error("no error")
	}
	want(t, file, "old")
	if err := write(filepath.Join(folder, "absent", "file"), nil, 0o600); err == nil {
		t.Error("no error without the folder")
	}
	if err := os.Mkdir(filepath.Join(folder, "taken"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := write(filepath.Join(folder, "taken"), nil, 0o600); err == nil {
		t.Error("a folder was replaced")
	}
	if _, err := os.Stat(filepath.Join(folder, "taken.new")); err == nil {
		t.Error("a temporary file is left")
	}
}
