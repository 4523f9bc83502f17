package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// What there is in the folder of a cluster.
const (
	etcdDir         = "etcd"
	pkiDir          = "pki"
	logDir          = "logs"
	kubectlCacheDir = "kubectl-cache"
	kubeconfigFile  = "kubeconfig"
	kubectlFile     = "kubectl"
	stateFile       = "state.json"
	lockFile        = "lock"
)

// ErrRunning says that a detached cluster already runs in the folder.
var ErrRunning = errors.New("the cluster is already running")

// Options say what Start starts. The zero value is a cluster for one test.
type Options struct {
	// Dir is the folder for data, keys and logs. What a cluster before left
	// there is used again. If it is empty, a temporary folder is made, which
	// Stop removes.
	Dir string
	// APIServerArgs are more flags of kube-apiserver. They win over those that
	// this package sets; so do those below.
	APIServerArgs []string
	// KubeControllerManagerArgs are more flags of kube-controller-manager. This
	// package sets --kube-api-qps=300 and --kube-api-burst=600, since the
	// component's own default of 20 binds no more than 4 claims a second.
	KubeControllerManagerArgs []string
	// Scheduler starts kube-scheduler too.
	Scheduler bool
	// Snapshots has it begin with what StartSnapshots starts.
	Snapshots bool
	// Audit has the API server note the requests of service accounts, see Requests.
	Audit bool
	// Detach lets the processes go on when this process ends. StopDetached
	// stops them.
	Detach bool
	// Log gets lines of progress. Nil discards them.
	Log io.Writer
}

// Cluster is a running control plane.
type Cluster struct {
	// Binary is the path of the control plane's binary.
	Binary string
	// Dir is the absolute path of the folder with data, keys and logs.
	Dir string

	options   Options
	lock      *os.File
	client    *http.Client
	authority *authority
	apiPort   *port
	etcdPort  *port
	peerPort  *port
	ready     bool
	stopped   bool
	processes map[string]*process
	// mu is held by each method that starts or stops processes, to its end.
	mu sync.Mutex
}

// Start starts a cluster and waits until it is ready for use. The binary is
// built first if need be, see Binary. If the folder has a detached cluster that
// runs, the error is ErrRunning; one that is damaged is stopped first.
//
// Unless Options.Detach is set, the processes end with the calling process,
// even if that is killed. A start that fails stops what it started, but leaves
// a temporary folder for its logs.
func Start(ctx context.Context, options Options) (*Cluster, error) {
	c, err := newCluster(ctx, options)
	if err != nil {
		return nil, err
	}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the cluster: %w", err), c.end())
	}
	if options.Detach {
		c.release()
	}
	return c, nil
}

// Stop stops all components; those of a cluster that is stopped already stay
// so. The data stays in Dir, unless that is temporary. It is an error if a
// component had ended by itself; a temporary folder is then kept for its logs.
func (c *Cluster) Stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return nil
	}
	early := c.ended()
	if err := errors.Join(early, c.end()); err != nil {
		return fmt.Errorf("stopping the cluster: %w", err)
	}
	return c.removeTemporary()
}

// Kubeconfig returns the path of the administrator's kubeconfig. It holds all
// its keys, so it may be copied.
func (c *Cluster) Kubeconfig() string {
	return filepath.Join(c.Dir, kubeconfigFile)
}

// Authority returns the certificate, in PEM, that the certificates of the cluster's
// clients are signed with.
func (c *Cluster) Authority() []byte {
	return c.authority.pem
}

// Server returns the URL of the API server. It stays the same until Stop.
func (c *Cluster) Server() string {
	return c.apiPort.url()
}

// StopAPIServer stops the API server, as an outage that the other components
// see; at the end of ctx it is killed. A stopped one stays so.
func (c *Cluster) StopAPIServer(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopComponent(ctx, apiServer)
}

// StartAPIServer starts the API server again, with the same address, and waits
// until it is ready. Its clients come back when they try again, each in its own
// time: for the watches of the controller manager, whose pauses grow with each
// outage, this may take a minute.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped || c.processes[apiServer] != nil {
		return errors.New("starting the API server: it must be stopped, and the rest of the cluster must run")
	}
	if err := c.startAPIServer(ctx); err != nil {
		return fmt.Errorf("starting the API server: %w", err)
	}
	return nil
}

