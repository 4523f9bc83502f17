//go:build system

package share

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/copytree/treetest"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
	"github.com/berth-storage/berth/test/vm"
)

// onShare gives a pool on a share that is mounted so, and its root on the server.
func onShare(t *testing.T, version string) (b *dir.Backend, onServer string) {
	t.Helper()
	s := startKernel(t, "no_root_squash")
	path, at := s.newShare(t), vm.NewFolder(t)
	vm.Sh(t, `mount -t nfs -o "vers=$1" "127.0.0.1:$2" "$3"`, version, path, at)
	undo(t, `umount "$1"`, at)
	b, err := dir.Open(t.Context(), at, dir.Options{Cluster: "west"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b, path
}

func createOn(t *testing.T, b *dir.Backend, name string) volume.Volume {
	t.Helper()
	v, err := b.Create(t.Context(), volumetest.Spec(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// A client of NFS remembers what a file was like for a minute. What others write to the
// volume meanwhile is in a snapshot nevertheless.
func TestSnapshotsHoldWhatOthersHaveWritten(t *testing.T) {
	for _, version := range []string{"3", "4.2"} {
		t.Run(version, func(t *testing.T) {
			b, root := onShare(t, version)
			v := createOn(t, b, "pvc-1")
			var text string
			for i := range 5 {
				text += fmt.Sprintln("line", i)
				name := fmt.Sprint("file-", i)
				written := filepath.Join(root, "pvc-1")
				err := errors.Join(os.WriteFile(filepath.Join(written, "file"), []byte(text), 0o600), os.WriteFile(filepath.Join(written, name), nil, 0o600))
				if err != nil {
					t.Fatal(err)
				}
				s := volumetest.SnapshotSpec(t, fmt.Sprint("snap-", i), "pvc-1")
				if _, err := b.Snapshot(t.Context(), s, nil); err != nil {
					t.Fatal(err)
				}
				taken := filepath.Join(root, dir.Folder("west"), "snapshots", s.Name.String())
				if got, err := os.ReadFile(filepath.Join(taken, "file")); err != nil || string(got) != text {
					t.Errorf("snapshot %d has %q, want %q; %v", i, got, text, err)
				}
				if _, err := os.Stat(filepath.Join(taken, name)); err != nil {
					t.Error(err)
				}
				// Now the client knows it.
				if _, err := os.Stat(filepath.Join(v.Dir, "file")); err != nil {
					t.Error(err)
				}
				time.Sleep(50 * time.Millisecond) // more than the times of the server's files are coarse
			}
		})
	}
}

func TestATreeOnAShareIsRestored(t *testing.T) {
	// What NFS does not carry, or not each version of it.
	without := []treetest.Part{treetest.Holes, treetest.AccessTimes, treetest.Attributes, treetest.ACLs, treetest.Trusted}
	for _, version := range []string{"3", "4.2"} {
		t.Run(version, func(t *testing.T) {
			b, root := onShare(t, version)
			createOn(t, b, "pvc-1")
			tree := filepath.Join(root, "pvc-1/tree")
			if err := os.Mkdir(tree, 0o755); err != nil {
				t.Fatal(err)
			}
			treetest.Make(t, tree, 300, without...)
			if _, err := b.Snapshot(t.Context(), volumetest.SnapshotSpec(t, "snap-1", "pvc-1"), nil); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Clone(t.Context(), volumetest.RestoreSpec(t, "pvc-2", "snap-1", "pvc-1"), nil); err != nil {
				t.Fatal(err)
			}
			treetest.Compare(t, tree, filepath.Join(root, "pvc-2/tree"), without...)
			for _, name := range []string{"snap-1", "pvc-2", "pvc-1"} {
				n := volumetest.Spec(t, name).Name
				if err := errors.Join(b.Discard(t.Context(), n), b.Purge(t.Context(), n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
