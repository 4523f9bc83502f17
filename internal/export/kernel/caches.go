package kernel

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/export/probe"
	"github.com/berth-storage/berth/internal/run"
)

const (
	// cachesFolder is where the kernel shows what it remembers of mountd's answers,
	// and takes corrections; see nfsd(7).
	cachesFolder = "/proc/net/rpc"
	exportCache  = "nfsd.export" // by directory: how it is exported, or that it is not
	handleCache  = "nfsd.fh"     // by the fsid in a file handle: which directory

	commandLimit = 30 * time.Second
	callerLimit  = 30 * time.Second // mountd reads its table anew, and may be busy
)

// caches are what the kernel remembers of mountd's answers.
type caches struct {
	folder   string
	exportfs string // the program
	address  string // of the NFS server
}

// answer is one of mountd's that the kernel remembers.
type answer struct {
	cache string
	key   string // of it, as the cache's channel takes it
}

// answers are those about dirs. owed says that mountd may be about to give another
// one, of which nobody can tell what it is about.
func (c caches) answers(dirs map[string]bool) (about []answer, owed bool, err error) {
	err = c.each(exportCache, func(text string, _ bool) { // path, domain(options)
		path, rest, ok := strings.Cut(text, "\t")
		end := strings.LastIndexByte(rest, '(')
		if ok && end >= 0 && dirs[unescape(path)] {
			about = append(about, answer{exportCache, rest[:end] + " " + path})
		}
	})
	if err != nil {
		return nil, false, err
	}
	// Without these a client would not be told that its handle is stale, but wait: the
	// kernel would ask about the directory, and could not understand the answer when
	// that is gone.
	err = c.each(handleCache, func(text string, valid bool) { // domain, type, fsid, path
		fields := strings.Fields(text)
		switch {
		case !valid:
			owed = true
		case len(fields) == 4 && dirs[unescape(fields[3])]:
			about = append(about, answer{handleCache, fields[0] + " " + fields[1] + " " + channelFSID(fields[2])})
		}
	})
	return about, owed, err
}

// channelFSID writes an fsid as the kernel takes it: its bytes in hexadecimal. It
// shows them as words of 32 bits, each in the processor's order.
func channelFSID(shown string) string {
	var raw []byte
	for words := strings.TrimPrefix(shown, "0x"); len(words) >= 8; words = words[8:] {
		word, err := strconv.ParseUint(words[:8], 16, 32)
		if err != nil {
			return shown // which the kernel refuses
		}
		raw = binary.NativeEndian.AppendUint32(raw, uint32(word))
	}
	return `\x` + hex.EncodeToString(raw)
}

// each reads a cache. Lines with "# " are of what is not so, or not valid any more.
// Without the nfsd module there is nothing to remember.
func (c caches) each(cache string, do func(text string, valid bool)) error {
	text, err := os.ReadFile(filepath.Join(c.folder, cache, "content"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("what the kernel's NFS server remembers: %w", err)
	}
	for l := range strings.Lines(string(text)) {
		l = strings.TrimSuffix(l, "\n")
		if strings.HasPrefix(l, "#path ") || strings.HasPrefix(l, "#domain ") {
			continue
		}
		rest, invalid := strings.CutPrefix(l, "# ")
		do(rest, !invalid)
	}
	return nil
}

// hide says whether the kernel remembers anything that hides an export that is new:
// that its handles are unknown, or that there is nothing on the way to it. What it
// remembers of the directory itself is a matter for forget.
func (c caches) hide(e export.Export) (bool, error) {
	hidden := false
	err := c.each(exportCache, func(text string, valid bool) {
		path, _, _ := strings.Cut(text, "\t")
		if !valid && isBelow(e.Dir, unescape(path)) {
			hidden = true
		}
	})
	if err != nil {
		return false, err
	}
	id := cachedFSID(e.FSID)
	err = c.each(handleCache, func(text string, valid bool) {
		// domain, type of the fsid, fsid, and the path if it is valid
		if fields := strings.Fields(text); !valid && len(fields) >= 3 && strings.HasSuffix(fields[2], id) {
			hidden = true
		}
	})
	return hidden, err
}

// isBelow says whether dir lies below path.
func isBelow(dir, path string) bool {
	return path == "/" || strings.HasPrefix(dir, path+"/")
}

// cachedFSID is the end of an fsid as the kernel writes it: words of 32 bits, each
// in the processor's order.
func cachedFSID(f export.FSID) string {
	if n, ok := f.Number(); ok {
		return fmt.Sprintf("0x%08x", n)
	}
	var b strings.Builder
	for i := 0; i < len(f); i += 4 {
		fmt.Fprintf(&b, "%08x", binary.NativeEndian.Uint32(f[i:]))
	}
	return b.String()
}

// forget has the kernel ask mountd again about dirs, of which the table has another
// content now. When it returns nil, all answers to come are of that.
func (c caches) forget(ctx context.Context, dirs map[string]bool) error {
	known, owed, err := c.answers(dirs)
	if err != nil || len(known) == 0 && !owed {
		// A question that mountd is about to answer out of the old table would show
		// here. It reads the new one for all that come later.
		return err
	}
	// mountd answers one question after the other: when one that is asked now is
	// answered, so are those for which it read the old table.
	if err := c.ask(ctx); err != nil {
		return err
	}
	if known, _, err = c.answers(dirs); err != nil {
		return err
	}
	for _, a := range known {
		if err := c.expire(a); err != nil {
			return err
		}
	}
	return nil
}

// expire replaces an answer by one that is not valid any more.
func (c caches) expire(a answer) error {
	const longAgo = 1 // seconds since 1970
	f, err := os.OpenFile(filepath.Join(c.folder, a.cache, "channel"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s %d\n", a.key, longAgo)
	if errors.Is(err, syscall.ENOENT) {
		err = nil // the directory or the domain is gone, and the answer about it too
	}
	return errors.Join(err, f.Close())
}

// ask has mountd answer a question: who the caller is. The kernel does not know the
// caller yet, as it is any address of the loopback network.
func (c caches) ask(ctx context.Context) error {
	stranger := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	err := probe.Caller(ctx, c.address, stranger, callerLimit)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil // there is no server that could answer clients
	}
	if err != nil {
		return fmt.Errorf("waiting for rpc.mountd, which does not answer the kernel's NFS server (does it run?): %w", err)
	}
	return nil
}

// flush has the kernel forget all that it knows: of each export that is in use
// mountd is asked again.
func (c caches) flush(ctx context.Context) error {
	_, err := run.Output(ctx, run.Command{Path: c.exportfs, Args: []string{"-f"}}, commandLimit)
	return err
}
