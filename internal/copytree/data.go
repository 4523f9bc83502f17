package copytree

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

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
		c.count(0, min(size, int64(s.Blocks)*512))
		return "", nil
	}
	return c.write(from, to, s)
}

// write copies what is data in a file.
func (c *copier) write(from, to int, s *unix.Statx_t) (op string, err error) {
	size := int64(s.Size)
	// A small file that has a block has no hole.
	whole := size <= int64(s.Blksize) && s.Blocks > 0
	// Not every file system tells where holes are (shares before NFSv4.2 do not): zeros are
	// looked for in a file that takes up less than its size.
	skipZeros := !whole && int64(s.Blocks)*512 < size
	var end int64
	for at := int64(0); at < size; at = end {
		start := at
		if end = size; !whole {
			if start, end, err = c.segment(from, at, size); err != nil {
				return "finding the holes of", err
			}
		}
		if at == 0 && (start > 0 || end < size) {
			skipZeros = false
			// First: for a file that grows XFS allocates more, which would be left in the holes.
			if err := resize(to, size); err != nil {
				return "writing the copy of", err
			}
		}
		if start == size {
			break
		}
		came, op, err := c.copyRange(from, to, start, end, skipZeros)
		if errors.Is(err, io.EOF) {
			return "writing the copy of", resize(to, came)
		}
		if err != nil {
			return op, err
		}
		if came == size && !skipZeros {
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
func (c *copier) copyRange(from, to int, at, end int64, skipZeros bool) (came int64, op string, err error) {
	for at < end {
		if err := c.ctx.Err(); err != nil {
			return at, "", err
		}
		n, op, err := c.copyBlock(from, to, at, end-at, skipZeros)
		c.count(0, int64(n))
		at += int64(n)
		if err != nil {
			return at, op, err
		}
	}
	return at, "", nil
}

// copyBlock copies some bytes, at most so many.
func (c *copier) copyBlock(from, to int, at, most int64, skipZeros bool) (n int, op string, err error) {
	if c.sharing != ShareNever && !skipZeros && !c.noRange.Load() {
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
	return n, "writing the copy of", writeBlock(to, (*block)[:n], at, skipZeros)
}

// pageSize is how large a hole is at least where most file systems could have one.
const pageSize = 4096

func writeBlock(to int, block []byte, at int64, skipZeros bool) error {
	for len(block) > 0 {
		part := block
		if skipZeros { // the parts between pages of zeros
			part = part[:min(pageSize, len(part))]
			if isZero(part) {
				at, block = at+int64(len(part)), block[len(part):]
				continue
			}
			for len(part) < len(block) {
				next := block[len(part):min(len(part)+pageSize, len(block))]
				if isZero(next) {
					break
				}
				part = block[:len(part)+len(next)]
			}
		}
		var n int
		err := again(func() (err error) {
			n, err = unix.Pwrite(to, part, at)
			return err
		})
		if err != nil {
			return err
		}
		at, block = at+int64(n), block[n:]
	}
	return nil
}

func isZero(b []byte) bool { return bytes.Count(b, []byte{0}) == len(b) }

func (c *copier) block() *[]byte {
	if b, ok := c.buffers.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, blockSize)
	return &b
}

// CanShare says whether files in dir can share blocks with one another. What fails for another reason
// than that the file system cannot do so is an error. Of a share it says no; copying tries anyway.
func CanShare(dir *os.File) (bool, error) {
	var files [2]int
	for i := range files {
		fd, err := openIn(dir, ".", unix.OpenHow{Flags: unix.O_RDWR | unix.O_TMPFILE, Mode: 0o600})
		if cannot(err) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("making a file without a name in %s: %w", dir.Name(), err)
		}
		defer unix.Close(fd)
		files[i] = fd
	}
	if _, err := unix.Pwrite(files[0], make([]byte, 4096), 0); err != nil {
		return false, fmt.Errorf("writing to a file in %s: %w", dir.Name(), err)
	}
	err := again(func() error { return unix.IoctlFileClone(files[1], files[0]) })
	if cannot(err) || errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("sharing the blocks of a file in %s: %w", dir.Name(), err)
	}
	return true, nil
}
