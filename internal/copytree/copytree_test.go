package copytree_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-storage/berth/internal/copytree"
	"github.com/berth-storage/berth/internal/copytree/treetest"
)

func open(t testing.TB, dir string) *os.File {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func mkdir(t testing.TB, path ...string) string {
	t.Helper()
	dir := filepath.Join(path...)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func copyTree(t testing.TB, from, to string, o copytree.Options) copytree.Copied {
	t.Helper()
	done, err := copytree.Copy(context.Background(), open(t, from), open(t, to), o)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func TestAllIsKept(t *testing.T) {
	top := t.TempDir()
	from := mkdir(t, top, "from")
	treetest.Make(t, from, 1000)
	before := treetest.Sum(t, from)
	for name, sharing := range map[string]copytree.Sharing{"if possible": copytree.ShareIfPossible, "never": copytree.ShareNever} {
		t.Run(name, func(t *testing.T) {
			to := mkdir(t, top, name)
			done := copyTree(t, from, to, copytree.Options{Sharing: sharing})
			treetest.Compare(t, from, to)
			if sum := treetest.Sum(t, to); sum != before {
				t.Errorf("the sum is %s, was %s", sum, before)
			}
			if done.Files != 1000 || len(done.Lost) > 0 {
				t.Errorf("copied %+v", done)
			}
			t.Log(done)
		})
	}
}
