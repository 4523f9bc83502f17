package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// controlFolder is where the kernel's NFS server is controlled; see nfsd(7).
const controlFolder = "/proc/fs/nfsd"

// lostLease is the status of a client whose lease ran out. What it has open the server keeps for it,
// for a day, until somebody else wants it (nfsd of Linux 5.19 and later).
var lostLease = regexp.MustCompile(`(?m)^status: (courtesy|expirable)$`)

// Release has the kernel's NFS server, which answers at address, let go of the file system of a
// device, so that it can be unmounted and destroyed: nobody exports it any more. It is mounted at dir,
// or was. The server forgets what it remembers of dir, gives up the locks of NFSv3 there, and what clients have open
// that are gone. What clients have open that are alive they keep.
func Release(ctx context.Context, address, dir string, device uint64) error {
	err := caches{folder: cachesFolder, address: address}.forget(ctx, map[string]bool{dir: true})
	var at unix.Stat_t
	if unix.Stat(dir, &at) == nil && at.Dev == device { // or it would be another's locks
		err = errors.Join(err, control(filepath.Join(controlFolder, "unlock_filesystem"), escape(dir)+"\n"))
	}
	return errors.Join(err, dropLost(filepath.Join(controlFolder, "clients"), device))
}

// dropLost ends the clients that lost their lease and have something open on a device.
func dropLost(folder string, device uint64) error {
	clients, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no server, or one of before Linux 5.3
	}
	if err != nil {
		return fmt.Errorf("the clients of the kernel's NFS server: %w", err)
	}
	superblock := fmt.Sprintf(`superblock: "%02x:%02x:`, unix.Major(device), unix.Minor(device))
	var failed []error
	for _, c := range clients {
		client := filepath.Join(folder, c.Name())
		info, infoErr := os.ReadFile(filepath.Join(client, "info"))
		states, statesErr := os.ReadFile(filepath.Join(client, "states"))
		switch err := errors.Join(infoErr, statesErr); {
		case errors.Is(err, fs.ErrNotExist): // it has gone meanwhile
		case err != nil:
			failed = append(failed, err)
		case lostLease.Match(info) && strings.Contains(string(states), superblock):
			failed = append(failed, control(filepath.Join(client, "ctl"), "expire\n"))
		}
	}
	return errors.Join(failed...)
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
