package dir

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/volume"
)

func TestWhatAServerShows(t *testing.T) {
	all := unix.Statfs_t{Bsize: 4096, Blocks: 1000, Bfree: 900, Files: 500, Ffree: 400}
	for _, c := range []struct {
		name string
		of   unix.Statfs_t
		want volume.Usage
		own  bool
	}{
		{"the share's", all, volume.Usage{}, false},
		{"nothing", unix.Statfs_t{Bsize: 4096}, volume.Usage{}, false},
		{"a limit of bytes", unix.Statfs_t{Bsize: 4096, Blocks: 10, Bfree: 4, Files: 500, Ffree: 400}, volume.Usage{Bytes: 6 * 4096, LimitBytes: 10 * 4096}, true},
		{"a limit in other blocks", unix.Statfs_t{Bsize: 1 << 20, Blocks: 1, Bfree: 1, Files: 500}, volume.Usage{LimitBytes: 1 << 20}, true},
		{"of files too", unix.Statfs_t{Bsize: 4096, Blocks: 10, Bfree: 10, Files: 7, Ffree: 5}, volume.Usage{LimitBytes: 10 * 4096, Inodes: 2, LimitInodes: 7}, true},
		{"more in it than it may have", unix.Statfs_t{Bsize: 4096, Blocks: 10, Bfree: 11, Files: 7, Ffree: 8}, volume.Usage{LimitBytes: 10 * 4096, LimitInodes: 7}, true},
	} {
		got, own := shown(c.of, all)
		if got != c.want || own != c.own {
			t.Errorf("%s: got %+v, its own %t; want %+v, %t", c.name, got, own, c.want, c.own)
		}
	}
}
