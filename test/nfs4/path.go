package nfs4

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
)

// How much of a directory to ask for at once: names and cookies, and in all.
const (
	dirNames = 64 << 10
	dirBytes = 256 << 10
)

// Entry is a directory entry. Its Attr is zero where the server could not read
// the attributes.
type Entry struct {
	Name string
	Attr
}

// splitPath cuts a path below the server's pseudo root into its directories
// and its last name.
func splitPath(path string) (dirs []string, name string, err error) {
	names := pathNames(path)
	if len(names) == 0 {
		return nil, "", ErrInval // the root itself
	}
	last := len(names) - 1
	return names[:last], names[last], nil
}

func pathNames(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// call makes one compound, built anew for each attempt, about path.
func (c *Client) call(ctx context.Context, op, path string, build func(*compound)) error {
	err := c.run(ctx, func(ctx context.Context) error {
		cmp := c.newCompound()
		build(cmp)
		return c.exchange(ctx, cmp)
	})
	return pathError(op, path, err)
}

func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

// echo reports whether err is what the server says when it has already done op
// for a request whose reply was lost. A server that still had the reply in a
// cache would have repeated it, but a restarted one has no cache.
func echo(err error, op opcode, status Status) bool {
	var failed *opError
	return errors.As(err, &failed) && failed.resent && failed.op == op && failed.status == status
}

// Mkdir makes a directory.
func (c *Client) Mkdir(ctx context.Context, path string, mode uint32) error {
	dirs, name, err := splitPath(path)
	if err != nil {
		return pathError("mkdir", path, err)
	}
	err = c.call(ctx, "mkdir", path, func(cmp *compound) {
		cmp.walk(dirs)
		cmp.makeDir(name, mode)
	})
	if echo(err, opCreate, ErrExist) {
		if a, statErr := c.Stat(ctx, path); statErr == nil && a.Type == TypeDirectory {
			return nil
		}
	}
	return err
}

// Remove removes a file or an empty directory.
func (c *Client) Remove(ctx context.Context, path string) error {
	dirs, name, err := splitPath(path)
	if err != nil {
		return pathError("remove", path, err)
	}
	err = c.call(ctx, "remove", path, func(cmp *compound) {
		cmp.walk(dirs)
		cmp.remove(name)
	})
	if echo(err, opRemove, ErrNoEnt) {
		return nil
	}
	return err
}

// Rename moves an object from one path to another, whose object it replaces.
func (c *Client) Rename(ctx context.Context, from, to string) error {
	fromDirs, fromName, err := splitPath(from)
	if err != nil {
		return pathError("rename", from, err)
	}
	toDirs, toName, err := splitPath(to)
	if err != nil {
		return pathError("rename", to, err)
	}
	err = c.call(ctx, "rename", from, func(cmp *compound) {
		cmp.walk(fromDirs)
		cmp.saveFH()
		cmp.walk(toDirs)
		cmp.rename(fromName, toName)
	})
	if echo(err, opRename, ErrNoEnt) {
		// Moved already, if the target is there.
		if _, lookupErr := c.FileHandle(ctx, to); lookupErr == nil {
			return nil
		}
	}
	return err
}

// ReadDir returns all entries of a directory, in the server's order.
func (c *Client) ReadDir(ctx context.Context, path string) ([]Entry, error) {
	fh, err := c.FileHandle(ctx, path)
	if err != nil {
		return nil, err
	}
	// A server may refuse to go on in a directory that changed (RFC 7530 section
	// 16.24.4). In one that changes all the time, three tries are enough.
	for tries := 3; ; tries-- {
		entries, err := c.readDir(ctx, path, fh)
		if tries > 1 && isAny(err, ErrNotSame, ErrBadCookie) {
			continue
		}
		return entries, err
	}
}

func (c *Client) readDir(ctx context.Context, path string, fh handle) ([]Entry, error) {
	var all []Entry
	for page := (dirPage{}); !page.eof; {
		var next dirPage
		err := c.call(ctx, "readdir", path, func(cmp *compound) {
			next = page
			cmp.putFH(fh)
			cmp.readDir(&next)
		})
		if err != nil {
			return nil, err
		}
		all = append(all, next.entries...)
		page = next
	}
	return all, nil
}

// Stat returns the attributes of the object at path. It does not follow
// symbolic links.
func (c *Client) Stat(ctx context.Context, path string) (Attr, error) {
	return c.getAttr(ctx, path, func(cmp *compound) { cmp.walk(pathNames(path)) })
}

// StatHandle returns the attributes of the object with that file handle.
func (c *Client) StatHandle(ctx context.Context, fh []byte) (Attr, error) {
	return c.getAttr(ctx, "(file handle)", func(cmp *compound) { cmp.putFH(fh) })
}

func (c *Client) getAttr(ctx context.Context, path string, locate func(*compound)) (Attr, error) {
	var a Attr
	err := c.call(ctx, "stat", path, func(cmp *compound) {
		a = Attr{}
		locate(cmp)
		cmp.getAttr(statAttrs, &a, &serverAttr{})
	})
	return a, err
}

// FileHandle returns the handle by which the server knows the object at path.
func (c *Client) FileHandle(ctx context.Context, path string) ([]byte, error) {
	var fh handle
	err := c.call(ctx, "lookup", path, func(cmp *compound) {
		cmp.walk(pathNames(path))
		cmp.getFH(&fh)
	})
	return fh, err
}

// Chmod sets the permission bits of the object at path.
func (c *Client) Chmod(ctx context.Context, path string, mode uint32) error {
	return c.call(ctx, "chmod", path, func(cmp *compound) {
		cmp.walk(pathNames(path))
		// The anonymous stateid: no open of ours is concerned.
		cmp.setAttr(stateID{}, attrMode, Attr{Mode: mode})
	})
}

// WriteFile makes the file at path contain data, on stable storage.
func (c *Client) WriteFile(ctx context.Context, path string, data []byte, mode uint32) error {
	f, err := c.OpenFile(ctx, path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(ctx, data, 0)
	return errors.Join(err, f.Close(ctx))
}

// ReadFile returns the contents of the file at path.
func (c *Client) ReadFile(ctx context.Context, path string) ([]byte, error) {
	f, err := c.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	var data []byte
	for part := make([]byte, maxTransfer); err == nil; {
		var n int
		n, err = f.ReadAt(ctx, part, int64(len(data)))
		data = append(data, part[:n]...)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return data, errors.Join(err, f.Close(ctx))
}
