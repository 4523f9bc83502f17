// Package exporttest is the contract that every exporter passes, seen from where
// it matters: by an NFS client.
package exporttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/test/nfs4"
)

// Target is a server under test.
type Target struct {
	export.Server
	Address string // host:port of its NFSv4
	Dir     string // a folder on a file system that it can export
	// SamePath: clients can mount a directory by its own path only.
	SamePath bool
	// Crash ends the server as a crash would; it has to come back by itself.
	Crash func(t *testing.T)
}

// Suite is the contract for one kind of server.
type Suite struct {
	// Open starts a server that exports nothing.
	Open func(t *testing.T) Target
}

// Run runs the contract.
func (s Suite) Run(t *testing.T) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Target)
	}{
		{"PublishMakesReachable", publishMakesReachable},
		{"PublishAgain", publishAgain},
		{"PublishChangedSquash", publishChangedSquash},
		{"OnlyClientsReachIt", onlyClientsReachIt},
		{"ReadOnly", readOnly},
		{"PublishUnderATakenID", publishUnderATakenID},
		{"PublishBadPaths", publishBadPaths},
		{"PublishEndedContext", publishEndedContext},
		{"WithdrawEndsAccess", withdrawEndsAccess},
		{"WithdrawUnknown", withdrawUnknown},
		{"Sync", syncExactly},
		{"CrashKeepsExportsAndHandles", crashKeepsExportsAndHandles},
		{"ManyAtOnce", manyAtOnce},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, s.Open(t)) })
	}
}

// newExport makes a directory that anybody may write to, and its export.
func newExport(t *testing.T, target Target, id export.ID) export.Export {
	t.Helper()
	name := fmt.Sprintf("v%d", id)
	dir := filepath.Join(target.Dir, name)
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil { // past the umask
		t.Fatal(err)
	}
	return export.Export{ID: id, FSID: export.NewFSID(dir), Dir: dir, Path: target.path(name), Squash: export.SquashNone}
}

// path is what clients mount of the directory name in target.Dir.
func (target Target) path(name string) string {
	if target.SamePath {
		return filepath.Join(target.Dir, name)
	}
	return "/contract/" + name
}

func publish(t *testing.T, target Target, e export.Export) {
	t.Helper()
	if err := target.Publish(t.Context(), e); err != nil {
		t.Fatalf("Publish(%+v): %v", e, err)
	}
}

func dial(t *testing.T, target Target, uid uint32) *nfs4.Client {
	t.Helper()
	c, err := nfs4.Dial(t.Context(), target.Address, nfs4.Options{UID: uid, GID: uid})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// wantReachable writes through one client and reads back through another.
func wantReachable(t *testing.T, target Target, e export.Export) {
	t.Helper()
	data := bytes.Repeat([]byte(e.Path), 1000)
	if err := dial(t, target, 0).WriteFile(t.Context(), e.Path+"/file", data, 0o644); err != nil {
		t.Fatalf("writing below %s: %v", e.Path, err)
	}
	got, err := dial(t, target, 0).ReadFile(t.Context(), e.Path+"/file")
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("reading back below %s: %d of %d bytes, error %v", e.Path, len(got), len(data), err)
	}
	onDisk, err := os.ReadFile(filepath.Join(e.Dir, "file"))
	if err != nil || !bytes.Equal(onDisk, data) {
		t.Fatalf("on disk in %s: %d of %d bytes, error %v", e.Dir, len(onDisk), len(data), err)
	}
}

func wantUnreachable(t *testing.T, target Target, path string) {
	t.Helper()
	if _, err := dial(t, target, 0).Stat(t.Context(), path+"/file"); !errors.Is(err, nfs4.ErrNoEnt) {
		t.Errorf("%s is to be unreachable; a client got error %v, want %v", path, err, nfs4.ErrNoEnt)
	}
}

func publishMakesReachable(t *testing.T, target Target) {
	e := newExport(t, target, 1)
	wantUnreachable(t, target, e.Path)
	publish(t, target, e)
	wantReachable(t, target, e)
	other := newExport(t, target, 2)
	publish(t, target, other)
	wantReachable(t, target, other)
	wantReachable(t, target, e)
}

func publishAgain(t *testing.T, target Target) {
	e := newExport(t, target, 1)
	publish(t, target, e)
	publish(t, target, e)
	wantReachable(t, target, e)
}

