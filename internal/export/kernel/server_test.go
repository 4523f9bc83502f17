package kernel

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berth-storage/berth/internal/export"
)

// fixture is a Server with files of its own in place of the host's, and what
// notes what it asks of the kernel.
type fixture struct {
	*Server
	root    string
	flushes string // a file with a line for each flush
	callers atomic.Int32
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{root: root, flushes: root + "/flushes"}
	for _, folder := range []string{"/state", "/exports.d", "/pool", "/caches/nfsd.export", "/caches/nfsd.fh"} {
		if err := os.MkdirAll(root+folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, root+"/exportfs", fmt.Sprintf("#!/bin/sh\necho \"$@\" >>%s\n", f.flushes))
	if err := os.Chmod(root+"/exportfs", 0o755); err != nil {
		t.Fatal(err)
	}
	address := answering(t, &f.callers)
	f.Server = &Server{
		o:      Options{Address: address, Log: slog.New(slog.NewTextHandler(t.Output(), nil))},
		file:   root + "/exports.d/berth-x.exports",
		table:  table{folder: root + "/state", exportfs: root + "/export-lock"},
		caches: caches{folder: root + "/caches", exportfs: root + "/exportfs", address: address},
		synced: make(chan struct{}), turn: make(chan struct{}, 1), want: map[export.ID]wanted{}, text: document(head),
	}
	return f
}

// answering is an NFS server that answers each call, whatever it asks, and counts them.
func answering(t *testing.T, callers *atomic.Int32) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			head := make([]byte, 8) // the fragment's length, and the xid
			if _, err := io.ReadFull(conn, head); err == nil {
				callers.Add(1)
				answer := binary.BigEndian.AppendUint32(nil, 1<<31|24)
				answer = append(answer, head[4:]...)
				_, _ = conn.Write(append(answer, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
			}
			conn.Close()
		}
	}()
	return l.Addr().String()
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// text is what is in a file, nothing if it is not there.
func text(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(text)
}

func (f *fixture) export(t *testing.T, id export.ID) export.Export {
	t.Helper()
	dir := fmt.Sprintf("%s/pool/v%d", f.root, id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return export.Export{ID: id, FSID: export.NewFSID(dir), Dir: dir, Path: dir, Squash: export.SquashNone}
}

// exported are the directories that a file of exports names.
func (f *fixture) exported(t *testing.T, file string) []string {
	t.Helper()
	d, err := load(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for _, e := range d.entries() {
		if e.path != nil {
			dirs = append(dirs, filepath.Base(string(e.path)))
		}
	}
	return dirs
}

func (f *fixture) wantExported(t *testing.T, when string, table, file []string) {
	t.Helper()
	if diff := cmp.Diff(table, f.exported(t, f.table.path()), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s: the table (-want +got):\n%s", when, diff)
	}
	if diff := cmp.Diff(file, f.exported(t, f.file), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s: our file (-want +got):\n%s", when, diff)
	}
}

// A crash or a full disk at any step leaves nothing in the table that our file does
// not name, so that the next start knows it; and the next call goes on.
func TestStepsThatFail(t *testing.T) {
	const table, file = "table", "file"
	for _, c := range []struct {
		name, fails             string
		do                      func(*fixture, export.Export, export.Export) error
		inTable, inFile         []string // after the failure
		thenInTable, thenInFile []string
	}{
		{
			"publish, before anything", file,
			func(f *fixture, _, e export.Export) error { return f.Publish(context.Background(), e) },
			[]string{"v1"}, []string{"v1"}, []string{"v1", "v2"}, []string{"v1", "v2"},
		},
		{
			"publish, after our file", table,
			func(f *fixture, _, e export.Export) error { return f.Publish(context.Background(), e) },
			[]string{"v1"}, []string{"v1", "v2"}, []string{"v1", "v2"}, []string{"v1", "v2"},
		},
		{
			"withdraw, before anything", table,
			func(f *fixture, e, _ export.Export) error { return f.Withdraw(context.Background(), e) },
			[]string{"v1"}, []string{"v1"}, nil, nil,
		},
		{
			"withdraw, after the table", file,
			func(f *fixture, e, _ export.Export) error { return f.Withdraw(context.Background(), e) },
			nil, []string{"v1"}, nil, nil,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			first, second := f.export(t, 1), f.export(t, 2)
			if err := f.Publish(t.Context(), first); err != nil {
				t.Fatal(err)
			}
			// The name of the temporary file is taken by a folder.
			obstacle := map[string]string{table: f.table.path() + ".berth", file: f.file + ".new"}[c.fails]
			if err := os.Mkdir(obstacle, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := c.do(f, first, second); err == nil || errors.Is(err, export.ErrRefused) {
				t.Errorf("got error %v, want one of unknown outcome", err)
			}
			f.wantExported(t, "after the failure", c.inTable, c.inFile)
			if err := os.Remove(obstacle); err != nil {
				t.Fatal(err)
			}
			if err := c.do(f, first, second); err != nil {
				t.Errorf("the next call: %v", err)
			}
			f.wantExported(t, "after the next call", c.thenInTable, c.thenInFile)
		})
	}
}

func TestRefusalChangesNothing(t *testing.T) {
	f := newFixture(t)
	first, second := f.export(t, 1), f.export(t, 2)
	if err := f.Publish(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	before := text(t, f.table.path()) + text(t, f.file)
	second.FSID = first.FSID
	absent, elsewhere := first, first
	absent.Dir += "-absent"
	absent.Path = absent.Dir
	elsewhere.Path = "/elsewhere"
	for _, e := range []export.Export{second, absent, elsewhere} {
		if err := f.Publish(t.Context(), e); !errors.Is(err, export.ErrRefused) {
			t.Errorf("%+v: got error %v, want %v", e, err, export.ErrRefused)
		}
	}
	if err := f.repair(t.Context()); err != nil {
		t.Error(err)
	}
	if got := text(t, f.table.path()) + text(t, f.file); got != before {
		t.Errorf("there was\n%sand is\n%s", before, got)
	}
}

func TestAnotherExportfsHasTheLock(t *testing.T) {
	f := newFixture(t)
	release, err := f.table.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := f.Publish(ctx, f.export(t, 1)); !errors.Is(err, export.ErrUnavailable) {
		t.Errorf("got error %v, want %v", err, export.ErrUnavailable)
	}
	release()
	if err := f.Publish(t.Context(), f.export(t, 1)); err != nil {
		t.Error(err)
	}
}

// What the kernel remembers, as Linux 6.1 writes it, and what it is told.
func TestTellTheKernel(t *testing.T) {
	const other, handle = "/elsewhere\t*(rw,sync)\n", "* 7 0x0000aa0000000000FSID DIR\n"
	const noHandle = "# * 1 0x00000063\n"
	for _, c := range []struct {
		name       string
		export, fh string // what it remembers; DIR and FSID are the volume's
		known      string // clients of others in the table
		withdraw   bool
		flushed    bool
		asked      bool
		corrected  string
	}{
		{"nothing", other, "", "*", false, false, false, ""},
		{"that there is no such export", other + "# DIR\t*,10.0.0.0/8()\n", "", "*", false, false, true, "*,10.0.0.0/8 DIR 1\n"},
		{"that there is nothing on the way", other + "# ABOVE\t*()\n", "", "*", false, true, false, ""},
		{"that the way is there", other + "ABOVE\t*(ro,v4root)\n", "", "*", false, false, false, ""},
		{"that handles of it are bad", other, "# * 7 0x0000aa0000000000FSID\n", "*", false, true, true, ""},
		{"nobody of these clients", other, "", "10.0.0.0/8", false, true, false, ""},
		{"that it is exported", other + "DIR\t*(rw,sync)\n", handle, "*", true, false, true, "* DIR 1\n* 7 \\x00aa000000000000BYTES 1\n"},
		{"that it was asked for", other + "# DIR\t*()\n", "", "*", true, false, true, "* DIR 1\n"},
		{"handles of it", other, handle, "*", true, false, true, "* 7 \\x00aa000000000000BYTES 1\n"},
		{"a handle that may be of it", other, noHandle, "*", true, false, true, ""},
		{"nothing of what goes", other, "", "*", true, false, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			e := f.export(t, 1)
			fill := strings.NewReplacer("DIR", e.Dir, "ABOVE", filepath.Dir(e.Dir), "FSID", cachedFSID(e.FSID), "BYTES", hex.EncodeToString(e.FSID[:])).Replace
			write(t, f.table.path(), "/elsewhere\t"+c.known+"(rw)\n")
			if c.withdraw {
				if err := f.Publish(t.Context(), e); err != nil {
					t.Fatal(err)
				}
			}
			write(t, f.caches.folder+"/nfsd.export/content", "#path domain(flags)\n"+fill(c.export))
			write(t, f.caches.folder+"/nfsd.fh/content", "#domain fsidtype fsid [path]\n"+fill(c.fh))
			write(t, f.caches.folder+"/nfsd.export/channel", "")
			write(t, f.caches.folder+"/nfsd.fh/channel", "")
			f.callers.Store(0)
			var err error
			if c.withdraw {
				err = f.Withdraw(t.Context(), e)
			} else {
				err = f.Publish(t.Context(), e)
				f.callers.Add(-1) // which asks whether the server is there
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := text(t, f.flushes) != ""; got != c.flushed {
				t.Errorf("the kernel was told to forget everything: %t, want %t", got, c.flushed)
			}
			if got := f.callers.Load() > 0; got != c.asked {
				t.Errorf("mountd was made to answer: %t, want %t", got, c.asked)
			}
			if got := text(t, f.caches.folder+"/nfsd.export/channel") + text(t, f.caches.folder+"/nfsd.fh/channel"); got != fill(c.corrected) {
				t.Errorf("the kernel was told %q, want %q", got, fill(c.corrected))
			}
		})
	}
}

// What could not be told is told by the next call.
func TestTellAgain(t *testing.T) {
	f := newFixture(t)
	write(t, f.root+"/exportfs", "#!/bin/sh\necho no >&2\nexit 1\n")
	e := f.export(t, 1)
	for range 2 {
		if err := f.Publish(t.Context(), e); err == nil || errors.Is(err, export.ErrRefused) {
			t.Errorf("got error %v, want one of unknown outcome", err)
		}
	}
	write(t, f.root+"/exportfs", "#!/bin/sh\necho \"$@\" >>"+f.flushes+"\n")
	for range 2 {
		if err := f.Publish(t.Context(), e); err != nil {
			t.Error(err)
		}
	}
	if got := text(t, f.flushes); got != "-f\n" {
		t.Errorf("exportfs was called with %q", got)
	}
}

func TestWithdrawWhatTheServerNeverHad(t *testing.T) {
	f := newFixture(t)
	if err := f.Withdraw(t.Context(), export.Export{ID: 7}); err != nil {
		t.Error(err)
	}
	if got := text(t, f.table.path()); got != "" {
		t.Errorf("the table has %q", got)
	}
}
