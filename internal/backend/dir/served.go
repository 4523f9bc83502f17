package dir

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/volume"
)

// LimitServer is a quota that the administrator of a share's server has given a
// directory. It is seen by the size that the server shows for that (statfs(2)): the
// kernel's shows the limit of an xfs or ext4 project, others that of a file system or
// tree quota of their own. Berth cannot change it.
const LimitServer volume.Limit = "server's quota"

// served makes directories on a share, which its server may limit.
type served struct{ plain }

func isNFS(dir *os.File) (bool, error) {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &s); err != nil {
		return false, &os.PathError{Op: "statfs", Path: dir.Name(), Err: err}
	}
	return s.Type == unix.NFS_SUPER_MAGIC, nil
}

// errShare is why sizes on a share are advisory in general.
var errShare = errors.New("the volumes are on a share, whose server sets quotas or does not: what limits a volume there is found out for each")

// shown gives what the server shows for a directory, and whether that is its own.
func (l served) shown(dir *os.File) (u volume.Usage, own bool, err error) {
	var of, all unix.Statfs_t
	if err := errors.Join(unix.Fstatfs(int(dir.Fd()), &of), unix.Fstatfs(int(l.b.rootDir.Fd()), &all)); err != nil {
		return u, false, &os.PathError{Op: "statfs", Path: dir.Name(), Err: err}
	}
	u, own = shown(of, all)
	return u, own, nil
}

// shown compares what is shown for a directory and for all.
func shown(of, all unix.Statfs_t) (u volume.Usage, own bool) {
	bytes, allBytes := of.Blocks*uint64(of.Bsize), all.Blocks*uint64(all.Bsize)
	if bytes == allBytes || bytes == 0 {
		return u, false
	}
	u.LimitBytes, u.Bytes = bytes, (of.Blocks-min(of.Bfree, of.Blocks))*uint64(of.Bsize)
	if of.Files != all.Files && of.Files > 0 {
		u.LimitInodes, u.Inodes = of.Files, of.Files-min(of.Ffree, of.Files)
	}
	return u, true
}

func (l served) usage(v volume.Volume) (volume.Usage, error) {
	d, err := l.b.openTree(v)
	if err != nil {
		return volume.Usage{}, err
	}
	defer d.Close()
	u, own, err := l.shown(d)
	if err == nil && !own {
		err = fmt.Errorf("%w: the server does not limit it any more", volume.ErrUnsupported)
	}
	return u, err
}

// limit finds a quota that was there before the volume: of a directory that was taken
// over, or that the server gives to each.
func (l served) limit(v *volume.Volume, built *os.File) error {
	_, own, err := l.shown(built)
	if own {
		v.Limit = LimitServer
	}
	return err
}

// notice finds one that was set, or taken back, since then.
func (l served) notice(v *volume.Volume) error {
	d, err := l.b.openTree(*v)
	if errors.Is(err, unix.ENOENT) { // discarded, archived, or not made yet
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	v.Limit = volume.LimitNone
	return l.limit(v, d)
}

// resize leaves it to the server's administrator to raise the quota.
func (l served) resize(v volume.Volume) error {
	u, err := l.usage(v)
	if err != nil {
		return err
	}
	if uint64(v.Size) > u.LimitBytes || v.Inodes > 0 && uint64(v.Inodes) > u.LimitInodes {
		return fmt.Errorf("%w: its server limits it to %d bytes and %d files (0: as many as there is room for); "+
			"its administrator has to raise that first, to %d bytes at least", volume.ErrNoSpace, u.LimitBytes, u.LimitInodes, v.Size)
	}
	return nil
}