func onlyClientsReachIt(t *testing.T, target Target) {
	e := newExport(t, target, 1)
	e.Clients = clients(t, "192.0.2.0/24", "2001:db8::1")
	publish(t, target, e)
	wantUnreachable(t, target, e.Path)
	e.Clients = clients(t, "192.0.2.0/24", "127.0.0.0/8", "::1")
	publish(t, target, e)
	wantReachable(t, target, e)
	e.Clients = clients(t, "192.0.2.1")
	publish(t, target, e)
	wantUnreachable(t, target, e.Path)
	e.Clients = export.Clients{}
	publish(t, target, e)
	wantReachable(t, target, e)
}

func readOnly(t *testing.T, target Target) {
	e := newExport(t, target, 1)
	publish(t, target, e)
	wantReachable(t, target, e)
	for _, c := range []export.Clients{{}, clients(t, "127.0.0.0/8", "::1")} {
		e.ReadOnly, e.Clients = true, c
		publish(t, target, e)
		client := dial(t, target, 0)
		if _, err := client.ReadFile(t.Context(), e.Path+"/file"); err != nil {
			t.Errorf("reading what clients %s may only read: %v", c, err)
		}
		if err := client.WriteFile(t.Context(), e.Path+"/file", []byte("x"), 0o644); !errors.Is(err, nfs4.ErrROFS) {
			t.Errorf("writing what clients %s may only read: got error %v, want %v", c, err, nfs4.ErrROFS)
		}
		e.ReadOnly = false
		publish(t, target, e)
		wantReachable(t, target, e)
	}
}

