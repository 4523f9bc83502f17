package config

import (
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
	client                        clientFlags
}

func (f *nfsSubdirFlags) register(set *flag.FlagSet) {
	set.StringVar(&f.root, "root", nfsSubdirRoot, "`path` where the share is mounted")
	set.StringVar(&f.cluster, "cluster", "", "`name` of the cluster on the share (default: the uid of the namespace kube-system)")
	set.StringVar(&f.http, "http-listen", "", "`address` for metrics and health (default: none)")
	set.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	f.client.register(set, "")
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
	head := fmt.Sprintf("Usage: berth %s [flags], with the environment variables %s, %s, %s,\n%s and %s. Flags, also with two dashes:\n",
		AdoptNFSSubdir, envProvisionerName, envNFSServer, envNFSPath, envKubeconfig, envLeaderElection)
	if err := parseFlags(set, args, usage, head); err != nil {
		return Config{}, err
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
	f.client.apply(&c.Kubernetes)
	c.HTTP.Listen = f.http
	c.Log.Level = f.logLevel
	c.complete()
	return c
}
