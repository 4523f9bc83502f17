// Package harness is what the end-to-end tests, the benches and the quickstart
// have in common: a Berth process to start and kill, claims to make and wait for.
package harness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/berth-storage/berth/test/tied"
)

// Repository is the folder of Berth's sources.
func Repository() (string, error) {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		return "", errors.New("cannot tell where the repository is")
	}
	return filepath.Dir(filepath.Dir(filepath.Dir(file))), nil
}

// Program builds the program at path below the repository (as "cmd/berth") into
// folder and gives the path of the binary. It has the race detector if the caller has.
func Program(ctx context.Context, folder, path string) (string, error) {
	root, err := Repository()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(folder, filepath.Base(path))
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", binary, "./"+path)
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if raceDetector {
		build.Env = append(os.Environ(), "CGO_ENABLED=1", "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -race"))
	}
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", path, err, output)
	}
	return binary, nil
}

// FreePort gives a TCP port on loopback that nothing listens at now, and each time
// another one. It is below those that the kernel gives to outgoing connections:
// one of these would otherwise get it while the server that has it is being restarted.
func FreePort() (int, error) {
	const first = 21_000 // above the fixed ports of NFSv3's side protocols
	limit, err := firstEphemeralPort()
	if err != nil {
		return 0, err
	}
	for range limit - first {
		port := first + int((portSeed+portsGiven.Add(1))%uint32(limit-first))
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("no port from %d to %d is free", first, limit-1)
}

// Two processes begin at different places, and none gives a port twice.
var (
	portSeed   = rand.Uint32()
	portsGiven atomic.Uint32
)

// firstEphemeralPort is the first of the ports that the kernel chooses itself; see ip(7).
func firstEphemeralPort() (first int, err error) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(text), &first)
	}
	if err == nil && first <= 22_000 {
		err = fmt.Errorf("the kernel's own ports begin at %d: there are no others to test with", first)
	}
	return first, err
}

// Process is a program under test.
type Process struct {
	*tied.Process
	LogFile string
}

// Start starts a program whose output goes to the end of logFile. It dies with the
// calling process, however that ends.
func Start(logFile, binary string, args ...string) (*Process, error) {
	return StartWith(nil, logFile, binary, args...)
}

// StartWith is Start with more environment.
func StartWith(env []string, logFile, binary string, args ...string) (*Process, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), env...)
	p, err := tied.Start(cmd)
	if err != nil {
		return nil, err
	}
	return &Process{Process: p, LogFile: logFile}, nil
}

// Log is what the program has printed so far.
func (p *Process) Log() string {
	text, err := os.ReadFile(p.LogFile)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Berth is a Berth process that serves one pool of directories.
type Berth struct {
	*Process
	Options
	URL string // of its metrics and health
}

// Options of StartBerth.
type Options struct {
	Binary      string
	Folder      string // for its configuration, log and run folder
	Root        string // of the pool
	Provisioner string
	Kubeconfig  string
	NFSHost     string // an address of this host to serve NFS on; 127.0.0.1 if empty
	NFSPort     int
	Public      bool     // serve on all addresses, and have this host's own in PersistentVolumes
	Storage     string   // YAML of what the pool is made of, if not of directories in Root, as in "zfs: {…}"
	Pool        string   // more YAML for the pool, as in "maxVolumes: 3"
	Config      string   // more YAML for berth.yaml, below the pool and the NFS server; see writeConfig
	Ganesha     string   // more YAML for the key ganesha, as in "gracePeriod: 5s"
	Args        []string // more arguments, as in "--standby"
	Env         []string // more environment, as in "NODE_NAME=n1"
}

// Address is where the NFS server of b answers.
func (o Options) Address() string { return fmt.Sprintf("%s:%d", o.host(), o.NFSPort) }

func (o Options) host() string { return cmp.Or(o.NFSHost, "127.0.0.1") }

// StartBerth starts a Berth. It does not wait: see Ready.
func StartBerth(o Options) (*Berth, error) {
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	file, err := o.writeConfig(port)
	if err != nil {
		return nil, err
	}
	p, err := StartWith(o.Env, filepath.Join(o.Folder, "berth.log"), o.Binary, append([]string{"serve", "--config", file}, o.Args...)...)
	if err != nil {
		return nil, err
	}
	return &Berth{Process: p, Options: o, URL: fmt.Sprintf("http://127.0.0.1:%d", port)}, nil
}

func (o Options) writeConfig(httpPort int) (string, error) {
	file := filepath.Join(o.Folder, fmt.Sprintf("berth-%d.yaml", httpPort))
	var b strings.Builder
	fmt.Fprintf(&b, "pools:\n- name: local\n  provisioner: %s\n  %s\n", o.Provisioner, cmp.Or(o.Storage, fmt.Sprintf("dir: {root: %s}", o.Root)))
	if o.Pool != "" {
		b.WriteString("  " + o.Pool + "\n")
	}
	listen, hostname := o.host(), o.host()
	if o.Public {
		listen, hostname = `""`, `""`
	}
	fmt.Fprintf(&b, "ganesha: {listen: %s, port: %d, runDir: %s", listen, o.NFSPort, filepath.Join(o.Folder, "run"))
	if o.Ganesha != "" {
		b.WriteString(", " + o.Ganesha)
	}
	fmt.Fprintf(&b, "}\nserver: {hostname: %s}\nhttp: {listen: \"127.0.0.1:%d\"}\n", hostname, httpPort)
	if !strings.Contains(o.Config, "kubernetes:") {
		fmt.Fprintf(&b, "kubernetes: {kubeconfig: %s}\n", o.Kubeconfig)
	}
	b.WriteString(o.Config)
	return file, os.WriteFile(file, []byte(b.String()), 0o600)
}

// Ready waits until b serves NFS. It fails if the process ends before that.
func (b *Berth) Ready(ctx context.Context) error {
	for {
		if err := b.get(ctx, "/readyz", io.Discard); err == nil {
			return nil
		}
		select {
		case <-b.Done():
			return fmt.Errorf("berth ended before it was ready: %w\n%s", b.Wait(ctx), b.Log())
		case <-ctx.Done():
			return fmt.Errorf("berth is not ready: %w\n%s", ctx.Err(), b.Log())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Metrics gives the metrics of b in Prometheus' text format.
func (b *Berth) Metrics(ctx context.Context) (string, error) {
	var text strings.Builder
	err := b.get(ctx, "/metrics", &text)
	return text.String(), err
}

func (b *Berth) get(ctx context.Context, path string, to io.Writer) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, b.URL+path, http.NoBody)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, response.Status)
	}
	_, err = io.Copy(to, response.Body)
	return err
}

// Children are the ids of b's own processes with this name (as "ganesha.nfsd").
func (b *Berth) Children(name string) []int { return tied.BelowNamed(b.PID, name) }