func clients(t *testing.T, words ...string) export.Clients {
	t.Helper()
	c, err := export.ParseClients(words)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// owner writes a file as root and says whose it is.
func owner(t *testing.T, target Target, e export.Export, name string) string {
	t.Helper()
	c := dial(t, target, 0)
	if err := c.WriteFile(t.Context(), e.Path+"/"+name, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	attr, err := c.Stat(t.Context(), e.Path+"/"+name)
	if err != nil {
		t.Fatal(err)
	}
	return attr.Owner
}

func publishChangedSquash(t *testing.T, target Target) {
	e := newExport(t, target, 1)
	publish(t, target, e)
	if got := owner(t, target, e, "a"); got != "0" {
		t.Errorf("without squash, root's file belongs to %s, want 0", got)
	}
	e.Squash = export.SquashRoot
	publish(t, target, e)
	if got := owner(t, target, e, "b"); got != "65534" {
		t.Errorf("with root squash, root's file belongs to %s, want 65534 (nobody)", got)
	}
}

func publishUnderATakenID(t *testing.T, target Target) {
	first := newExport(t, target, 1)
	publish(t, target, first)
	wantReachable(t, target, first)
	second := newExport(t, target, 2)
	second.ID = 1
	publish(t, target, second)
	wantReachable(t, target, second)
	wantUnreachable(t, target, first.Path)
}

func publishBadPaths(t *testing.T, target Target) {
	good := newExport(t, target, 1)
	for what, spoil := range map[string]func(*export.Export){
		"missing directory":         func(e *export.Export) { e.Dir += "-absent" },
		"end of a quoted word":      func(e *export.Export) { e.Dir = `/tmp"; Squash = none; #` },
		"quote in the client path":  func(e *export.Export) { e.Path = `/a"b` },
		"line break":                func(e *export.Export) { e.Path = "/a\nb" },
		"root of the server":        func(e *export.Export) { e.Path = "/" },
		"relative client path":      func(e *export.Export) { e.Path = "contract" },
		"whole file system of host": func(e *export.Export) { e.Dir = "/" },
	} {
		e := good
		spoil(&e)
		if err := target.Publish(t.Context(), e); !errors.Is(err, export.ErrRefused) {
			t.Errorf("%s: got error %v, want %v", what, err, export.ErrRefused)
		}
	}
	publish(t, target, good) // the id is free, and the server well
	wantReachable(t, target, good)
}

func publishEndedContext(t *testing.T, target Target) {
	ended, end := context.WithCancel(t.Context())
	end()
	e := newExport(t, target, 1)
	if err := target.Publish(ended, e); err == nil {
		t.Error("Publish with an ended context succeeded")
	}
	publish(t, target, e)
	wantReachable(t, target, e)
}

func withdrawEndsAccess(t *testing.T, target Target) {
	e, kept, removed := newExport(t, target, 1), newExport(t, target, 2), newExport(t, target, 3)
	for _, e := range []export.Export{e, kept, removed} {
		publish(t, target, e)
		wantReachable(t, target, e)
	}
	client := dial(t, target, 0)
	handle, err := client.FileHandle(t.Context(), e.Path+"/file")
	if err != nil {
		t.Fatal(err)
	}
	open, err := client.OpenFile(t.Context(), e.Path+"/open", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if err := target.Withdraw(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	wantUnreachable(t, target, e.Path)
	if _, err := client.StatHandle(t.Context(), handle); !errors.Is(err, nfs4.ErrStale) {
		t.Errorf("by a handle from before: got error %v, want %v", err, nfs4.ErrStale)
	}
	if _, err := open.WriteAt(t.Context(), []byte("late"), 0); err == nil {
		err = open.Sync(t.Context())
		if err == nil {
			t.Error("a file that was open can still be written to")
		}
	}
	wantReachable(t, target, kept)
	if err := os.RemoveAll(e.Dir); err != nil {
		t.Errorf("the directory is not free: %v", err)
	}
	// The first that a client hears of it, when the directory is gone too.
	if handle, err = client.FileHandle(t.Context(), removed.Path+"/file"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(target.Withdraw(t.Context(), removed), os.RemoveAll(removed.Dir)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := client.StatHandle(ctx, handle); !errors.Is(err, nfs4.ErrStale) {
		t.Errorf("by a handle of a directory that is gone: got error %v, want %v", err, nfs4.ErrStale)
	}
}

// patience is how long anything may take before a test gives up. It is no measure of how long it should take.
const patience = 4 * time.Minute

func withdrawUnknown(t *testing.T, target Target) {
	if err := target.Withdraw(t.Context(), export.Export{ID: 77}); err != nil {
		t.Error(err)
	}
	e := newExport(t, target, 1)
	publish(t, target, e)
	for range 2 {
		if err := target.Withdraw(t.Context(), e); err != nil {
			t.Error(err)
		}
	}
}

func syncExactly(t *testing.T, target Target) {
	kept, dropped, added := newExport(t, target, 1), newExport(t, target, 2), newExport(t, target, 3)
	publish(t, target, kept)
	publish(t, target, dropped)
	wantReachable(t, target, dropped)
	if err := target.Sync(t.Context(), []export.Export{kept, added}); err != nil {
		t.Fatal(err)
	}
	wantReachable(t, target, kept)
	wantReachable(t, target, added)
	wantUnreachable(t, target, dropped.Path)
}

func crashKeepsExportsAndHandles(t *testing.T, target Target) {
	const count = 20
	client := dial(t, target, 0)
	var exports []export.Export
	var handles [][]byte
	for id := range export.ID(count) {
		e := newExport(t, target, id+1)
		publish(t, target, e)
		wantReachable(t, target, e)
		handle, err := client.FileHandle(t.Context(), e.Path+"/file")
		if err != nil {
			t.Fatal(err)
		}
		exports, handles = append(exports, e), append(handles, handle)
	}
	if err := target.Withdraw(t.Context(), exports[0]); err != nil {
		t.Fatal(err)
	}
	target.Crash(t)
	// The first answer that the client gets is from a server that has them all.
	for i, handle := range handles[1:] {
		if _, err := client.StatHandle(t.Context(), handle); err != nil {
			t.Errorf("%s: by a handle from before the crash: %v", exports[i+1].Path, err)
		}
	}
	wantUnreachable(t, target, exports[0].Path)
	late := newExport(t, target, count+1)
	publish(t, target, late)
	if _, err := client.Stat(t.Context(), late.Path); err != nil {
		t.Errorf("published after the crash: %v", err)
	}
}

func manyAtOnce(t *testing.T, target Target) {
	var all sync.WaitGroup
	for id := range export.ID(40) {
		e := newExport(t, target, id+1)
		all.Go(func() {
			if err := target.Publish(t.Context(), e); err != nil {
				t.Error(err)
			}
			if id%2 == 0 {
				if err := target.Withdraw(t.Context(), e); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	client := dial(t, target, 0)
	for id := range export.ID(40) {
		_, err := client.Stat(t.Context(), target.path(fmt.Sprintf("v%d", id+1)))
		if gone := errors.Is(err, nfs4.ErrNoEnt); gone != (id%2 == 0) || err != nil && !gone {
			t.Errorf("export %d: got error %v", id+1, err)
		}
	}
}

// Eventually waits until ok says so.
func Eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}
