package copytree

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

const (
	// blockSize is how much is read and written at a time.
	blockSize = 1 << 20
	// rangeSize is how much the kernel is told to copy at a time.
	rangeSize = 16 << 20
)

// data copies the contents of a file as large as s says, which may change meanwhile: it is
// not run after when it grows. op says what an error is about.
func (c *copier) data(from, to int, s *unix.Statx_t) (op string, err error) {
	size := int64(s.Size)
	if size == 0 {
		return "", nil
	}
	if done, err := c.share(from, to); err != nil {
		return "sharing the blocks of", err
	} else if done {
		c.shared.Add(1)
		c.progress.Bytes.Add(min(size, int64(s.Blocks)*512))
		return "", nil
	}
	var end int64 // of what is written
	// A small file that has a block has no hole.
	whole := size <= int64(s.Blksize) && s.Blocks > 0
	for at := int64(0); at < size; at = end {
		start := at
		if end = size; !whole {
			if start, end, err = c.segment(from, at, size); err != nil {
				return "finding the holes of", err
			}
		}
		if start == size {
			break
		}
		written, op, err := c.copyRange(from, to, start, end)
		if errors.Is(err, io.EOF) {
			return "writing the copy of", resize(to, written)
		}
		if err != nil {
			return op, err
		}
		if written == size {
			return "", nil
		}
	}
	// It ends with a hole, or was cut off.
	now, err := stat(from)
	if err != nil {
		return "looking at", err
	}
	return "writing the copy of", resize(to, min(size, int64(now.Size)))
}

func resize(to int, size int64) error {
	return again(func() error { return unix.Ftruncate(to, size) })
}

// share has to share all blocks of from. Both being on one file system that can do that,
// a file may still be none that it can do that with.
func (c *copier) share(from, to int) (done bool, err error) {
	if c.sharing == ShareNever || c.noShare.Load() {
		return false, nil
	}
	err = again(func() error { return unix.IoctlFileClone(to, from) })
	if err == nil || isFull(err) || errors.Is(err, unix.EIO) {
		return err == nil, err
	}
	if c.sharing == ShareAlways {
		return false, fmt.Errorf("%w: %w", ErrCannotShare, err)
	}
	if cannot(err) {
		c.noShare.Store(true)
	}
	return false, nil
}

// isFull says that there is no room for more in the target.
func isFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// cannot says that it will be the same with other files.
func cannot(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.ENOSYS)
}

// segment gives the next part of a file with data in it, at at or after it. start is size
// if there is none.
func (c *copier) segment(from int, at, size int64) (start, end int64, err error) {
	if c.noHoles.Load() {
		return at, size, nil
	}
	start, err = unix.Seek(from, at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size, nil
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP):
		c.noHoles.Store(true)
		return at, size, nil
	case err != nil:
		return 0, 0, err
	}
	if start >= size { // it has grown
		return size, size, nil
	}
	end, err = unix.Seek(from, start, unix.SEEK_HOLE)
	if errors.Is(err, unix.ENXIO) { // it was cut off, which reading will tell
		return start, size, nil
	}
	if err == nil && end <= start { // a hole was made there just now
		end = start + blockSize
	}
	return start, min(end, size), err
}

// copyRange copies what is in a file from at to end, and gives where it has come to. io.EOF:
// the file ends there.
func (c *copier) copyRange(from, to int, at, end int64) (came int64, op string, err error) {
	for at < end {
		if err := c.ctx.Err(); err != nil {
			return at, "", err
		}
		n, op, err := c.copyBlock(from, to, at, end-at)
		c.progress.Bytes.Add(int64(n))
		at += int64(n)
		if err != nil {
			return at, op, err
		}
	}
	return at, "", nil
}

// copyBlock copies some bytes, at most so many.
func (c *copier) copyBlock(from, to int, at, most int64) (n int, op string, err error) {
	if c.sharing != ShareNever && !c.noRange.Load() {
		in, out := at, at
		err := again(func() (err error) {
			n, err = unix.CopyFileRange(from, &in, to, &out, int(min(most, rangeSize)), 0)
			return err
		})
		switch {
		case isFull(err):
			return 0, "writing the copy of", err
		case cannot(err):
			c.noRange.Store(true)
		case err == nil && n > 0:
			return n, "", nil
		}
		// Reading tells whether the file ends here, and whose error it is.
	}
	block := c.block()
	defer c.buffers.Put(block)
	err = again(func() (err error) {
		n, err = unix.Pread(from, (*block)[:min(most, blockSize)], at)
		return err
	})
	if err != nil {
		return 0, "reading", err
	}
	if n == 0 {
		return 0, "", io.EOF
	}
	for done := 0; done < n; {
		var w int
		err := again(func() (err error) {
			w, err = unix.Pwrite(to, (*block)[done:n], at+int64(done))
			return err
		})
		if err != nil {
			return done, "writing the copy of", err
		}
		done += w
	}
	return n, "", nil
}

func (c *copier) block() *[]byte {
	if b, ok := c.buffers.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, blockSize)
	return &b
}
