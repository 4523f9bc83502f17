package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/vm"
	"github.com/berth-storage/berth/test/zfsfuse"
)

// storage is a kind of storage with a way to start a Berth on it.
type storage struct {
	name  string
	start func(*bench, context.Context, string) (*served, error)
}

// btrfs is the storage of the metrics that do not say which.
const btrfs = "btrfs"

var storages = []storage{
	{btrfs, (*bench).onBtrfs},
	{"ext4", (*bench).onExt4},
	{"zfs_fuse", (*bench).onZFSFuse},
	{"xfs", (*bench).onXFS},
	{"openzfs", (*bench).onOpenZFS},
}

// poolBytes is the size of each pool. Only what is written to is used.
const poolBytes = 4 << 30

// served is a storage that a Berth serves.
type served struct {
	vm.Runner // where it is
	program
	folder string // where the directories of volumes are, by the names of their PersistentVolumes
	url    string // of Berth's metrics
	stop   func() error
}

// purges is how many things Berth has deleted to the last, with nothing of them left.
func (s *served) purges(ctx context.Context) (float64, error) {
	text, err := (&harness.Berth{URL: s.url}).Metrics(ctx)
	if err != nil {
		return 0, err
	}
	h, err := parseHistogram(text, "berth_volume_operation_seconds", `operation="purge"`, `result="ok"`)
	return h.total(), err
}

func (b *bench) onBtrfs(ctx context.Context, provisioner string) (*served, error) {
	return b.onBtrfsOf(ctx, provisioner, poolBytes)
}

func (b *bench) onBtrfsOf(ctx context.Context, provisioner string, size int64) (*served, error) {
	return b.onFileSystem(ctx, provisioner, vm.FileSystem{Kind: "btrfs"}, size, "btrfs", "quota", "enable")
}

// onExt4 is without quotas, which the kernel here may not have.
func (b *bench) onExt4(ctx context.Context, provisioner string) (*served, error) {
	return b.onFileSystem(ctx, provisioner, vm.FileSystem{Kind: "ext4"}, poolBytes, "true")
}

// onFileSystem has Berth serve a new file system of this host, after a command with its
// root as the last argument.
func (b *bench) onFileSystem(ctx context.Context, provisioner string, fs vm.FileSystem, size int64, prepare ...string) (_ *served, err error) {
	root, err := b.newPool()
	if err != nil {
		return nil, err
	}
	host := vm.Here{}
	if err := vm.MountNew(ctx, host, fs, root, size); err != nil {
		return nil, err
	}
	unmount := func() error {
		_, err := host.Run(context.WithoutCancel(ctx), "umount", "--recursive", root)
		return err
	}
	if _, err := host.Run(ctx, append(prepare, root)...); err != nil {
		return nil, errors.Join(err, unmount())
	}
	return b.serveHere(ctx, harness.Options{Root: root, Provisioner: provisioner}, root, unmount)
}

// serveHere starts a Berth on this host; after it is for when it has ended.
func (b *bench) serveHere(ctx context.Context, o harness.Options, folder string, after func() error) (_ *served, err error) {
	berth, err := b.startBerthWith(o)
	if err == nil {
		if err = berth.Ready(ctx); err != nil {
			berth.Kill()
		}
	}
	if err != nil {
		return nil, errors.Join(err, after())
	}
	stop := func() error {
		err := berth.Stop()
		berth.Kill()
		return errors.Join(err, after())
	}
	return &served{Runner: vm.Here{}, program: berth.Process, folder: folder, url: berth.URL, stop: stop}, nil
}

func (b *bench) onZFSFuse(ctx context.Context, provisioner string) (*served, error) {
	folder, err := os.MkdirTemp(b.folder, "")
	if err != nil {
		return nil, err
	}
	daemon, err := zfsfuse.Start(folder)
	if err != nil {
		return nil, err
	}
	top, err := daemon.Create("bench", poolBytes)
	if err == nil {
		_, err = zfsfuse.Run("zfs", "create", "bench/volumes")
	}
	if err != nil {
		return nil, errors.Join(err, daemon.Stop())
	}
	o := harness.Options{Storage: "zfs: {dataset: bench/volumes, sizing: quota}", Pool: "exporter: ganesha", Provisioner: provisioner}
	return b.serveHere(ctx, o, filepath.Join(top, "volumes"), daemon.Stop)
}

// onXFS has Berth in the test VM, whose kernel has quotas of XFS.
func (b *bench) onXFS(ctx context.Context, provisioner string) (*served, error) {
	const root = "/srv/xfs"
	return b.onGuest(ctx, vm.Options{}, "{name: local, provisioner: "+provisioner+", dir: {root: "+root+"}, exporter: kernel}", root, func(guest *vm.Guest) error {
		return vm.MountNew(ctx, guest, vm.XFS, root, poolBytes)
	})
}

// onOpenZFS has Berth in the test VM, and ZFS share datasets by itself.
func (b *bench) onOpenZFS(ctx context.Context, provisioner string) (*served, error) {
	const tank = "tank"
	pool := "{name: local, provisioner: " + provisioner + ", zfs: {dataset: " + tank + "/volumes, sizing: quota, shareOptions: \"rw=@127.0.0.0/8\"}}"
	return b.onGuest(ctx, vm.Options{ZFS: true}, pool, path.Join("/", tank, "volumes"), func(guest *vm.Guest) error {
		if err := vm.NewPool(ctx, guest, tank, poolBytes); err != nil {
			return err
		}
		_, err := guest.Run(ctx, "zfs", "create", tank+"/volumes")
		return err
	})
}

func (b *bench) onGuest(ctx context.Context, options vm.Options, pool, folder string, prepare func(*vm.Guest) error) (_ *served, err error) {
	options.Log = os.Stdout
	guest, err := vm.Start(ctx, options)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, guest.Stop())
		}
	}()
	if err := vm.StartNFSD(ctx, guest); err != nil {
		return nil, err
	}
	if err := prepare(guest); err != nil {
		return nil, err
	}
	const config = "berth.yaml"
	text := fmt.Sprintf("pools: [%[1]s]\nserver: {hostname: %[2]s}\nhttp: {listen: \"%[2]s:9421\"}\nkubernetes: {kubeconfig: %[3]s}\n", pool, guest.Address, guestKubeconfig)
	if err := os.WriteFile(filepath.Join(guest.Shared, config), []byte(text), 0o600); err != nil {
		return nil, err
	}
	berth, err := b.startInGuest(ctx, guest, vm.Command{Args: []string{"serve", "--config", path.Join("/host", config)}})
	if err != nil {
		return nil, err
	}
	stop := func() error { return errors.Join(berth.stop(), guest.Stop()) }
	return &served{Runner: guest, program: berth, folder: folder, url: fmt.Sprintf("http://%s:9421", guest.Address), stop: stop}, nil
}
