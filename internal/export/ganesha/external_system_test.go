//go:build system

package ganesha_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/export/exporttest"
	"github.com/berth-storage/berth/internal/export/ganesha"
	"github.com/berth-storage/berth/internal/run"
	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/nfs4"
)

// somebody runs a system bus and an NFS-Ganesha with an export of his own.
type somebody struct {
	t       *testing.T
	folder  string
	port    int
	include bool // what Berth wrote
	bus     *run.Process
	ganesha *run.Process
}

const foreignID, foreignPath = 1000, "/foreign"

func newSomebody(t *testing.T, include bool) *somebody {
	t.Helper()
	port, err := harness.FreePort()
	must(t, err)
	folder, err := os.MkdirTemp("", "") //nolint:usetesting // for its short path
	must(t, err)
	p := &somebody{t: t, folder: folder, port: port, include: include}
	t.Cleanup(func() { must(t, os.RemoveAll(folder)) })
	must(t, errors.Join(os.Mkdir(p.foreignDir(), 0o777), os.Mkdir(folder+"/recovery", 0o700)))
	must(t, os.WriteFile(folder+"/bus.conf", []byte(`<busconfig><type>system</type><listen>unix:path=`+folder+`/bus</listen>
<auth>EXTERNAL</auth><policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>`), 0o600))
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+folder+"/bus")
	p.startBus()
	t.Cleanup(func() { must(t, p.bus.Kill()) })
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (p *somebody) foreignDir() string { return p.folder + "/foreign" }
func (p *somebody) address() string    { return fmt.Sprintf("127.0.0.1:%d", p.port) }
func (p *somebody) stateDir() string   { return p.folder + "/state" }

func (p *somebody) start(program string, args ...string) *run.Process {
	p.t.Helper()
	path, err := run.Find(program, program)
	must(p.t, err)
	process, err := run.Start(run.Command{Path: path, Args: args})
	must(p.t, err)
	return process
}

func (p *somebody) startBus() {
	p.t.Helper()
	p.bus = p.start("dbus-daemon", "--config-file="+p.folder+"/bus.conf", "--nofork", "--nopidfile")
	exporttest.Eventually(p.t, "the bus is there", func() bool {
		_, err := os.Stat(p.folder + "/bus")
		return err == nil
	})
}

// startGanesha starts it and waits until it answers.
func (p *somebody) startGanesha() {
	p.t.Helper()
	config := fmt.Sprintf(`NFS_CORE_PARAM { NFS_Protocols = 4; NFS_Port = %d; Bind_addr = 127.0.0.1; Enable_NLM = false; Enable_RQUOTA = false; }
NFSv4 { Graceless = true; RecoveryBackend = fs; RecoveryRoot = %s/recovery; Only_Numeric_Owners = true; }
EXPORT { Export_Id = %d; Path = %s; Pseudo = %s; Access_Type = RW; Squash = No_Root_Squash; FSAL { Name = VFS; } }
`, p.port, p.folder, foreignID, p.foreignDir(), foreignPath)
	if p.include {
		config += fmt.Sprintf("%%include %q\n", p.stateDir()+"/exports.conf")
	}
	must(p.t, os.WriteFile(p.folder+"/ganesha.conf", []byte(config), 0o600))
	p.ganesha = p.start("ganesha.nfsd", "-F", "-f", p.folder+"/ganesha.conf", "-L", "STDOUT", "-p", p.folder+"/pid")
	exporttest.Eventually(p.t, "Ganesha answers", func() bool { return nfs4.Null(p.t.Context(), p.address()) == nil })
}

func (p *somebody) stopGanesha() {
	p.t.Helper()
	if p.ganesha != nil {
		must(p.t, p.ganesha.Kill())
	}
}

// drive drives this Ganesha to the end of the test or until stop is called.
func (p *somebody) drive(want ...export.Export) (x *ganesha.External, stop func()) {
	p.t.Helper()
	x, err := ganesha.NewExternal(ganesha.ExternalOptions{
		Address: p.address(), StateDir: p.stateDir(), Log: slog.New(slog.NewTextHandler(p.t.Output(), nil)),
	})
	must(p.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- x.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			p.t.Error(err)
		}
	})
	p.t.Cleanup(stop)
	must(p.t, x.Sync(p.t.Context(), want))
	return x, stop
}

func (p *somebody) reachable(path string) bool {
	p.t.Helper()
	c, err := nfs4.Dial(p.t.Context(), p.address(), nfs4.Options{})
	must(p.t, err)
	defer c.Close()
	_, err = c.Stat(p.t.Context(), path)
	if err != nil && !errors.Is(err, nfs4.ErrNoEnt) {
		p.t.Errorf("%s: %v", path, err)
	}
	return err == nil
}

func (p *somebody) wantReachable(want bool, exports ...export.Export) {
	p.t.Helper()
	for _, e := range exports {
		if got := p.reachable(e.Path); got != want {
			p.t.Errorf("%s: reachable: %t, want %t", e.Path, got, want)
		}
	}
	if !p.reachable(foreignPath) {
		p.t.Error("the export of somebody else is gone")
	}
}

func TestExternalContract(t *testing.T) {
	exporttest.Suite{Open: func(t *testing.T) exporttest.Target {
		p := newSomebody(t, true)
		x, _ := p.drive() // first, so that there is a file to include
		p.startGanesha()
		t.Cleanup(p.stopGanesha)
		exporttest.Eventually(t, "it is driven", x.Serving)
		return exporttest.Target{Server: x, Address: p.address(), Dir: t.TempDir(), Crash: func(*testing.T) {
			p.stopGanesha()
			p.startGanesha()
		}}
	}}.Run(t)
}

