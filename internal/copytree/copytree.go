// Package copytree copies all that lies below one open directory into another one: what
// a copy of a volume stands on, be that a snapshot, a restored or a cloned one.
//
// A tenant who controls the source may change it while it is copied. Nothing outside of
// it is read, and nothing outside of the target is written: each name is opened alone, in
// an open directory, by openat2(2) without links and mounts, and what kind of file it is
// is asked of the open file. Whatever was there at one moment or another is copied; what
// vanished before its turn is left out.
//
// Kept are contents, holes, hard links within the tree, symbolic links, FIFOs, sockets,
// devices, owner, group, mode, access and modification times, and extended attributes, which
// POSIX ACLs and file capabilities are among. Of inode flags only "no copy on write" of
// btrfs is kept. Immutable and append-only files become ordinary ones: tenants cannot make
// any by NFS, and a copy with such files could not be deleted. Times of creation and of
// the last change of an inode, encryption and verity cannot be kept.
package copytree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Sharing says whether files of the copy use the same blocks as those of the source until
// one of them is written to (reflink, see ioctl_ficlone(2)). That takes the same short
// time for a file of any size.
type Sharing int

const (
	// ShareIfPossible shares blocks where the file system can, and copies them elsewhere.
	ShareIfPossible Sharing = iota
	// ShareAlways fails with ErrCannotShare where blocks cannot be shared.
	ShareAlways
	// ShareNever reads and writes all data.
	ShareNever
)

// ErrCannotShare says that a file's blocks cannot be shared, as ShareAlways wants it.
var ErrCannotShare = errors.New("the file system cannot share the blocks of this file")

// Options say how to copy.
type Options struct {
	Sharing Sharing
	// Progress is told what is copied while a copy is at work, if it is not nil.
	Progress Progress
}

// Progress counts what is copied, as Copied does. Several goroutines call it at the same time.
type Progress interface {
	Add(files, bytes int64)
}

// Copied says what a copy is made of.
type Copied struct {
	Files int64 // names: of files, folders, links and all else
	Bytes int64 // of data that was read, or is shared; holes are none
	// Shared are the files that share their blocks with the source.
	Shared int64
	// Lost is what the copy lacks, because the target's file system or the capabilities of
	// this process do not allow it.
	Lost []Loss
}

// Loss is one kind of thing that the copy lacks. These are devices without CAP_MKNOD,
// extended attributes that the target's file system has not (EOPNOTSUPP) or does not understand
// (EINVAL), or that need a capability (CAP_SETFCAP for security.capability, CAP_SYS_ADMIN for trusted.*; those this process does not
// even see without it), and setuid and setgid bits without CAP_FSETID.
type Loss struct {
	What  string // "devices", "attributes user.*"
	Count int64  // on how many files
	Path  string // of the first one, below the source
	Err   error  // why, for the first one
}

func (l Loss) String() string {
	return fmt.Sprintf("%s of %d files, the first is %s: %v", l.What, l.Count, quote(l.Path), l.Err)
}

// Lacks is an error that says what the copy lacks and what to do about it; nil if it is whole.
func (c Copied) Lacks() error {
	if len(c.Lost) == 0 {
		return nil
	}
	var lost []string
	for _, l := range c.Lost {
		lost = append(lost, l.String())
	}
	return fmt.Errorf("the copy would lack %s; Berth needs the capabilities for that (MKNOD for devices, SETFCAP for file capabilities, "+
		"FSETID for setgid bits)", strings.Join(lost, "; "))
}

// Error is a step that failed. Err is the reason: ENOSPC and EDQUOT say that the target
// is full.
type Error struct {
	Op   string // what was being done, "reading"
	Path string // to what, below the source
	Err  error
}

