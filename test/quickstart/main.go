// Command quickstart shows Berth's main job on this machine: a cluster, a Berth,
// a claim that becomes Bound, a file written and read over NFS. It runs on the
// dev cluster, or on the cluster of KUBECONFIG, and cleans up after itself, also
// on Ctrl-C. Without a terminal it ends by itself.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/test/cluster"
	"github.com/berth-storage/berth/test/harness"
)

// exampleProvisioner is the one that examples/class.yaml names.
const exampleProvisioner = "example.com/nfs"

// patience is how long a step may take that a machine usually does in seconds.
const patience = 4 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	// Being interrupted is how a session at a terminal ends.
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// program is one that the tour runs: its path and first arguments.
type program []string

// name is how people call it.
func (p program) name() string { return filepath.Base(p[len(p)-1]) }

// tour is one run of the quickstart.
type tour struct {
	folder     string // for everything that it makes
	kubeconfig string
	kubectl    program
	own        bool // the cluster is the user's
	// provisioner is, in a user's cluster, one that nothing else can go by.
	provisioner string
	client      program // of NFS
	berth       *harness.Berth
	made        []string // manifests whose objects are ours to delete
}

func run(ctx context.Context) (err error) {
	t := &tour{kubeconfig: os.Getenv("KUBECONFIG")}
	if t.folder, err = filepath.Abs("out/quickstart"); err != nil {
		return err
	}
	if err := t.removeFolder(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(t.folder, "volumes"), 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.removeFolder()) }()

	stopCluster, err := t.startCluster(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopCluster()) }()
	if err := t.startBerth(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.stopBerth(context.WithoutCancel(ctx))) }()
	if err := t.awaitBerth(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.cleanUp(context.WithoutCancel(ctx))) }()
	if err := t.roundTrip(ctx); err != nil {
		return err
	}
	t.letPlay(ctx)
	return nil
}

func step(format string, args ...any) { fmt.Printf("\n==> "+format+"\n", args...) }

func (t *tour) startCluster(ctx context.Context) (stop func() error, err error) {
	t.provisioner = exampleProvisioner
	if t.kubeconfig != "" {
		t.own, t.provisioner = true, fmt.Sprintf("quickstart.berth.storage/nfs-%d", os.Getpid())
		step("Using your cluster (KUBECONFIG=%s)", t.kubeconfig)
		if path, err := exec.LookPath("kubectl"); err == nil {
			t.kubectl = program{path}
			return func() error { return nil }, nil
		}
		binary, err := cluster.Binary(ctx, os.Stdout)
		t.kubectl = program{binary, "kubectl"}
		return func() error { return nil }, err
	}
	step("Starting a Kubernetes control plane (etcd, API server, controllers) on loopback")
	c, err := cluster.Start(ctx, cluster.Options{Dir: filepath.Join(t.folder, "cluster"), Log: os.Stdout})
	if err != nil {
		return nil, err
	}
	t.kubeconfig = c.Kubeconfig()
	t.kubectl = program{c.Binary, "kubectl"}
	return c.Stop, nil
}

func (t *tour) startBerth(ctx context.Context) error {
	client, err := harness.Program(ctx, t.folder, "test/nfs4/nfs4")
	if err != nil {
		return err
	}
	t.client = program{client}
	port := 2049 // nodes of a real cluster mount the standard port
	if !t.own {
		if port, err = harness.FreePort(); err != nil {
			return err
		}
	}
	step("Starting Berth: it runs an NFS-Ganesha on port %d for volumes in %s/volumes", port, t.folder)
	t.berth, err = harness.StartBerth(harness.Options{
		Binary: "bin/berth", Folder: t.folder, Root: filepath.Join(t.folder, "volumes"),
		Provisioner: t.provisioner, Kubeconfig: t.kubeconfig, NFSPort: port, Public: t.own,
	})
	return err
}

// stopBerth stops Berth, and removes the Lease that it leaves in the cluster.
func (t *tour) stopBerth(ctx context.Context) error {
	identity, err := os.ReadFile(filepath.Join(t.berth.Root, ".berth", "identity"))
	if err != nil {
		return errors.Join(err, t.berth.Stop())
	}
	lease := strings.NewReplacer("/", "-", ".", "-").Replace(t.provisioner) + "-" + strings.TrimSpace(string(identity))
	stopped := t.berth.Stop()
	_, err = t.output(ctx, t.kubectl, "delete", "lease", lease, "--ignore-not-found")
	return errors.Join(stopped, err)
}

func (t *tour) awaitBerth(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return t.berth.Ready(limited)
}