// Without the include line all is added again as soon as a new Ganesha is there.
func TestExternalIsStartedAgain(t *testing.T) {
	p := newSomebody(t, false)
	p.startGanesha()
	t.Cleanup(p.stopGanesha)
	exports := makeExports(t, 30)
	x, _ := p.drive(exports[:29]...)
	must(t, x.Publish(t.Context(), exports[29]))
	must(t, x.Withdraw(t.Context(), exports[0]))
	for range 2 {
		p.stopGanesha()
		exporttest.Eventually(t, "it is noticed that it has ended", func() bool { return !x.Serving() })
		p.startGanesha()
		exporttest.Eventually(t, "it is driven again", x.Serving)
		p.wantReachable(true, exports[1:]...)
		p.wantReachable(false, exports[0])
	}
}

// A Berth that starts again disturbs nobody, and takes away only what was its own.
func TestExternalIsLeftAndFoundAgain(t *testing.T) {
	p := newSomebody(t, false)
	p.startGanesha()
	t.Cleanup(p.stopGanesha)
	exports := makeExports(t, 4)
	x, stop := p.drive(exports[:3]...)
	exporttest.Eventually(t, "it is driven", x.Serving)
	stop()
	p.wantReachable(true, exports[:3]...)
	client, err := nfs4.Dial(t.Context(), p.address(), nfs4.Options{})
	must(t, err)
	defer client.Close()
	file, err := client.OpenFile(t.Context(), exports[1].Path+"/file", os.O_RDWR|os.O_CREATE, 0o644)
	must(t, err)

	exports[2].Squash = export.SquashRoot // the configuration is another one now
	must(t, os.Chmod(exports[2].Dir, 0o777))
	x, _ = p.drive(exports[1:]...)
	exporttest.Eventually(t, "it is driven", x.Serving)
	p.wantReachable(false, exports[0])
	p.wantReachable(true, exports[1:]...)
	if _, err := file.WriteAt(t.Context(), []byte("data"), 0); err != nil {
		t.Errorf("to a file that was open: %v", err)
	}
	must(t, client.WriteFile(t.Context(), exports[2].Path+"/file", nil, 0o644))
	if attr, err := client.Stat(t.Context(), exports[2].Path+"/file"); err != nil || attr.Owner != "65534" {
		t.Errorf("a squashed root's file belongs to %s, %v", attr.Owner, err)
	}
}

// An id that somebody else uses is not Berth's to touch.
func TestExternalLeavesOthersAlone(t *testing.T) {
	p := newSomebody(t, false)
	p.startGanesha()
	t.Cleanup(p.stopGanesha)
	exports := makeExports(t, 2)
	taken := exports[1]
	taken.ID = foreignID
	var ids []export.ID
	x, err := ganesha.NewExternal(ganesha.ExternalOptions{
		Address: p.address(), StateDir: p.stateDir(), Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Taken: func(id export.ID) { ids = append(ids, id) },
	})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- x.Run(ctx) }()
	defer func() {
		cancel()
		must(t, <-ended)
	}()
	must(t, x.Sync(t.Context(), []export.Export{exports[0], taken}))
	exporttest.Eventually(t, "it is driven", x.Serving)
	if len(ids) != 1 || ids[0] != foreignID {
		t.Errorf("told of the ids %v, want %d", ids, foreignID)
	}
	p.wantReachable(true, exports[0])
	p.wantReachable(false, taken)
	if err := x.Publish(t.Context(), taken); !errors.Is(err, export.ErrRefused) || !strings.Contains(err.Error(), p.foreignDir()) {
		t.Errorf("Publish: got error %v, want %v and whose id it is", err, export.ErrRefused)
	}
	must(t, x.Withdraw(t.Context(), export.Export{ID: foreignID}))
	p.wantReachable(true, exports[0])
}

// What somebody removes is added again.
func TestExternalRepairs(t *testing.T) {
	p := newSomebody(t, false)
	p.startGanesha()
	t.Cleanup(p.stopGanesha)
	exports := makeExports(t, 3)
	x, _ := p.drive(exports...)
	exporttest.Eventually(t, "it is driven", x.Serving)
	out, err := exec.CommandContext(t.Context(), "dbus-send", "--bus=unix:path="+p.folder+"/bus", "--print-reply", "--dest=org.ganesha.nfsd",
		"/org/ganesha/nfsd/ExportMgr", "org.ganesha.nfsd.exportmgr.RemoveExport", "uint16:2").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p.wantReachable(false, exports[1])
	exporttest.Eventually(t, "it is added again", func() bool { return p.reachable(exports[1].Path) })
	p.wantReachable(true, exports...)
}

func TestExternalIsNotThere(t *testing.T) {
	p := newSomebody(t, false)
	exports := makeExports(t, 2)
	x, _ := p.drive(exports[0])
	if x.Serving() {
		t.Error("nobody serves, and Serving says so")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := x.Publish(ctx, exports[1]); !errors.Is(err, export.ErrUnavailable) {
		t.Errorf("got error %v, want %v", err, export.ErrUnavailable)
	}
	p.startGanesha()
	t.Cleanup(p.stopGanesha)
	exporttest.Eventually(t, "it is driven", x.Serving)
	p.wantReachable(true, exports[0])
	must(t, x.Publish(t.Context(), exports[1]))
	// The bus of the host may be started again, too; Ganesha ends without it.
	must(t, p.bus.Kill())
	must(t, os.RemoveAll(filepath.Join(p.folder, "bus")))
	exporttest.Eventually(t, "it is noticed that the bus is gone", func() bool { return !x.Serving() })
	p.stopGanesha()
	p.startBus()
	p.startGanesha()
	exporttest.Eventually(t, "it is driven again", x.Serving)
	p.wantReachable(true, exports...)
}
