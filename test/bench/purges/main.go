// Command purges measures, in the test VM, how long it takes to free deleted volumes on a
// share, against rm -rf: both remove trees of the same files from one mount of the kernel's own
// NFS server, in turns. It prints the seconds that each took in each turn, by the number of
// files in the trees.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/test/vm"
)

func main() {
	var sizes []int
	flag.Func("files", "the `number` of files in the trees of a size; for several sizes, several times", func(text string) error {
		files, err := strconv.Atoi(text)
		sizes = append(sizes, files)
		return err
	})
	turns := flag.Int("turns", 1, "the `number` of trees of each size that each removes")
	flag.Parse()
	if err := run(context.Background(), sizes, *turns, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "purges:", err)
		os.Exit(1)
	}
}

// Turn is what the two took for trees of the same files, in seconds.
type Turn struct {
	Files int     `json:"files"`
	Purge float64 `json:"purge"`
	RM    float64 `json:"rm"`
}

const (
	disk  = "/srv/disk"  // where the server has it
	share = "/srv/share" // where it is mounted
)

func run(ctx context.Context, sizes []int, turns int, out io.Writer) error {
	if err := vm.MountNew(ctx, vm.Here{}, vm.XFS, disk, 2<<30); err != nil {
		return err
	}
	if err := mountShare(ctx); err != nil {
		return err
	}
	b, err := dir.Open(ctx, share, dir.Options{})
	if err != nil {
		return err
	}
	var all []Turn
	for i := range turns + 1 {
		if i == 1 {
			all = nil // without the first turns, which find nothing in any cache
		}
		for _, files := range sizes {
			t := Turn{Files: files}
			name := fmt.Sprintf("%d-%d", files, i)
			purge := func() (err error) { t.Purge, err = purge(ctx, b, "pvc-"+name, files); return err }
			rm := func() (err error) { t.RM, err = rm(ctx, "plain-"+name, files); return err }
			// Who is first in a turn may pay for what the one before has left to write.
			both := []func() error{purge, rm}
			if err := errors.Join(both[i%2](), both[1-i%2]()); err != nil {
				return err
			}
			all = append(all, t)
		}
	}
	return errors.Join(json.NewEncoder(out).Encode(all), b.Close())
}

// mountShare exports the disk by the kernel's server and mounts it.
func mountShare(ctx context.Context) error {
	if err := vm.StartNFSD(ctx, vm.Here{}); err != nil {
		return err
	}
	const script = `
exportfs -o rw,no_root_squash,no_subtree_check,fsid=1 127.0.0.1:"$1"
mkdir -p "$2"
mount -t nfs -o vers=4.2,softerr 127.0.0.1:"$1" "$2"`
	if _, err := (vm.Here{}).Run(ctx, "sh", "-ec", script, "sh", disk, share); err != nil {
		return fmt.Errorf("mounting the share: %w", err)
	}
	return nil
}

// purge has the backend remove a tree.
func purge(ctx context.Context, b *dir.Backend, name string, files int) (seconds float64, err error) {
	n, err := volume.ParseName(name)
	if err != nil {
		return 0, err
	}
	v, err := b.Create(ctx, volume.Spec{
		Name: n, Path: n.RelPath(), Size: 1 << 20, Claim: volume.Claim{Namespace: "bench", Name: name, UID: name},
		Owner: volume.Owner{Mode: 0o777}, Export: volume.ExportRef{ID: 1, FSID: export.NewFSID(name), Path: "/" + name, Squash: export.SquashNone},
	})
	if err != nil {
		return 0, err
	}
	if err := fill(filepath.Join(disk, v.Path.String()), files); err != nil {
		return 0, err
	}
	if err := b.Discard(ctx, n); err != nil {
		return 0, err
	}
	return measure(func() error { return b.Purge(ctx, n) })
}

// rm has rm(1) do so.
func rm(ctx context.Context, name string, files int) (seconds float64, err error) {
	if err := os.Mkdir(filepath.Join(disk, name), 0o777); err != nil {
		return 0, err
	}
	if err := fill(filepath.Join(disk, name), files); err != nil {
		return 0, err
	}
	return measure(func() error {
		_, err := (vm.Here{}).Run(ctx, "rm", "-rf", filepath.Join(share, name))
		return err
	})
}

// perFolder is how many files a folder of a tree has.
const perFolder = 500

// fill makes a tree, on the server's side, and has it reach the disk.
func fill(top string, files int) error {
	folder := ""
	for i := range files {
		if i%perFolder == 0 {
			folder = filepath.Join(top, fmt.Sprintf("a%d/b/c", i/perFolder))
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("file-%d", i)), []byte("content"), 0o644); err != nil {
			return err
		}
	}
	unix.Sync()
	return nil
}

func measure(remove func() error) (seconds float64, err error) {
	start := time.Now()
	err = remove()
	return time.Since(start).Seconds(), err
}
