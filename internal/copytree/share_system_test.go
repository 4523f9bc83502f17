//go:build system

package copytree_test

import (
	"context"
	"errors"
	"testing"

	"github.com/berth-storage/berth/internal/copytree"
	"github.com/berth-storage/berth/internal/copytree/treetest"
	"github.com/berth-storage/berth/test/vm"
)

// A tree goes to a mounted share, from one folder to another there, and back.
func TestOnAShare(t *testing.T) {
	must(t, vm.StartNFSD(t.Context(), vm.Here{}))
	for _, version := range []string{"4.2", "4.1", "3"} {
		t.Run(version, func(t *testing.T) {
			served, local := mounted(t, xfs), mounted(t, ext4)
			run(t, "exportfs", "-o", "rw,no_root_squash,insecure,no_subtree_check,fsid=77", "*:"+served)
			share := t.TempDir()
			run(t, "mount", "-t", "nfs", "-o", "vers="+version, "127.0.0.1:"+served, share)
			t.Cleanup(func() { // when no folder is open any more, unlike at the end of this function
				_, err := vm.Here{}.Run(context.Background(), "sh", "-ec", `umount "$1"; exportfs -u "*:$2"; exportfs -f`, "sh", share, served)
				must(t, err)
			})
			from, one, two, back := mkdir(t, local, "from"), mkdir(t, share, "one"), mkdir(t, share, "two"), mkdir(t, local, "back")
			treetest.Make(t, from, 300)
			// The server notes access times as it likes, and has some attributes and finds holes
			// by some versions only.
			without := []treetest.Part{treetest.AccessTimes, treetest.Attributes, treetest.ACLs, treetest.Trusted, treetest.Holes}
			sum := treetest.Sum(t, from, without...)
			for _, step := range [][2]string{{from, one}, {one, two}, {two, back}} {
				done := copyTree(t, step[0], step[1], copytree.Options{})
				t.Logf("copied %+v", done)
				if treetest.Sum(t, step[1], without...) != sum {
					treetest.Compare(t, from, step[1], without...)
					t.Errorf("what is in %s is not the same any more", step[1])
				}
			}
			// Of whatever version, holes are there still.
			treetest.Compare(t, from, back, without[:4]...)
			if _, err := copytree.Copy(t.Context(), open(t, from), open(t, one), copytree.Options{}); !errors.Is(err, copytree.ErrNotEmpty) {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}
