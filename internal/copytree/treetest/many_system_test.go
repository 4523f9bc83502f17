//go:build system

package treetest_test

import (
	"os"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/copytree"
	"github.com/berth-storage/berth/internal/copytree/treetest"
)

// A copy of 100,000 files is the same.
func TestManyFiles(t *testing.T) {
	const files = 100_000
	from, to := t.TempDir(), t.TempDir()
	since := time.Now()
	step := func(what string) {
		t.Logf("%s in %s", what, time.Since(since).Round(time.Millisecond))
		since = time.Now()
	}
	treetest.Make(t, from, files)
	step("made")
	source, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	target, err := os.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	done, err := copytree.Copy(t.Context(), source, target, copytree.Options{})
	if err != nil || done.Files != files || len(done.Lost) > 0 {
		t.Errorf("copied %+v, %v", done, err)
	}
	step("copied")
	treetest.Compare(t, from, to)
	step("compared")
}
