// Command devcluster starts and stops a Kubernetes control plane for people:
// to try Berth, and to work on it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/berth-storage/berth/test/cluster"
)

const usage = `usage: devcluster COMMAND [flags]

  up            start the cluster; if it runs already, say so
  down          stop the cluster and keep its data for the next up
  kubectl-path  print the path of the kubectl of the cluster

The cluster has no nodes: it stores objects and runs controllers, but no pods.
It listens on loopback only. "devcluster COMMAND -h" lists the flags.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "devcluster:", err)
		os.Exit(1)
	}
}

// list is a flag that may be given several times.
type list []string

// String implements flag.Value.
func (l *list) String() string { return fmt.Sprint(*l) }

// Set implements flag.Value.
func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}

// run does what the command line says.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return errors.New("no command given")
	}
	command, args := args[0], args[1:]
	flags := flag.NewFlagSet("devcluster "+command, flag.ContinueOnError)
	flags.SetOutput(stderr)
	dir := flags.String("dir", filepath.Join("out", "cluster"), "folder of the cluster: data, keys, logs, kubeconfig")

	var do func() error
	switch command {
	case "up":
		options := cluster.Options{Detach: true, Log: stdout}
		flags.Var((*list)(&options.APIServerArgs), "apiserver-arg", "a flag for kube-apiserver; may be repeated")
		flags.Var((*list)(&options.KubeControllerManagerArgs), "kcm-arg", "a flag for kube-controller-manager, as --kube-api-qps=20; may be repeated")
		flags.BoolVar(&options.Scheduler, "scheduler", false, "run kube-scheduler too")
		flags.BoolVar(&options.Snapshots, "snapshots", false, "know VolumeSnapshots, and run the snapshot-controller")
		do = func() error { return up(ctx, *dir, options) }
	case "down":
		purge := flags.Bool("purge", false, "remove the data, keys and logs too")
		do = func() error { return down(ctx, *dir, *purge, stdout) }
	case "kubectl-path":
		do = func() error { return kubectlPath(*dir, stdout) }
	case "help", "-h", "-help", "--help":
		fmt.Fprint(stdout, usage)
		return nil
	default:
		fmt.Fprint(stderr, usage)
		return fmt.Errorf("no command is called %q", command)
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%q is not a flag of %s", flags.Arg(0), command)
	}
	return do()
}

// up starts the cluster in the folder.
func up(ctx context.Context, dir string, options cluster.Options) error {
	started := time.Now()
	options.Dir = dir
	fmt.Fprintf(options.Log, "starting a Kubernetes %s control plane in %s\n", cluster.Version, dir)
	_, err := cluster.Start(ctx, options)
	switch {
	case errors.Is(err, cluster.ErrRunning):
		fmt.Fprintln(options.Log, "it is up already; to start it with other flags, stop it first")
	case err != nil:
		return err
	default:
		fmt.Fprintf(options.Log, "up after %.1f s\n", time.Since(started).Seconds())
	}
	path, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("finding the cluster's folder: %w", err)
	}
	fmt.Fprintf(options.Log, "kubectl is %s\n", filepath.Join(path, "kubectl"))
	// Quoted for the shell, as people paste it there.
	quoted := strings.ReplaceAll(filepath.Join(path, "kubeconfig"), "'", `'\''`)
	fmt.Fprintf(options.Log, "export KUBECONFIG='%s'\n", quoted)
	return nil
}

// down stops the cluster in the folder.
func down(ctx context.Context, dir string, purge bool, stdout io.Writer) error {
	started := time.Now()
	number, err := cluster.StopDetached(ctx, dir)
	if err != nil {
		return err
	}
	if number > 0 {
		fmt.Fprintf(stdout, "stopped %d processes in %.1f s\n", number, time.Since(started).Seconds())
	} else {
		fmt.Fprintf(stdout, "nothing runs in %s\n", dir)
	}
	if !purge {
		return nil
	}
	if err := cluster.Purge(dir); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "removed the data in %s\n", dir)
	return nil
}

// kubectlPath prints the path of the kubectl script.
func kubectlPath(dir string, stdout io.Writer) error {
	path, err := filepath.Abs(filepath.Join(dir, "kubectl"))
	if err != nil {
		return fmt.Errorf("finding the cluster's folder: %w", err)
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("there is no cluster in %s, start one with up: %w", dir, err)
	}
	fmt.Fprintln(stdout, path)
	return nil
}
