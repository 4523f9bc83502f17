package config

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-storage/berth/internal/volume"
)

// AdoptZFSProvisioner and AdoptPVManager are values of Pool.Adopt, for zfs pools.
const (
	AdoptZFSProvisioner = "zfs-provisioner"
	AdoptPVManager      = "openshift-pvmanager"
)

// Environment variables of kubernetes-zfs-provisioner: of gentics' version, of its fork that
// makes local volumes too, and of the successor that works over ssh.
const (
	envZFSParent        = "ZFS_PARENT_DATASET"
	envZFSShareOptions  = "ZFS_SHARE_OPTIONS"
	envZFSShareSubnet   = "ZFS_SHARE_SUBNET"
	envZFSHostname      = "ZFS_SERVER_HOSTNAME"
	envZFSName          = "ZFS_PROVISIONER_NAME"
	envZFSInstance      = "ZFS_PROVISIONER_INSTANCE"
	envZFSReclaimPolicy = "ZFS_KUBE_RECLAIM_POLICY"
	envZFSKubeConf      = "ZFS_KUBE_CONF"
	envZFSKubeConfig    = "ZFS_KUBE_CONFIG_PATH"
	envZFSMetricsPort   = "ZFS_METRICS_PORT"
	envZFSMetricsAddr   = "ZFS_METRICS_ADDR"
	envZFSDebug         = "ZFS_DEBUG"
	envZFSExport        = "ZFS_ENABLE_EXPORT"
	envZFSUniqueName    = "ZFS_CREATE_UNIQUE_NAME"
	envZFSMod           = "ZFS_MOD"
	envZFSLocal         = "ZFS_EXEC_LOCAL"
	envZFSProgram       = "ZFS_BIN"
	envZFSSSHUser       = "ZFS_SSH_USER"
	envZFSSSHPort       = "ZFS_SSH_PORT"
	envZFSSSHKey        = "ZFS_SSH_KEY"
	envZFSSSHPassphrase = "ZFS_SSH_KEY_PASSPHRASE"
	envZFSSSHKnownHosts = "ZFS_SSH_KNOWN_HOSTS"
	envZFSSSHFolder     = "ZFS_SSH_MOUNT_PATH"
)

// envNodeName is one of addressVariables.
const envNodeName = "NODE_NAME"

var zfsVariables = []string{
	envZFSParent, envZFSShareOptions, envZFSShareSubnet, envZFSHostname, envZFSName, envZFSInstance, envZFSReclaimPolicy,
	envZFSKubeConf, envZFSKubeConfig, envZFSMetricsPort, envZFSMetricsAddr, envZFSDebug, envZFSExport, envZFSUniqueName, envZFSMod, envZFSLocal,
	envZFSProgram, envZFSSSHUser, envZFSSSHPort, envZFSSSHKey, envZFSSSHPassphrase, envZFSSSHKnownHosts, envZFSSSHFolder,
}

// Defaults of kubernetes-zfs-provisioner.
const (
	zfsProvisionerName      = "gentics.com/zfs"
	zfsShareOptions         = "rw=@10.0.0.0/8"
	zfsKubeConf             = "kube.conf"
	zfsMetricsPort          = "8080"
	zfsSSHFolder            = "/home/zfs/.ssh"
	zfsMode            Mode = 0o755 // as zfs makes the directory
	// The successor's own.
	successorShareOptions      = "on"
	successorMode         Mode = 0o775
)

// Host is the host that a program runs on.
type Host struct {
	Name     string
	FullName func() (string, error) // as hostname -f prints it
}

// zfsProvisionerFlags are Berth's own: kubernetes-zfs-provisioner has none but those of its log.
type zfsProvisionerFlags struct {
	client   clientFlags
	logLevel string
	standby  bool
}

func (f *zfsProvisionerFlags) register(set *flag.FlagSet) {
	f.client.register(set, "")
	set.StringVar(&f.logLevel, "log-level", "", "debug, info, warn or error (default: debug with ZFS_DEBUG, else info)")
	set.BoolVar(&f.standby, "standby", false, "wait while another process has the datasets open, and take over when it ends")
}

