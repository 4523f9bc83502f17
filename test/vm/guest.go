package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/test/cache"
	"github.com/berth-storage/berth/test/progress"
	"github.com/berth-storage/berth/test/tied"
	"github.com/berth-storage/berth/test/vm/wire"
)

// bootTimeout is for a slow machine under load; 4 to 6 seconds are usual. A guest that runs answers at once, or as late.
const bootTimeout = 3 * time.Minute

// Options say what guest Start starts. The zero value is one for most tests.
type Options struct {
	// Memory is the guest's, in MiB; 1024 if it is 0. The host lends what is used.
	Memory int
	// ZFS has the guest have OpenZFS. The first time it is built, see package openzfs.
	ZFS bool
	// Log gets lines of progress. Nil discards them.
	Log io.Writer
}

// Guest is a running virtual machine. It ends with the process that started it,
// however that ends.
type Guest struct {
	// Address is the guest's address, Host the host's, as the other sees it. Servers of
	// the host that the guest is to reach must listen there.
	Address, Host string
	// Shared is the folder of the host that the guest sees as /host.
	Shared string

	options Options
	dir     string // of what belongs to this guest
	lock    *os.File
	image   string
	openzfs string // the archive, if it has that
	network *network
	process *tied.Process
}

// Start boots a guest and waits until it runs commands. Each one starts from the same
// image, and what it changes is forgotten at its end. Many can run at once. Root only.
func Start(ctx context.Context, options Options) (*Guest, error) {
	if options.Memory == 0 {
		options.Memory = 1024
	}
	if options.Log == nil {
		options.Log = io.Discard
	}
	g := &Guest{options: options}
	var err error
	if g.image, err = Image(ctx, options.Log); err != nil {
		return nil, err
	}
	if options.ZFS {
		if g.openzfs, err = OpenZFS(ctx, options.Log); err != nil {
			return nil, err
		}
	}
	if err := g.makeDir(); err != nil {
		return nil, fmt.Errorf("making the guest's folder: %w", err)
	}
	if err := g.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("starting a guest: %w", err), g.Stop())
	}
	return g, nil
}

func (g *Guest) start(ctx context.Context) (err error) {
	if err := buildAgent(ctx, filepath.Join(g.Shared, wire.Agent)); err != nil {
		return err
	}
	if g.network, err = newNetwork(); err != nil {
		return err
	}
	g.Address, g.Host = g.network.guest().String(), g.network.host().String()
	if err := g.boot(ctx); err != nil || !g.options.ZFS {
		return err
	}
	return g.installZFS(ctx)
}

// makeDir makes the guest's folder in the cache, and removes those of guests whose
// owner was killed: no lock is held on them.
func (g *Guest) makeDir() error {
	cacheDir, err := cache.Dir()
	if err != nil {
		return err
	}
	all := filepath.Join(cacheDir, "vm-guests")
	if err := os.MkdirAll(all, 0o755); err != nil {
		return err
	}
	// Held while folders come and go, so that none is swept before it is locked.
	door, err := waitForLock(all)
	if err != nil {
		return err
	}
	defer door.Close()
	if err := sweep(all); err != nil {
		return err
	}
	if g.dir, err = os.MkdirTemp(all, ""); err != nil {
		return err
	}
	if g.lock, err = cache.TryLock(filepath.Join(g.dir, "lock")); err != nil {
		return err
	}
	g.Shared = filepath.Join(g.dir, "shared")
	return os.Mkdir(g.Shared, 0o755)
}

