// Command purges measures, in the test VM, how fast deleted volumes on a share are freed,
// against rm -rf: both remove trees of the same files from one mount of the kernel's own
// NFS server, in turns. It prints the files removed a second, of each turn.
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
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/test/vm"
)

func main() {
	files := flag.Int("files", 1000, "the `number` of files in a tree")
	turns := flag.Int("turns", 1, "the `number` of trees that each removes")
	flag.Parse()
	if err := run(context.Background(), *files, *turns, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "purges:", err)
		os.Exit(1)
	}
}

// Speeds are files removed a second.
type Speeds struct {
	Purge []float64 `json:"purge"`
	RM    []float64 `json:"rm"`
}

const (
	disk  = "/srv/disk"  // where the server has it
	share = "/srv/share" // where it is mounted
)

func run(ctx context.Context, files, turns int, out io.Writer) error {
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
	var s Speeds
	for i := range turns + 1 {
		if i == 1 {
			s = Speeds{} // without the first turn, which finds nothing in any cache
		}
		// Who is first in a turn may pay for what the one before has left to write.
		purge := func() error { return purge(ctx, b, fmt.Sprint("pvc-", i), files, &s.Purge) }
		rm := func() error { return rm(ctx, fmt.Sprint("plain-", i), files, &s.RM) }
		both := []func() error{purge, rm}
		if err := errors.Join(both[i%2](), both[1-i%2]()); err != nil {
			return err
		}
	}
	return errors.Join(json.NewEncoder(out).Encode(s), b.Close())
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
func purge(ctx context.Context, b *dir.Backend, name string, files int, speeds *[]float64) error {
	n, err := volume.ParseName(name)
	if err != nil {
		return err
	}
	v, err := b.Create(ctx, volume.Spec{
		Name: n, Path: n.RelPath(), Size: 1 << 20, Claim: volume.Claim{Namespace: "bench", Name: name, UID: name},
		Owner: volume.Owner{Mode: 0o777}, Export: volume.ExportRef{ID: 1, FSID: export.NewFSID(name), Path: "/" + name, Squash: export.SquashNone},
	})
	if err != nil {
		return err
	}
	if err := fill(filepath.Join(disk, v.Path.String()), files); err != nil {
		return err
	}
	if err := b.Discard(ctx, n); err != nil {
		return err
	}
	return measure(files, speeds, func() error { return b.Purge(ctx, n) })
}

// rm has rm(1) do so.
func rm(ctx context.Context, name string, files int, speeds *[]float64) error {
	if err := os.Mkdir(filepath.Join(disk, name), 0o777); err != nil {
		return err
	}
	if err := fill(filepath.Join(disk, name), files); err != nil {
		return err
	}
	return measure(files, speeds, func() error {
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

func measure(files int, speeds *[]float64, remove func() error) error {
	start := time.Now()
	if err := remove(); err != nil {
		return err
	}
	*speeds = append(*speeds, float64(files)/time.Since(start).Seconds())
	return nil
}