// newCluster makes the folder, takes its lock and prepares all that the start
// needs.
func newCluster(ctx context.Context, options Options) (*Cluster, error) {
	if options.Log == nil {
		options.Log = io.Discard
	}
	c := &Cluster{options: options, processes: map[string]*process{}}
	var err error
	switch {
	case options.Dir != "":
		c.Dir, err = filepath.Abs(options.Dir)
	case options.Detach:
		err = errors.New("a detached one needs a folder that stays: set Options.Dir")
	default:
		c.Dir, err = os.MkdirTemp("", "berth-cluster-")
	}
	if err != nil {
		return nil, fmt.Errorf("choosing the cluster's folder: %w", err)
	}
	if c.lock, err = lockDir(c.Dir); err != nil {
		return nil, errors.Join(err, c.removeTemporary())
	}
	if err := c.prepare(ctx); err != nil {
		c.release()
		return nil, errors.Join(err, c.removeTemporary())
	}
	return c, nil
}

// prepare finds the binary and ports and writes the files.
func (c *Cluster) prepare(ctx context.Context) error {
	err := stopLeftovers(ctx, c.Dir, c.options.Log)
	if err != nil {
		return err
	}
	if c.Binary, err = Binary(ctx, c.options.Log); err != nil {
		return err
	}
	for _, p := range []**port{&c.apiPort, &c.etcdPort, &c.peerPort} {
		if *p, err = newPort(); err != nil {
			return err
		}
	}
	return c.writeFiles()
}

// start starts the components in the order in which they need each other.
func (c *Cluster) start(ctx context.Context) error {
	started := time.Now()
	if err := c.startComponent(etcd, c.etcdFlags(), nil); err != nil {
		return err
	}
	if err := c.startAPIServer(ctx); err != nil {
		return err
	}
	c.say("the API server is ready at %s after %.1f s", c.Server(), time.Since(started).Seconds())

	if err := c.startComponent(controllerManager, c.controllerManagerFlags(), c.options.KubeControllerManagerArgs); err != nil {
		return err
	}
	if c.options.Scheduler {
		if err := c.startComponent(scheduler, c.schedulerFlags(), nil); err != nil {
			return err
		}
	}
	if err := c.await(ctx, controllerManager, c.controllersWork); err != nil {
		return err
	}
	c.say("the controllers are at work after %.1f s", time.Since(started).Seconds())
	if c.options.Snapshots {
		if err := c.startSnapshots(ctx); err != nil {
			return err
		}
		c.say("the snapshot-controller is started after %.1f s", time.Since(started).Seconds())
	}
	c.ready = true
	return c.noteState()
}

// startAPIServer starts the API server and waits until it is ready.
func (c *Cluster) startAPIServer(ctx context.Context) error {
	if err := c.startComponent(apiServer, c.apiServerFlags(), c.options.APIServerArgs); err != nil {
		return err
	}
	return c.await(ctx, apiServer, c.apiServerReady)
}

// startComponent starts a component that is in the control plane's binary.
func (c *Cluster) startComponent(name string, flags, more []string) error {
	args := append([]string{name}, flags...)
	return c.startProgram(name, c.Binary, append(args, more...))
}

// startProgram starts a component and notes it at once, so that it can be
// stopped even if this process ends now.
func (c *Cluster) startProgram(name, binary string, args []string) error {
	log := filepath.Join(c.Dir, logDir, name+".log")
	p, err := startProcess(name, log, c.command(binary, args), c.options.Detach)
	if err != nil {
		return err
	}
	c.processes[name] = p
	return c.noteState()
}

// stopComponent stops a component, if it runs.
func (c *Cluster) stopComponent(ctx context.Context, name string) error {
	p := c.processes[name]
	if p == nil {
		return nil
	}
	if err := p.stop(ctx); err != nil {
		return err
	}
	<-p.done
	delete(c.processes, name)
	return c.noteState()
}

// end stops all components, against the order in which they were started, and
// gives up what the cluster holds.
func (c *Cluster) end() error {
	var failed error
	for _, name := range []string{snapshotControllerName, scheduler, controllerManager, apiServer, etcd} {
		failed = errors.Join(failed, c.stopComponent(context.Background(), name))
	}
	if failed == nil && c.options.Detach {
		failed = removeState(c.Dir)
	}
	c.stopped = true
	c.release()
	return failed
}

// release gives up the ports and the lock of the folder.
func (c *Cluster) release() {
	for _, p := range []*port{c.apiPort, c.etcdPort, c.peerPort} {
		if p != nil {
			p.release()
		}
	}
	c.lock.Close()
}

// removeTemporary removes the folder if Start made it up.
func (c *Cluster) removeTemporary() error {
	if c.options.Dir != "" {
		return nil
	}
	if err := os.RemoveAll(c.Dir); err != nil {
		return fmt.Errorf("removing the cluster's temporary folder: %w", err)
	}
	return nil
}

// ended returns how a component ended by itself, or nil if all run.
func (c *Cluster) ended() error {
	for _, p := range c.processes {
		if err := p.ended(); err != nil {
			return err
		}
	}
	return nil
}

// say writes a line of progress.
func (c *Cluster) say(format string, args ...any) {
	fmt.Fprintf(c.options.Log, format+"\n", args...)
}