// FromZFSProvisioner translates how kubernetes-zfs-provisioner is run: its environment, and
// flags. usage is where -help prints. It returns flag.ErrHelp after that.
func FromZFSProvisioner(args []string, env func(string) string, host Host, usage io.Writer) (Config, error) {
	var f zfsProvisionerFlags
	set := flag.NewFlagSet(AdoptZFSProvisioner, flag.ContinueOnError)
	f.register(set)
	head := fmt.Sprintf("Usage: berth %s [flags], with its environment variables, %s and others. Flags, also with two dashes:\n",
		AdoptZFSProvisioner, envZFSParent)
	if err := parseFlags(set, args, usage, head); err != nil {
		return Config{}, err
	}
	c, err := zfsEnvironment{env, host}.config()
	if err != nil {
		return Config{}, err
	}
	f.client.apply(&c.Kubernetes)
	c.Log.Level = cmp.Or(f.logLevel, c.Log.Level)
	c.Standby = f.standby
	c.complete()
	return c, c.Validate()
}

type zfsEnvironment struct {
	env  func(string) string
	host Host
}

func (e zfsEnvironment) config() (Config, error) {
	c := Default()
	if e.env(envZFSParent) == "" {
		return c, fmt.Errorf("the environment variable %s is not set: it is the dataset below which volumes are made, like tank/kubernetes", envZFSParent)
	}
	debug, err := e.boolean(envZFSDebug, false)
	if err != nil {
		return c, err
	}
	if debug {
		c.Log.Level = "debug"
	}
	p, err := e.pool()
	if err != nil {
		return c, err
	}
	c.Pools = []Pool{p}
	if c.Server.Hostname, err = e.hostname(p); err != nil {
		return c, err
	}
	c.Kubernetes.Kubeconfig = e.kubeconfig()
	c.HTTP.Listen = net.JoinHostPort(e.env(envZFSMetricsAddr), cmp.Or(e.env(envZFSMetricsPort), zfsMetricsPort))
	return c, nil
}

func (e zfsEnvironment) pool() (Pool, error) {
	mode, err := e.mode()
	if err != nil {
		return Pool{}, err
	}
	p := Pool{
		Name: "zfs", Provisioner: e.provisioner(),
		ZFS: &ZFS{Dataset: e.env(envZFSParent), WidenAccessModes: e.successor()}, Adopt: AdoptZFSProvisioner, Exporter: ExporterZFSShare,
		ReclaimPolicy: e.env(envZFSReclaimPolicy), Defaults: Defaults{Mode: mode, OnDelete: volume.OnDeleteDelete},
	}
	export, err := e.boolean(envZFSExport, true)
	if err != nil {
		return p, err
	}
	unique, err := e.boolean(envZFSUniqueName, false)
	if err != nil {
		return p, err
	}
	if export {
		p.ZFS.ShareOptions = e.shareOptions()
	} else {
		p.Exporter, p.ZFS.VolumeType, p.ZFS.Node = ExporterNone, VolumeTypeLocal, cmp.Or(e.env(envNodeName), e.host.Name)
		if unique {
			p.Provisioner += "-" + e.host.Name
		}
	}
	p.ZFS.SSH, err = e.ssh()
	return p, err
}

func (e zfsEnvironment) provisioner() string {
	return cmp.Or(e.env(envZFSName), e.env(envZFSInstance), zfsProvisionerName)
}

// successor says whether the program was the one that works over ssh: its chart always sets this.
func (e zfsEnvironment) successor() bool { return e.env(envZFSInstance) != "" }

func (e zfsEnvironment) shareOptions() string {
	options, subnet := e.env(envZFSShareOptions), e.env(envZFSShareSubnet)
	switch {
	case options != "":
		return options
	case subnet != "":
		return "rw=@" + subnet
	case e.successor():
		return successorShareOptions
	}
	return zfsShareOptions
}

// hostname is the server's address in PersistentVolumes. In a pod whose address is known by
// the variables for that (see docs/configuration.md) these tell it.
func (e zfsEnvironment) hostname(p Pool) (string, error) {
	name := e.env(envZFSHostname)
	if name != "" || p.Exporter == ExporterNone || slices.ContainsFunc(addressVariables, func(v string) bool { return e.env(v) != "" }) {
		return name, nil
	}
	name, err := e.host.FullName()
	if err != nil {
		return "", fmt.Errorf("the host's name, which is the NFS server's in PersistentVolumes: %w: set %s", err, envZFSHostname)
	}
	return name, nil
}

// kubeconfig is "" in a cluster.
func (e zfsEnvironment) kubeconfig() string {
	if file := cmp.Or(e.env(envZFSKubeConf), e.env(envZFSKubeConfig)); file != "" {
		return file
	}
	if _, err := os.Stat(zfsKubeConf); err == nil {
		return zfsKubeConf
	}
	return ""
}

func (e zfsEnvironment) boolean(name string, usual bool) (bool, error) {
	value := e.env(name)
	if value == "" {
		return usual, nil
	}
	b, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("the environment variable %s: %q is neither true nor false", name, value)
	}
	return b, nil
}