func (e *Error) Error() string { return fmt.Sprintf("%s %s: %v", e.Op, quote(e.Path), e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// quote makes a path fit for a message: it may be long, and of any bytes.
func quote(path string) string {
	const most = 300
	if len(path) > most {
		path = path[:most/2] + "..." + path[len(path)-most/2:]
	}
	return fmt.Sprintf("%q", path)
}

// ErrNotEmpty says that there is something in the target already: what a copy that was cut
// off left there is to be removed first.
var ErrNotEmpty = errors.New("the folder to copy to is not empty")

// Copy copies what is below the directory from into to, which has to be empty, and gives
// to itself the owner, mode, times and attributes of from at the end. It needs /proc.
//
// Before it starts it writes the source's file system to the disk (syncfs(2), also to
// find holes in what was written just now), and the target's before it returns: then
// the copy is durable. The context is looked at before each file and block, not during these.
//
// An error leaves what was copied so far. Most of them are an *Error. The names in
// one folder are held in memory, and so is each file with several names until
// all of them were met: ErrTooMuch if these are millions, or folders lie in each other by thousands.
func Copy(ctx context.Context, from, to *os.File, o Options) (Copied, error) {
	c := newCopier(ctx, o)
	err := c.copy(from, to)
	done := Copied{
		Files: c.names.Load(), Bytes: c.bytes.Load(), Shared: c.shared.Load(), Lost: c.losses(),
	}
	return done, err
}

// ErrTooMuch says that what is to be copied has more of something than this process has room for.
var ErrTooMuch = errors.New("it is more than Berth copies")

// limits are what a tenant could make without end, and a copy has to remember.
type limits struct {
	depth int // of folders in each other
	names int // in one folder
	links int // files that have names which were not met yet
}

// most is far beyond what people have: programs reach 2,047 folders by one path.
var most = limits{depth: 8192, names: 4 << 20, links: 4 << 20}

func newCopier(ctx context.Context, o Options) *copier {
	return &copier{ctx: ctx, sharing: o.Sharing, progress: o.Progress, most: most, linked: map[identity]*linked{}, lost: map[string]*Loss{}}
}

// copier is at work on one copy.
type copier struct {
	ctx      context.Context
	sharing  Sharing
	progress Progress
	most     limits
	// What Copied has.
	names, bytes, shared atomic.Int64
	target               identity // of the folder to copy to
	onBtrfs              bool     // source and target
	buffers              sync.Pool

	// What was found out not to work is not tried for each file.
	noShare, noRange, noHoles atomic.Bool

	linkMu sync.Mutex // held while a file with several names is copied
	linked map[identity]*linked

	lostMu sync.Mutex
	lost   map[string]*Loss
}

// count counts what was copied.
func (c *copier) count(files, bytes int64) {
	c.names.Add(files)
	c.bytes.Add(bytes)
	if c.progress != nil {
		c.progress.Add(files, bytes)
	}
}

func (c *copier) copy(from, to *os.File) (err error) {
	top := &folder{}
	defer top.close()
	// Opened anew: the caller's own are read from where they stand.
	for side, dir := range map[side]*os.File{source: from, target: to} {
		if top.open[side], err = openFolder(dir, "."); err != nil {
			return fmt.Errorf("opening %s: %w", dir.Name(), err)
		}
	}
	if err := c.look(top); err != nil {
		return err
	}
	if err := syncfs(top.open[source]); err != nil {
		return err
	}
	if err := c.folder(top); err != nil {
		return err
	}
	return syncfs(top.open[target])
}

// look finds out about the folders to copy from and to.
func (c *copier) look(top *folder) error {
	from, err := stat(int(top.open[source].Fd()))
	if err != nil {
		return fmt.Errorf("looking at %s: %w", top.open[source].Name(), err)
	}
	to, err := stat(int(top.open[target].Fd()))
	if err != nil {
		return fmt.Errorf("looking at %s: %w", top.open[target].Name(), err)
	}
	top.stat, c.target = from, identityOf(&to)
	if _, err := top.open[target].Readdirnames(1); err == nil {
		return fmt.Errorf("%w: %s", ErrNotEmpty, top.open[target].Name())
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	// All that is made there would have the default one else, and the source may have none.
	for _, acl := range []string{"system.posix_acl_default", "system.posix_acl_access"} {
		if n, err := unix.Fgetxattr(int(top.open[target].Fd()), acl, nil); err != nil || n == 0 {
			continue // a server that has no ACLs may also fail to remove one (NFS-Ganesha, NFSv3)
		}
		err := unix.Fremovexattr(int(top.open[target].Fd()), acl)
		if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("removing the ACL of %s: %w", top.open[target].Name(), err)
		}
	}
	c.onBtrfs = isBtrfs(top.open[source]) && isBtrfs(top.open[target])
	return nil
}

func isBtrfs(dir *os.File) bool {
	var s unix.Statfs_t
	return unix.Fstatfs(int(dir.Fd()), &s) == nil && s.Type == unix.BTRFS_SUPER_MAGIC
}

func syncfs(dir *os.File) error {
	if err := again(func() error { return unix.Syncfs(int(dir.Fd())) }); err != nil {
		return fmt.Errorf("writing the file system of %s to the disk: %w", dir.Name(), err)
	}
	return nil
}

// lose notes that the copy of a file lacks something.
func (c *copier) lose(what string, f *folder, name string, err error) {
	c.lostMu.Lock()
	defer c.lostMu.Unlock()
	l := c.lost[what]
	if l == nil {
		l = &Loss{What: what, Path: f.pathOf(name), Err: err}
		c.lost[what] = l
	}
	l.Count++
}

func (c *copier) losses() []Loss {
	var all []Loss
	for _, what := range sortedKeys(c.lost) {
		all = append(all, *c.lost[what])
	}
	return all
}
