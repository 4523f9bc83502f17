package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/berth-storage/berth/internal/volume"
)

// What nfs-subdir-external-provisioner is told, by environment variables.
const (
	envProvisionerName = "PROVISIONER_NAME"
	envNFSServer       = "NFS_SERVER"
	envNFSPath         = "NFS_PATH"
	envKubeconfig      = "KUBECONFIG"
	envLeaderElection  = "ENABLE_LEADER_ELECTION"
)

// nfsSubdirRoot is where its manifests mount the share.
const nfsSubdirRoot = "/persistentvolumes"

// nfsSubdirFlags are Berth's own: nfs-subdir-external-provisioner has none but those of
// its log.
type nfsSubdirFlags struct {
	root, cluster, http, logLevel string
	workers, burst                int
	qps                           float64
}

func (f *nfsSubdirFlags) register(set *flag.FlagSet) {
	set.StringVar(&f.root, "root", nfsSubdirRoot, "`path` where the share is mounted")
	set.StringVar(&f.cluster, "cluster", "", "`name` of the cluster on the share (default: the uid of the namespace kube-system)")
	set.StringVar(&f.http, "http-listen", "", "`address` for metrics and health (default: none)")
	set.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	d := Default().Kubernetes
	set.IntVar(&f.workers, "workers", d.Workers, "`number` of claims, and of volumes, that are worked on at the same time")
	set.Float64Var(&f.qps, "kube-qps", float64(d.QPS), "`number` of requests to the API server in a second, in the long run")
	set.IntVar(&f.burst, "kube-burst", d.Burst, "`number` of requests to the API server at once")
	const ignored = "accepted, and without effect"
	for _, name := range []string{"logtostderr", "alsologtostderr"} {
		set.BoolFunc(name, ignored, func(string) error { return nil })
	}
	for _, name := range []string{"v", "vmodule", "stderrthreshold", "log_dir", "log_backtrace_at"} {
		set.Func(name, ignored, func(string) error { return nil })
	}
}

// FromNFSSubdir translates how nfs-subdir-external-provisioner is run: its environment,
// and flags. usage is where -help prints. It returns flag.ErrHelp after that.
func FromNFSSubdir(args []string, env func(string) string, usage io.Writer) (Config, error) {
	var f nfsSubdirFlags
	set := flag.NewFlagSet(AdoptNFSSubdir, flag.ContinueOnError)
	f.register(set)
	set.SetOutput(io.Discard) // the error is returned; printing it too would say it twice
	if err := set.Parse(args); errors.Is(err, flag.ErrHelp) {
		set.SetOutput(usage)
		fmt.Fprintf(usage, "Usage: berth %s [flags], with the environment variables %s, %s, %s,\n%s and %s. Flags, also with two dashes:\n",
			AdoptNFSSubdir, envProvisionerName, envNFSServer, envNFSPath, envKubeconfig, envLeaderElection)
		set.PrintDefaults()
		return Config{}, err
	} else if err != nil {
		return Config{}, flagError(set, err)
	}
	if set.NArg() > 0 {
		return Config{}, fmt.Errorf("unexpected argument %q: flags only, a value after '='", set.Arg(0))
	}
	var missing []string
	for _, name := range []string{envProvisionerName, envNFSServer, envNFSPath} {
		if env(name) == "" {
			missing = append(missing, name)
		}
	}
	if missing != nil {
		return Config{}, fmt.Errorf("the environment variables %s are not set", strings.Join(missing, ", "))
	}
	standby := true
	if value := env(envLeaderElection); value != "" {
		var err error
		if standby, err = strconv.ParseBool(value); err != nil {
			return Config{}, fmt.Errorf("the environment variable %s: %q is neither true nor false", envLeaderElection, value)
		}
	}
	c := f.config(env)
	c.Standby = standby
	return c, c.Validate()
}

func (f nfsSubdirFlags) config(env func(string) string) Config {
	c := Default()
	c.Pools = []Pool{{
		Name:        "share",
		Provisioner: env(envProvisionerName),
		Subdir: &Subdir{
			Server: env(envNFSServer), Path: path.Clean(env(envNFSPath)), Root: filepath.Clean(f.root), Cluster: f.cluster,
		},
		Adopt:    AdoptNFSSubdir,
		Defaults: Defaults{Mode: DefaultMode, OnDelete: volume.OnDeleteArchive, Existing: volume.ExistingReuse},
		Archives: Archives{Beside: true},
	}}
	c.Kubernetes.Kubeconfig = env(envKubeconfig)
	c.Kubernetes.Workers, c.Kubernetes.QPS, c.Kubernetes.Burst = f.workers, float32(f.qps), f.burst
	c.HTTP.Listen = f.http
	c.Log.Level = f.logLevel
	c.complete()
	return c
}
