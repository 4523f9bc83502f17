//go:build system

package hostile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

// A folder that Berth knows is moved away by somebody else, as by another cluster to its
// trash, and another one is in its place. An NFS client goes on for half a minute
// to take the old one for it.
func TestFoldersThatOthersMove(t *testing.T) {
	for _, version := range []string{"3", "4.2"} {
		t.Run(version, func(t *testing.T) {
			s := newShare(t)
			root := s.mount(t, version)
			b, err := dir.Open(t.Context(), root, dir.Options{Quota: dir.QuotaOff, Cluster: "east"})
			must(t, err)
			defer b.Close()
			on := func(path string) string { return filepath.Join(s.disk, path) }
			must(t, os.MkdirAll(on("team/deep"), 0o755))
			known := volumetest.SpecAt(t, "pvc-1", "team/deep/known")
			_, err = b.Create(t.Context(), known)
			must(t, err)

			must(t, os.Rename(on("team"), on("moved")), os.MkdirAll(on("team/deep"), 0o755))
			_, err = b.Create(t.Context(), volumetest.SpecAt(t, "pvc-2", "team/deep/new"))
			must(t, err)
			for path, want := range map[string]bool{"team/deep/new": true, "moved/deep/new": false, "moved/deep/known": true} {
				if _, err := os.Stat(on(path)); (err == nil) != want {
					t.Errorf("%s: %v, want it there: %t", path, err, want)
				}
			}
			// What is not at its path any more is not its.
			must(t, b.Discard(t.Context(), known.Name), b.Purge(t.Context(), known.Name))
			if _, err := os.Stat(on("moved/deep/known")); err != nil {
				t.Errorf("a directory that was moved away: %v", err)
			}
			if _, err := b.Get(t.Context(), known.Name); !errors.Is(err, volume.ErrNotFound) {
				t.Errorf("its record: %v", err)
			}
		})
	}
}