// roundTrip makes the claim and uses it.
func (t *tour) roundTrip(ctx context.Context) error {
	step("Making the StorageClass and the claim")
	for _, file := range []string{"examples/class.yaml", "examples/claim.yaml"} {
		// Not "apply": in a user's cluster an object of that name may be there already.
		manifest, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		made := filepath.Join(t.folder, filepath.Base(file))
		manifest = bytes.ReplaceAll(manifest, []byte(exampleProvisioner), []byte(t.provisioner))
		if err := os.WriteFile(made, manifest, 0o600); err != nil {
			return err
		}
		if err := t.show(ctx, t.kubectl, "create", "-f", made); err != nil {
			return err
		}
		t.made = append(t.made, made)
	}
	if err := t.show(ctx, t.kubectl, "wait", "--for=jsonpath={.status.phase}=Bound", "--timeout=60s", "-f", "examples/claim.yaml"); err != nil {
		return err
	}
	if err := t.show(ctx, t.kubectl, "get", "pvc,pv"); err != nil {
		return err
	}
	volume, err := t.output(ctx, t.kubectl, "get", "-f", "examples/claim.yaml", "-o", "jsonpath={.spec.volumeName}")
	if err != nil {
		return err
	}
	path, err := t.output(ctx, t.kubectl, "get", "pv", volume, "-o", "jsonpath={.spec.nfs.path}")
	if err != nil {
		return err
	}
	step("Writing a file over NFS, and reading it in another client process")
	const greeting = "Berth was here."
	if err := t.show(ctx, t.client, "-server", t.berth.Address(), "-data", greeting, "put", path+"/greeting"); err != nil {
		return err
	}
	got, err := t.output(ctx, t.client, "-server", t.berth.Address(), "get", path+"/greeting")
	if err != nil {
		return err
	}
	if got != greeting {
		return fmt.Errorf("wrote %q and read %q", greeting, got)
	}
	fmt.Println(got)
	onDisk, err := os.ReadFile(filepath.Join(t.berth.Root, volume, "greeting"))
	if err != nil || string(onDisk) != greeting {
		return fmt.Errorf("on disk is %q, error %w", onDisk, err)
	}
	fmt.Printf("It is the file %s.\n", filepath.Join(t.berth.Root, volume, "greeting"))
	return nil
}

// letPlay prints what can be done now, and waits for Ctrl-C if there is somebody
// who could press it.
func (t *tour) letPlay(ctx context.Context) {
	if !isTerminal(os.Stdin) || !isTerminal(os.Stdout) {
		step("It works. (No terminal: cleaning up.)")
		return
	}
	kubectl := strings.Join(append(t.kubectl, "--kubeconfig", t.kubeconfig), " ")
	step("It works. In another terminal you can play on:")
	fmt.Printf("alias k='%s'\nk get pvc,pv,storageclass\nk describe pvc berth-claim\n", kubectl)
	fmt.Printf("%s -server %s ls /local\n", t.client[0], t.berth.Address())
	fmt.Printf("curl %s/metrics\n\nPress Ctrl-C here to clean up.\n", t.berth.URL)
	<-ctx.Done()
}

func (t *tour) cleanUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	step("Cleaning up: with the claim its volume goes")
	for _, file := range slices.Backward(t.made) {
		if err := t.show(ctx, t.kubectl, "delete", "--ignore-not-found", "-f", file); err != nil {
			return err
		}
	}
	return harness.Until(ctx, "the claim's directory is gone", func() bool { return len(t.volumes()) == 0 })
}

// volumes are the volumes that are there, those that the user made included.
func (t *tour) volumes() []string {
	paths, err := filepath.Glob(filepath.Join(t.folder, "volumes", "pvc-*"))
	if err != nil {
		return []string{err.Error()}
	}
	return paths
}

// removeFolder removes what the quickstart made, unless there is somebody's data in it.
func (t *tour) removeFolder() error {
	if left := t.volumes(); len(left) > 0 {
		return fmt.Errorf("volumes of claims that still exist, or did when an earlier run ended, are left: delete the claims, look whether you need the data, and remove %s\n%s",
			t.folder, strings.Join(left, "\n"))
	}
	return os.RemoveAll(t.folder)
}

// show runs a command, for people to read.
func (t *tour) show(ctx context.Context, p program, args ...string) error {
	cmd := t.command(ctx, p, args)
	fmt.Printf("$ %s %s\n", p.name(), strings.Join(args, " "))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// output runs a command for what it prints.
func (t *tour) output(ctx context.Context, p program, args ...string) (string, error) {
	cmd := t.command(ctx, p, args)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	text, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, complaint.String())
	}
	return string(text), nil
}

func (t *tour) command(ctx context.Context, p program, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p[0], append(slices.Clone(p[1:]), args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+t.kubeconfig)
	// Ctrl-C is for the quickstart, which then ends its commands itself.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
