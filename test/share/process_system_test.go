//go:build system

package share

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/backend/subdir"
	"github.com/berth-storage/berth/internal/export/fixed"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/test/tied"
	"github.com/berth-storage/berth/test/vm"
)

// A process of its own works on a share: this test binary. So its end can be seen, and
// that of one that is killed.

const taskVariable = "BERTH_TEST_TASK"

// task says on what share it works.
type task struct {
	Server, Path, Root string
	MountOptions       []string
	Standby            bool
}

// process is that process. It tells what happens in lines, and takes orders: "create
// NAME" and "delete NAME". It gives its exit status.
func process(text string) int {
	var what task
	if err := json.Unmarshal([]byte(text), &what); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	o := subdir.Options{
		Server: what.Server, Path: what.Path, Root: what.Root, Mount: true, MountOptions: what.MountOptions,
		ProbeEvery: time.Second, Stall: 2 * time.Second,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Changed: func(why error) {
			if why == nil {
				say("available")
			} else {
				say("away: %v", why)
			}
		},
	}
	if what.Standby {
		o.Dir.Wait = func(h dir.Holder) { say("standing by: %v", h) }
	}
	orders := make(chan string)
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			orders <- in.Text()
		}
	}()
	subdir.NewShare(o).Run(ctx, func(ctx context.Context, b *subdir.Backend) { work(ctx, b, orders) })
	say("end")
	return 0
}

var saying sync.Mutex

func say(format string, args ...any) {
	saying.Lock()
	defer saying.Unlock()
	fmt.Printf(format+"\n", args...)
}

// work does what is ordered, all at the same time.
func work(ctx context.Context, b *subdir.Backend, orders <-chan string) {
	m := volume.NewManager(volume.Pool{
		Name: "nas", Backend: b, Server: fixed.Server{}, ExportPath: "/", Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Observe: func(operation string, _ time.Duration, err error) {
			if operation == "purge" && err == nil {
				say("purged")
			}
		},
	})
	if _, err := m.Recover(ctx); err != nil {
		say("cannot recover: %v", err)
		<-ctx.Done()
		return
	}
	say("serving %s", b.Identity())
	var workers sync.WaitGroup
	workers.Go(func() { m.Run(ctx) })
	for {
		select {
		case <-ctx.Done():
			workers.Wait()
			return
		case order := <-orders:
			workers.Go(func() { obey(ctx, m, order) })
		}
	}
}

func obey(ctx context.Context, m *volume.Manager, order string) {
	verb, name, _ := strings.Cut(order, " ")
	n, err := volume.ParseName(name)
	if err != nil {
		say("failed %s: %v", order, err)
		return
	}
	if verb == "delete" {
		err = m.Delete(ctx, n, "")
	} else {
		_, err = m.Create(ctx, volume.Spec{
			Name: n, Path: n.RelPath(), Size: 1 << 20, Claim: volume.Claim{Namespace: "default", Name: name, UID: name}, Owner: volume.Owner{Mode: 0o770},
		})
	}
	if err != nil {
		say("failed %s: %v", order, err)
	} else {
		say("done %s", order)
	}
}

// worker is a process that works on a share.
type worker struct {
	*tied.Process
	orders io.Writer
	lines  chan string
}

// startWorker starts one, in the network namespace of that name if it is not "".
func startWorker(t *testing.T, namespace string, what task) *worker {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(what)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{program}
	if namespace != "" {
		args = []string{"nsenter", "--net=/run/netns/" + namespace, program}
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), taskVariable+"="+string(text))
	cmd.Dir = "/"
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{orders: in, lines: make(chan string, 1000)}
	go func() {
		defer close(w.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			w.lines <- lines.Text()
		}
	}()
	if w.Process, err = tied.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(w.PID, syscall.SIGKILL)
		<-w.Done()
		unmount(t, what.Root)
	})
	return w
}

// unmount unmounts what a worker that was killed has left.
func unmount(t *testing.T, root string) {
	t.Helper()
	if out, err := (vm.Here{}).Run(context.Background(), "sh", "-ec", `! grep -q " $1 " /proc/mounts || umount -f -l "$1"`, "sh", root); err != nil {
		t.Errorf("unmounting %s: %v: %s", root, err, out)
	}
}

// patience is for a slow machine under load.
const patience = 3 * time.Minute

// await waits for a line that begins with prefix; others are passed over.
func (w *worker) await(t *testing.T, prefix string) string {
	t.Helper()
	var seen []string
	for end := time.After(patience); ; {
		select {
		case line, more := <-w.lines:
			if !more {
				t.Fatalf("it ended, and said no %q: %q", prefix, seen)
			}
			if strings.HasPrefix(line, prefix) {
				return line
			}
			seen = append(seen, line)
		case <-end:
			t.Fatalf("it says no %q: %q", prefix, seen)
		}
	}
}

func (w *worker) order(t *testing.T, order string) {
	t.Helper()
	if _, err := fmt.Fprintln(w.orders, order); err != nil {
		t.Fatal(err)
	}
}

// do has an order obeyed, again and again while something is in the way.
func (w *worker) do(t *testing.T, order string) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		w.order(t, order)
		for {
			line := w.await(t, "")
			if line == "done "+order {
				return
			}
			if strings.HasPrefix(line, "failed "+order) {
				break
			}
		}
	}
	t.Fatalf("%q is never done", order)
}

// stop ends the process, which may not take long whatever its share does.
func (w *worker) stop(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(w.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.Done():
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
}