func waitForLock(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func sweep(all string) error {
	entries, err := os.ReadDir(all)
	if err != nil {
		return err
	}
	for _, e := range entries {
		dir := filepath.Join(all, e.Name())
		lock, err := cache.TryLock(filepath.Join(dir, "lock"))
		if errors.Is(err, cache.ErrLocked) {
			continue
		}
		if err != nil {
			return err
		}
		err = os.RemoveAll(dir)
		lock.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// buildAgent compiles the agent into the file target.
func buildAgent(ctx context.Context, target string) error {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		return errors.New("cannot tell where the agent's source is")
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", target, "./agent")
	cmd.Dir = filepath.Dir(file)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if output, err := tiedOutput(cmd); err != nil {
		return fmt.Errorf("building the agent: %w\n%s", err, output)
	}
	return nil
}

func (g *Guest) console() string { return filepath.Join(g.dir, "console") }

// boot starts the machine and waits for its agent.
func (g *Guest) boot(ctx context.Context) error {
	console, err := os.OpenFile(g.console(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer console.Close()
	cmd := exec.Command(kernel,
		fmt.Sprintf("mem=%dM", g.options.Memory),
		// The disk is the image; what is written goes to a file of the guest's own.
		fmt.Sprintf("ubd0=%s,%s", filepath.Join(g.dir, "disk"), g.image), "root=/dev/ubda", "rootfstype=ext4", "rw",
		"vec0:transport=tap,ifname="+g.network.device+",depth=128,gro=1",
		"init=/sbin/vm-init", wire.ShareVariable+"="+g.Shared,
		fmt.Sprintf("%s=%s/%d", wire.AddressVariable, g.Address, g.network.prefix.Bits()), wire.GatewayVariable+"="+g.Host,
		"con=null", "con0=null,fd:1", "ssl=null", "panic=-1", "uml_dir="+g.dir, "umid=uml")
	cmd.Stdout, cmd.Stderr = console, console
	// The guest's memory is a file there.
	cmd.Env = append(os.Environ(), "TMPDIR="+memoryDir(g.options.Memory))
	// A process of the guest is one of the host too. In a name space of their own they
	// all die with the first one, the kernel.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	if g.process, err = tied.Start(cmd); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	alive, died := context.WithCancelCause(ctx)
	defer died(nil)
	go func() {
		select {
		case <-g.process.Done():
			died(errors.New("the machine has stopped"))
		case <-alive.Done():
		}
	}()
	if err := g.network.raise(alive); err != nil {
		return fmt.Errorf("%w\nThe end of its console:\n%s", err, g.consoleTail())
	}
	if err := g.awaitAgent(alive); err != nil {
		return fmt.Errorf("%w\nThe end of its console:\n%s", err, g.consoleTail())
	}
	return nil
}

// memoryDir is a folder in memory if there is room for size MiB, else an ordinary one.
func memoryDir(size int) string {
	const shm = "/dev/shm"
	var s unix.Statfs_t
	if unix.Statfs(shm, &s) == nil && s.Type == unix.TMPFS_MAGIC && int64(s.Bavail)*s.Bsize > int64(size)<<20 {
		return shm
	}
	return os.TempDir()
}

func (g *Guest) awaitAgent(ctx context.Context) error {
	for {
		// A guest that boots does not refuse: it does not answer.
		short, cancel := context.WithTimeout(ctx, 2*time.Second)
		conn, err := g.dial(short)
		cancel()
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the agent does not answer: %w (%w)", context.Cause(ctx), err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (g *Guest) dial(ctx context.Context) (net.Conn, error) {
	dialer := net.Dialer{Timeout: bootTimeout}
	return dialer.DialContext(ctx, "tcp", net.JoinHostPort(g.Address, strconv.Itoa(wire.Port)))
}

func (g *Guest) consoleTail() string {
	text, err := os.ReadFile(g.console())
	if err != nil {
		return err.Error()
	}
	return string(progress.Last(text, progress.TailLines))
}

// Reboot boots the guest again, as after a power cut: what it has not written to its
// disk is lost (see sync(8)), what it has is there. Its address stays.
func (g *Guest) Reboot(ctx context.Context) error {
	g.process.Kill()
	if err := g.boot(ctx); err != nil {
		return fmt.Errorf("rebooting a guest: %w", err)
	}
	if g.options.ZFS {
		return g.loadZFS(ctx)
	}
	return nil
}

// Stop ends the guest at once, as a power cut, and removes what it has left on the host.
func (g *Guest) Stop() error {
	if g.process != nil {
		g.process.Kill()
	}
	if g.network != nil {
		g.network.release()
	}
	if g.lock != nil {
		defer g.lock.Close()
	}
	if err := os.RemoveAll(g.dir); err != nil {
		return fmt.Errorf("removing a guest's files: %w", err)
	}
	return nil
}
