package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/mountinfo"
)

// controlFolder is where the kernel's NFS server is controlled; see nfsd(7).
const controlFolder = "/proc/fs/nfsd"

// lostLease is the status of a client whose lease ran out. What it has open the server keeps for it,
// for a day, until somebody else wants it (nfsd of Linux 5.19 and later).
var lostLease = regexp.MustCompile(`(?m)^status: (courtesy|expirable)$`)

// superblock is how a client's states name the device that a file of it is on.
var superblock = regexp.MustCompile(`superblock: "([0-9a-f]+):([0-9a-f]+):`)

// Release has the kernel's NFS server, which answers at address, let go of the file system of a
// device, so that it can be unmounted and destroyed. It is mounted at dir, and nobody exports it any more. Device 0:
// it was mounted there, and is mounted nowhere now. The server forgets what it remembers of dir, gives up the locks of
// NFSv3 there, and ends clients that lost their lease and have something open there, or in any file system that is mounted
// nowhere. What clients have open that are alive they keep.
func Release(ctx context.Context, address, dir string, device uint64) error {
	mounts, err := mountinfo.Read()
	if err != nil {
		return err
	}
	err = caches{folder: cachesFolder, address: address}.forget(ctx, map[string]bool{dir: true})
	if device != 0 {
		err = errors.Join(err, control(filepath.Join(controlFolder, "unlock_filesystem"), escape(dir)+"\n"))
	}
	// The number of a device that is mounted nowhere nobody remembers, and it may be another's later.
	return errors.Join(err, dropLost(filepath.Join(controlFolder, "clients"), func(used uint64) bool {
		return used == device || !slices.ContainsFunc(mounts, func(m mountinfo.Mount) bool { return m.Device == used })
	}))
}

// dropLost ends the clients that lost their lease and have something open on devices that are to go.
func dropLost(folder string, toGo func(device uint64) bool) error {
	clients, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no server, or one of before Linux 5.3
	}
	if err != nil {
		return fmt.Errorf("the clients of the kernel's NFS server: %w", err)
	}
	var failed []error
	for _, c := range clients {
		client := filepath.Join(folder, c.Name())
		info, infoErr := os.ReadFile(filepath.Join(client, "info"))
		states, statesErr := os.ReadFile(filepath.Join(client, "states"))
		switch err := errors.Join(infoErr, statesErr); {
		case errors.Is(err, fs.ErrNotExist): // it has gone meanwhile
		case err != nil:
			failed = append(failed, err)
		case lostLease.Match(info) && slices.ContainsFunc(devices(states), toGo):
			failed = append(failed, control(filepath.Join(client, "ctl"), "expire\n"))
		}
	}
	return errors.Join(failed...)
}

// devices are those that a client has something open on, by its states.
func devices(states []byte) (all []uint64) {
	for _, match := range superblock.FindAllSubmatch(states, -1) {
		major, majorErr := strconv.ParseUint(string(match[1]), 16, 32)
		minor, minorErr := strconv.ParseUint(string(match[2]), 16, 32)
		if majorErr == nil && minorErr == nil {
			all = append(all, unix.Mkdev(uint32(major), uint32(minor)))
		}
	}
	return all
}

// control writes to a file of the kernel's that is there as long as the server is.
func control(file, text string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
