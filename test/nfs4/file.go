package nfs4

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
)

// File is an open file. Its methods may be called from several goroutines; one
// runs at a time.
type File struct {
	c    *Client
	path string
	open *openState

	// turn is a mutex that one can stop waiting for, around the fields below.
	turn     chan struct{}
	unstable unstable
	closed   bool
}

// Open opens the file at path for reading.
func (c *Client) Open(ctx context.Context, path string) (*File, error) {
	return c.OpenFile(ctx, path, os.O_RDONLY, 0)
}

// Create makes the file at path, or empties the one that is there, and opens it
// for reading and writing.
func (c *Client) Create(ctx context.Context, path string, mode uint32) (*File, error) {
	return c.OpenFile(ctx, path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, mode)
}

// OpenFile opens the file at path. Of the flags of package os it knows
// O_RDONLY, O_WRONLY, O_RDWR, O_CREATE and, together with O_CREATE, O_TRUNC. If
// ctx ends while the server may be opening the file, the server keeps it open
// until the client is closed and its lease runs out.
func (c *Client) OpenFile(ctx context.Context, path string, flag int, mode uint32) (*File, error) {
	dirs, name, err := splitPath(path)
	if err != nil {
		return nil, pathError("open", path, err)
	}
	access, create, err := openFlags(flag, mode)
	if err != nil {
		return nil, pathError("open", path, err)
	}
	open := &openState{owner: c.owners.take(), access: access, dirs: dirs, name: name}
	err = c.run(ctx, func(ctx context.Context) error {
		err := c.claim(ctx, open, create)
		if err == nil {
			c.opens[open] = struct{}{}
		}
		return err
	})
	if err != nil {
		c.owners.release(open.owner, err)
		return nil, pathError("open", path, err)
	}
	return &File{c: c, path: path, open: open, turn: make(chan struct{}, 1)}, nil
}

// openFlags translates flags of package os.
func openFlags(flag int, mode uint32) (access uint32, create *createArgs, err error) {
	switch flag & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR) {
	case os.O_RDONLY:
		access = accessRead
	case os.O_WRONLY:
		access = accessWrite
	case os.O_RDWR:
		access = accessRead | accessWrite
	}
	rest := flag &^ (os.O_RDONLY | os.O_WRONLY | os.O_RDWR)
	switch rest {
	case 0:
	case os.O_CREATE, os.O_CREATE | os.O_TRUNC:
		create = &createArgs{mode: mode, truncate: rest&os.O_TRUNC != 0}
	default:
		return 0, nil, errors.ErrUnsupported
	}
	return access, create, nil
}

// WriteAt writes p at offset. The server may lose the data until Sync or Close
// returns, and the File keeps a copy of it until then.
func (f *File) WriteAt(ctx context.Context, p []byte, offset int64) (n int, err error) {
	err = f.exclusive(ctx, "write", func() error {
		if offset < 0 {
			return ErrInval
		}
		for n < len(p) && err == nil {
			var written int
			written, err = f.writeSome(ctx, p[n:], uint64(offset)+uint64(n))
			n += written
		}
		return err
	})
	return n, err
}

// writeSome writes as much of p as fits into one request.
func (f *File) writeSome(ctx context.Context, p []byte, offset uint64) (int, error) {
	var n int
	err := f.run(ctx, func(ctx context.Context) error {
		part := p[:min(len(p), f.c.lease.maxWrite)]
		res, err := f.sendWrite(ctx, part, offset)
		if err == nil {
			n = res.n
			f.unstable.add(extent{offset, part[:n]}, res, f.c.lease.epoch)
		}
		return err
	})
	if err == nil && f.unstable.size > maxUncommitted {
		err = f.commit(ctx)
	}
	return n, err
}

// ReadAt fills p from offset. Like io.ReaderAt it returns io.EOF if the file
// ends before p is full.
func (f *File) ReadAt(ctx context.Context, p []byte, offset int64) (n int, err error) {
	err = f.exclusive(ctx, "read", func() error {
		if offset < 0 {
			return ErrInval
		}
		for n < len(p) {
			var res readResult
			err := f.run(ctx, func(ctx context.Context) error {
				res = readResult{p: p[n:min(len(p), n+f.c.lease.maxRead)]}
				cmp := f.c.newCompound()
				cmp.putFH(f.open.fh)
				cmp.read(f.open.stateID, uint64(offset)+uint64(n), &res)
				return f.c.exchange(ctx, cmp)
			})
			n += res.n
			switch {
			case err != nil:
				return err
			case n < len(p) && res.eof:
				return io.EOF
			case res.n == 0:
				return io.ErrNoProgress
			}
		}
		return nil
	})
	return n, err
}

// Sync returns when everything that was written is on stable storage.
func (f *File) Sync(ctx context.Context) error {
	return f.exclusive(ctx, "sync", func() error { return f.commit(ctx) })
}

// Truncate makes the file size bytes long.
func (f *File) Truncate(ctx context.Context, size int64) error {
	return f.exclusive(ctx, "truncate", func() error {
		if size < 0 {
			return ErrInval
		}
		// Data written before must not be sent again after the file was cut.
		if err := f.commit(ctx); err != nil {
			return err
		}
		return f.run(ctx, func(ctx context.Context) error {
			cmp := f.c.newCompound()
			cmp.putFH(f.open.fh)
			cmp.setAttr(f.open.stateID, attrSize, Attr{Size: uint64(size)})
			return f.c.exchange(ctx, cmp)
		})
	})
}

// Close commits what was written and closes the file. If the server does not
// answer, the file is still open and Close may be called again.
func (f *File) Close(ctx context.Context) error {
	return f.exclusive(ctx, "close", func() error {
		commitErr := f.commit(ctx)
		if commitErr != nil && ctx.Err() != nil {
			return commitErr
		}
		err := f.c.run(ctx, func(ctx context.Context) error { return f.c.closeState(ctx, f.open) })
		f.closed = err == nil || final(err)
		return errors.Join(commitErr, err)
	})
}

// exclusive calls do, which no other method of f runs beside, and completes its
// error.
func (f *File) exclusive(ctx context.Context, op string, do func() error) error {
	var err error
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
		if f.closed {
			err = fs.ErrClosed
		} else {
			err = do()
		}
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if errors.Is(err, io.EOF) {
		return err // as io.ReaderAt wants it
	}
	return pathError(op, f.path, err)
}

// run is Client.run for attempts that need the file open, and the server to
// have what was written so far.
func (f *File) run(ctx context.Context, attempt func(context.Context) error) error {
	return f.c.run(ctx, func(ctx context.Context) error {
		err := f.c.restore(ctx, f.open)
		if err != nil {
			return err
		}
		if err = f.resend(ctx); err == nil {
			err = attempt(ctx)
		}
		if isAny(err, ErrBadStateID, ErrOldStateID) {
			// The lease is good, but the server has dropped this open.
			f.open.phase = phaseReopen
			return retryable{err}
		}
		return err
	})
}