// mode is that of directories after a chmod with the variable's value.
func (e zfsEnvironment) mode() (Mode, error) {
	switch value := e.env(envZFSMod); value {
	case "":
		if e.successor() {
			return successorMode, nil
		}
		return zfsMode, nil
	case "g+w":
		return 0o775, nil
	case "a+w", "ugo+w":
		return 0o777, nil
	default:
		mode, err := ParseMode(value)
		if err != nil {
			err = fmt.Errorf("the environment variable %s: %q is none of g+w, a+w and a mode like 0770", envZFSMod, value)
		}
		return mode, err
	}
}

// ssh is how the server is reached on which the datasets are; nil: they are here.
func (e zfsEnvironment) ssh() (*SSH, error) {
	local, err := e.boolean(envZFSLocal, false)
	if err != nil || local || !slices.ContainsFunc([]string{envZFSSSHUser, envZFSSSHKey, envZFSSSHKnownHosts, envZFSSSHFolder}, func(v string) bool { return e.env(v) != "" }) {
		return nil, err
	}
	folder := cmp.Or(e.env(envZFSSSHFolder), zfsSSHFolder)
	s := &SSH{
		Host: e.env(envZFSHostname), User: cmp.Or(e.env(envZFSSSHUser), "root"), Port: sshPort, Passphrase: e.env(envZFSSSHPassphrase),
		KeyFile: cmp.Or(e.env(envZFSSSHKey), firstKey(folder)), KnownHosts: cmp.Or(e.env(envZFSSSHKnownHosts), path.Join(folder, "known_hosts")),
	}
	s.BecomeRoot = s.User != "root" && (e.env(envZFSProgram) == "" || slices.Contains(strings.Fields(e.env(envZFSProgram)), "sudo"))
	if s.Host == "" {
		return nil, fmt.Errorf("the environment variable %s is not set: it is the host on which the datasets are", envZFSHostname)
	}
	if port := e.env(envZFSSSHPort); port != "" {
		if s.Port, err = strconv.Atoi(port); err != nil {
			return nil, fmt.Errorf("the environment variable %s: %q is not a port", envZFSSSHPort, port)
		}
	}
	return s, nil
}

// firstKey is the first that is there of the files that a key is usually in.
func firstKey(folder string) string {
	names := []string{"id_ed25519", "id_ecdsa", "id_rsa"}
	for _, name := range names {
		if _, err := os.Stat(path.Join(folder, name)); err == nil {
			return path.Join(folder, name)
		}
	}
	return path.Join(folder, names[0])
}

// ConvertZFSProvisioner translates how kubernetes-zfs-provisioner was run: by the variables
// of m, or else by those that env gives. Each parent dataset of the classes in m becomes a pool.
func ConvertZFSProvisioner(m Manifest, env func(string) string, host Host, usage io.Writer) ([]byte, error) {
	if m.Env != nil {
		var err error
		if env, err = m.environment(zfsVariables); err != nil {
			return nil, err
		}
	}
	e := zfsEnvironment{env, host}
	places := e.places(m.Classes)
	if len(places) > 1 || len(places) == 1 && env(envZFSParent) == "" {
		c, err := e.fromPlaces(m.Args, places, usage)
		if err != nil {
			return nil, err
		}
		return converted(AdoptZFSProvisioner, c, e.notes())
	}
	c, err := FromZFSProvisioner(m.Args, env, host, usage)
	if err != nil {
		return nil, err
	}
	return converted(AdoptZFSProvisioner, c, e.notes())
}

func (e zfsEnvironment) notes() (notes []string) {
	if e.env(envZFSSSHPassphrase) != "" {
		notes = append(notes, "A secret stands in this file, as it stood in "+envZFSSSHPassphrase+". passphraseFile names a file instead.")
	}
	return notes
}

// ZFSProvisionerManifest finds in a manifest how kubernetes-zfs-provisioner is run, and the
// StorageClasses that are there too.
func ZFSProvisionerManifest(text []byte) (Manifest, error) {
	m, err := manifestOf(text, AdoptZFSProvisioner, container.isZFSProvisioner)
	if err == nil {
		m.Classes, err = classesIn(text)
	}
	return m, err
}

// isZFSProvisioner goes by the name of the program, of the image, or by the variable without
// which it does not start.
func (c container) isZFSProvisioner() bool {
	return c.runs(AdoptZFSProvisioner) || slices.Contains([]string{AdoptZFSProvisioner, "kubernetes-zfs-provisioner"}, c.program()) || c.has(envZFSParent)
}
