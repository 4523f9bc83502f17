//go:build system

package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/export/exporttest"
	"github.com/berth-storage/berth/internal/export/kernel"
	"github.com/berth-storage/berth/test/nfs4"
	"github.com/berth-storage/berth/test/vm"
)

// newExports makes n directories and their exports.
func newExports(t *testing.T, n int) []export.Export {
	t.Helper()
	folder, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var exports []export.Export
	for i := range n {
		dir := filepath.Join(folder, fmt.Sprintf("v%d", i+1))
		if err := os.Mkdir(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		exports = append(exports, export.Export{ID: export.ID(i + 1), FSID: export.NewFSID(dir), Dir: dir, Path: dir, Squash: export.SquashNone})
	}
	return exports
}

func publish(t *testing.T, s *server, exports ...export.Export) {
	t.Helper()
	for _, e := range exports {
		if err := s.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
}

// lines are those of a file that name path, in any way.
func lines(t *testing.T, file, path string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var found []string
	for l := range strings.Lines(string(text)) {
		if strings.HasPrefix(l, path+"\t") || strings.HasPrefix(l, path+" ") {
			found = append(found, strings.TrimSuffix(l, "\n"))
		}
	}
	return found
}

// reachable says whether a client finds a directory.
func reachable(t *testing.T, path string) bool {
	t.Helper()
	c, err := nfs4.Dial(t.Context(), address, nfs4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Stat(t.Context(), path)
	if err != nil && !errors.Is(err, nfs4.ErrNoEnt) && !errors.Is(err, nfs4.ErrStale) {
		t.Errorf("%s: %v", path, err)
	}
	return err == nil
}

// Whatever somebody else does to Berth's exports is undone.
func TestSomebodyElse(t *testing.T) {
	host(t)
	leaveNothing(t)
	exports := newExports(t, 3)
	s := start(t, exports...)
	e := exports[1]
	for _, c := range []struct{ name, does string }{
		{"exports what the files say", `exportfs -ra`},
		{"takes all away", `exportfs -au`},
		{"takes one away", `exportfs -u "*:$1"`},
		{"makes one read-only", `exportfs -o ro "*:$1"`},
		{"lets another network in", `exportfs -o rw "192.0.2.0/24:$1"`},
		{"removes our file", `rm ` + ourFile + `; exportfs -ra`},
		{"empties our file", `: >` + ourFile + `; exportfs -ra`},
		{"adds to our file", `echo "/etc *(rw)" >>` + ourFile + `; exportfs -ra`},
		{"changes our file", `sed -i 's/rw,/ro,/' ` + ourFile + `; exportfs -ra`},
		{"removes the table", `rm ` + table + `; exportfs -f`},
		{"restarts the server", `rpc.nfsd 0; exportfs -au; exportfs -f; exportfs -r; rpc.nfsd 4; echo Y >/proc/fs/nfsd/v4_end_grace`},
	} {
		t.Run(c.name, func(t *testing.T) {
			vm.Sh(t, c.does, e.Dir)
			exporttest.Eventually(t, "all is as it was", func() bool {
				for _, e := range exports {
					for _, file := range []string{table, ourFile} {
						l := lines(t, file, e.Dir)
						if len(l) != 1 || !strings.Contains(l[0], "\t*(rw,") || !strings.Contains(l[0], e.FSID.String()) {
							return false
						}
					}
				}
				return len(lines(t, ourFile, "/etc")) == 0
			})
			for _, e := range exports {
				exporttest.Eventually(t, e.Dir+" is reachable", func() bool { return reachable(t, e.Dir) })
			}
		})
	}
	if err := s.Withdraw(t.Context(), e); err != nil {
		t.Error(err)
	}
	vm.Sh(t, `exportfs -ra`)
	if reachable(t, e.Dir) {
		t.Error("somebody else's exportfs has brought back what was withdrawn")
	}
}

// What others export stays as it is, to the byte.
func TestOthersAreLeftAlone(t *testing.T) {
	host(t)
	leaveNothing(t)
	const other = folder + "/other.exports"
	vm.Sh(t, `mkdir -p "/srv/by hand" /srv/other /srv/off
echo '/srv/other 10.0.0.0/8(ro,sync,no_subtree_check,fsid=4242) *.example.com(rw,fsid=4242)' >`+other+`
echo '/srv/off *(ro,fsid=17)' >>`+other+`
exportfs -ra
exportfs -o ro,no_subtree_check,fsid=99 "192.0.2.7/32:/srv/by hand"
exportfs -u '*:/srv/off'`)
	t.Cleanup(func() {
		if err := os.Remove(other); err != nil {
			t.Error(err)
		}
	})
	foreign := func() string {
		return vm.Sh(t, `cat /etc/exports `+other+`; grep -E '^/srv/(foreign|other|off|by)' `+table)
	}
	before := foreign()
	if strings.Count(before, "\n") != 7 {
		t.Fatalf("the others' exports are\n%s", before)
	}
	exports := newExports(t, 3)
	s, stop := run(t, exports[0])
	publish(t, s, exports[1:]...)
	if err := s.Withdraw(t.Context(), exports[0]); err != nil {
		t.Error(err)
	}
	if got := foreign(); got != before {
		t.Errorf("the others' exports were\n%sand are\n%s", before, got)
	}
	stop()
	_, stop = run(t) // nothing is wanted any more
	stop()
	if got := foreign(); got != before {
		t.Errorf("after a restart the others' exports are\n%s", got)
	}
	if got := vm.Sh(t, `cat `+table); strings.Contains(got, exports[1].Dir) {
		t.Errorf("what is not wanted is still exported:\n%s", got)
	}
}

// A server that starts again takes over what is there.
func TestStartAgain(t *testing.T) {
	host(t)
	leaveNothing(t)
	exports := newExports(t, 4)
	_, stop := run(t, exports[:3]...)
	stop()
	for _, e := range exports[:3] {
		if !reachable(t, e.Dir) {
			t.Errorf("%s went with its server", e.Dir)
		}
	}
	before := vm.Sh(t, `stat -c '%i %y' `+table+` `+ourFile)
	_, stop = run(t, exports[:3]...)
	stop()
	if got := vm.Sh(t, `stat -c '%i %y' `+table+` `+ourFile); got != before {
		t.Errorf("nothing has changed, and the files were written: %s, %s", before, got)
	}
	start(t, exports[2], exports[3])
	for i, want := range []bool{false, false, true, true} {
		if got := reachable(t, exports[i].Dir); got != want {
			t.Errorf("%s: reachable: %t, want %t", exports[i].Dir, got, want)
		}
	}
}

// The file alone brings all back: that is what there is after a reboot.
func TestOnlyTheFileIsLeft(t *testing.T) {
	host(t)
	leaveNothing(t)
	exports := newExports(t, 20)
	_, stop := run(t, exports...)
	stop()
	before := lines(t, ourFile, exports[7].Dir)
	vm.Sh(t, `rpc.nfsd 0; exportfs -au; exportfs -f; rm `+table)
	restartHost(t)
	for _, e := range exports {
		if !reachable(t, e.Dir) {
			t.Errorf("%s is not reachable", e.Dir)
		}
	}
	if got := lines(t, ourFile, exports[7].Dir); len(got) != 1 || got[0] != before[0] {
		t.Errorf("the file has %q, had %q", got, before)
	}
}

// While the host's server does not run nothing is promised, and nothing is lost.
func TestHostDoesNotServe(t *testing.T) {
	host(t)
	leaveNothing(t)
	exports := newExports(t, 3)
	vm.Sh(t, `rpc.nfsd 0`)
	s := start(t, exports[0])
	if s.Serving() {
		t.Error("nobody serves, and Serving says so")
	}
	err := s.Publish(t.Context(), exports[1])
	if !errors.Is(err, export.ErrUnavailable) || !strings.Contains(err.Error(), "systemctl start nfs-server") {
		t.Errorf("Publish: got error %v, want %v and what to do", err, export.ErrUnavailable)
	}
	if err := s.Withdraw(t.Context(), exports[0]); err != nil {
		t.Errorf("Withdraw: %v", err)
	}
	restartHost(t)
	exporttest.Eventually(t, "it is noticed that the host serves", s.Serving)
	publish(t, s, exports[1])
	if reachable(t, exports[0].Dir) || !reachable(t, exports[1].Dir) {
		t.Error("not what is wanted is reachable")
	}
	vm.Sh(t, `rpc.nfsd 0`)
	exporttest.Eventually(t, "it is noticed that the host does not serve", func() bool { return !s.Serving() })
	restartHost(t)
}

// Without mountd nobody knows what the kernel still lets clients do: that is no
// success.
func TestWithdrawWithoutMountd(t *testing.T) {
	host(t)
	leaveNothing(t)
	e := newExports(t, 1)[0]
	s := start(t, e)
	if !reachable(t, e.Dir) { // the kernel remembers it from now on
		t.Fatal("not reachable")
	}
	vm.Sh(t, `kill -STOP $(pidof rpc.mountd)`)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	err := s.Withdraw(ctx, e)
	cancel()
	vm.Sh(t, `kill -CONT $(pidof rpc.mountd)`)
	if err == nil || errors.Is(err, export.ErrUnavailable) {
		t.Errorf("got error %v, want one of unknown outcome", err)
	}
	if err := s.Withdraw(t.Context(), e); err != nil {
		t.Error(err)
	}
	if reachable(t, e.Dir) {
		t.Error("it is still reachable")
	}
}

// To add a volume does not make the kernel forget what it knows of others: each
// would be looked up again among all exports.
func TestPublishDisturbsNobody(t *testing.T) {
	host(t)
	leaveNothing(t)
	exports := newExports(t, 3)
	s := start(t, exports[0])
	if !reachable(t, exports[0].Dir) {
		t.Fatal("not reachable")
	}
	remembered := func() bool {
		for _, l := range lines(t, "/proc/net/rpc/nfsd.export/content", exports[0].Dir) {
			if strings.Contains(l, "(rw,") {
				return true
			}
		}
		return false
	}
	if !remembered() {
		t.Fatal("the kernel does not remember an export that was just used")
	}
	publish(t, s, exports[1:]...)
	for _, e := range exports[1:] {
		if !reachable(t, e.Dir) {
			t.Errorf("%s is not reachable", e.Dir)
		}
	}
	if err := s.Withdraw(t.Context(), exports[1]); err != nil {
		t.Error(err)
	}
	if reachable(t, exports[1].Dir) {
		t.Errorf("%s is still reachable", exports[1].Dir)
	}
	if !remembered() {
		t.Error("the kernel has forgotten another export")
	}
}

// Two directories with one identity would be one to clients.
func TestOneIdentityTwice(t *testing.T) {
	host(t) // whose own export has fsid=65535
	leaveNothing(t)
	exports := newExports(t, 4)
	number := func(n byte) export.FSID { return export.FSID{7: n, 15: n} }
	exports[0].FSID, exports[1].FSID, exports[2].FSID = number(7), number(7), export.FSID{6: 255, 7: 255, 14: 255, 15: 255}
	s := start(t)
	publish(t, s, exports[0])
	for _, l := range [][]string{lines(t, table, exports[0].Dir), lines(t, ourFile, exports[0].Dir)} {
		if len(l) != 1 || !strings.Contains(l[0], ",fsid=7,") {
			t.Errorf("got %q, want fsid=7", l)
		}
	}
	for _, e := range exports[1:3] {
		if err := s.Publish(t.Context(), e); !errors.Is(err, export.ErrRefused) {
			t.Errorf("%s: got error %v, want %v", e.Dir, err, export.ErrRefused)
		}
		if reachable(t, e.Dir) || len(lines(t, ourFile, e.Dir)) != 0 {
			t.Errorf("%s was refused and is exported", e.Dir)
		}
	}
	// At a start, too, and the others are exported.
	err := s.Sync(t.Context(), exports)
	if !errors.Is(err, export.ErrRefused) || !strings.Contains(err.Error(), exports[1].Dir) || !strings.Contains(err.Error(), exports[2].Dir) {
		t.Errorf("Sync: got error %v", err)
	}
	for i, want := range []bool{true, false, false, true} {
		if got := reachable(t, exports[i].Dir); got != want {
			t.Errorf("%s: reachable: %t, want %t", exports[i].Dir, got, want)
		}
	}
}

// Several pools, and somebody with exportfs, work at the same time.
func TestAllAtOnce(t *testing.T) {
	host(t)
	leaveNothing(t)
	const each = 15
	exports := newExports(t, 2*each)
	first := start(t)
	second, stop := startAs(t, "second")
	t.Cleanup(func() {
		stop()
		if err := os.Remove(folder + "/berth-second.exports"); err != nil {
			t.Error(err)
		}
	})
	var all sync.WaitGroup
	for i, s := range []*kernel.Server{first.Server, second.Server} {
		for j, e := range exports[i*each : (i+1)*each] {
			all.Go(func() {
				if err := s.Publish(t.Context(), e); err != nil {
					t.Error(err)
				}
				if j%3 == 0 {
					if err := s.Withdraw(t.Context(), e); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	for i := range each {
		vm.Sh(t, `mkdir -p "/srv/loop/$1"; exportfs -o "ro,no_subtree_check,fsid=$((1000 + $1))" "*:/srv/loop/$1"`, fmt.Sprint(i))
	}
	vm.Sh(t, `exportfs -ra`)
	all.Wait()
	got := vm.Sh(t, `cat `+table)
	for i, e := range exports {
		if want := i%each%3 != 0; strings.Contains(got, e.Dir+"\t") != want || reachable(t, e.Dir) != want {
			t.Errorf("%s is not as it has to be (exported: %t)", e.Dir, want)
		}
	}
	if strings.Count(got, "/srv/foreign\t") != 1 || strings.Contains(got, "/srv/loop") {
		t.Errorf("the others' exports are not what they last said:\n%s", got)
	}
}
