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
	"time"
)

// Defaults of nfs-provisioner that existing deployments count on.
const (
	nfsProvisionerRoot  = "/export"
	nfsProvisionerGrace = 90 // seconds
)

// nfsProvisionerFlags are the flags of nfs-provisioner, then those that Berth adds.
type nfsProvisionerFlags struct {
	provisioner, master, kubeconfig, hostname string
	exportSubnet                              string
	runServer, useGanesha, rootSquash         bool
	leaderElect, enableQuota                  bool
	gracePeriod, failedRetryThreshold         int
	maxExports                                int

	exportRoot, exportPath, runDir, listen, http, logLevel, gidRange string
	port                                                             int
	client                                                           clientFlags
	standby                                                          bool
	deviceBasedFSIDs                                                 *bool // nil: as it was
}

func (f *nfsProvisionerFlags) register(set *flag.FlagSet) {
	set.StringVar(&f.provisioner, "provisioner", "example.com/nfs", "`name` of the provisioner, as in the StorageClasses that it serves")
	set.StringVar(&f.master, "master", "", "`URL` of the API server, when run outside of the cluster")
	set.StringVar(&f.kubeconfig, "kubeconfig", "", "`path` of a kubeconfig file, when run outside of the cluster")
	set.BoolVar(&f.runServer, "run-server", true, "run the NFS server; needs -use-ganesha. If false, it is the host's, which has to run")
	set.BoolVar(&f.useGanesha, "use-ganesha", true, "export with NFS-Ganesha, otherwise with the kernel's NFS server")
	set.IntVar(&f.gracePeriod, "grace-period", nfsProvisionerGrace, "`seconds`, 0 to 180, that clients have to reclaim what they had open after a restart of the server")
	set.BoolVar(&f.rootSquash, "root-squash", false, "map clients' root to nobody")
	set.IntVar(&f.failedRetryThreshold, "failed-retry-threshold", 10, "`number` of failures after which a claim is given up; 0: never")
	set.BoolVar(&f.enableQuota, "enable-xfs-quota", false, "keep each volume to its size, by quotas of xfs, ext4 or btrfs; without them Berth does not start")
	set.StringVar(&f.exportSubnet, "export-subnet", "*", "`networks` like 10.0.0.0/8, with commas between them, that may mount; *: all")
	set.IntVar(&f.maxExports, "max-exports", -1, "`number` of volumes at the most; negative: no limit")
	set.BoolVar(&f.leaderElect, "leader-elect", false, "accepted, and without effect: Berth always keeps a Lease, of its own, which it may lose without NFS ending")
	set.BoolFunc("device-based-fsids", "name file systems in file handles by device number; false: by UUID, which stays if a disk comes back under another number (default: as it was on this export root, else false)",
		func(value string) error {
			b, err := strconv.ParseBool(value)
			f.deviceBasedFSIDs = &b
			return err
		})
	set.StringVar(&f.hostname, "server-hostname", "", "`address` of the NFS server in PersistentVolumes")

	set.StringVar(&f.exportRoot, "export-root", nfsProvisionerRoot, "Berth's: `path` of the directory that holds the volumes")
	set.StringVar(&f.exportPath, "export-path", "", "Berth's: `path` under which clients see the export root, if another (default: the same)")
	set.StringVar(&f.gidRange, "gid-range", "", "Berth's: `range` like 5000-5999 of groups for StorageClasses with gid: auto")
	set.StringVar(&f.runDir, "run-dir", "", "Berth's: `path` of the directory in which a folder for sockets is made (default /run/berth)")
	set.StringVar(&f.listen, "nfs-listen", "", "Berth's: IP `address` that NFS is served on (default: all)")
	set.IntVar(&f.port, "nfs-port", 2049, "Berth's: `port` of NFS")
	set.StringVar(&f.http, "http-listen", "", "Berth's: `address` for metrics and health (default: none)")
	f.client.register(set, "Berth's: ")
	set.StringVar(&f.logLevel, "log-level", "info", "Berth's: debug, info, warn or error")
	set.BoolVar(&f.standby, "standby", false, "Berth's: wait while another process has the export root open, and take over when it ends")
}

// FromNFSProvisioner translates the command line of nfs-provisioner, with one
// dash or two. usage is where -help prints. It returns flag.ErrHelp after that.
func FromNFSProvisioner(args []string, usage io.Writer) (Config, error) {
	var f nfsProvisionerFlags
	set := flag.NewFlagSet("nfs-provisioner", flag.ContinueOnError)
	f.register(set)
	if err := parseFlags(set, args, usage, "Usage: berth nfs-provisioner [flags], also with two dashes:\n"); err != nil {
		return Config{}, err
	}
	if err := f.validate(); err != nil {
		return Config{}, err
	}
	c := f.config()
	return c, c.Validate()
}

func (f nfsProvisionerFlags) validate() error {
	switch {
	case f.runServer && !f.useGanesha:
		return errors.New("-run-server needs -use-ganesha: the only NFS server that can be run is NFS-Ganesha; for the host's own give -run-server=false too")
	case f.gracePeriod != nfsProvisionerGrace && (!f.runServer || !f.useGanesha):
		return errors.New("-grace-period can only be set if both -run-server and -use-ganesha are true")
	case f.gracePeriod < 0 || f.gracePeriod > 180:
		return fmt.Errorf("-grace-period=%d is not 0 to 180 seconds", f.gracePeriod)
	case f.maxExports == 0:
		return errors.New("-max-exports=0 would make no volume at all; leave it out, or give a negative number, for no limit")
	case f.failedRetryThreshold < 0:
		return fmt.Errorf("-failed-retry-threshold=%d is below 0", f.failedRetryThreshold)
	}
	return nil
}

func (f nfsProvisionerFlags) config() Config {
	c := Default()
	root := filepath.Clean(f.exportRoot)
	exportPath := root // PersistentVolumes of nfs-provisioner name the path on its disk
	if f.exportPath != "" {
		exportPath = path.Clean(f.exportPath)
	}
	quota := QuotaOff // as it was without the flag, whatever the file system has
	if f.enableQuota {
		quota = QuotaRequired
	}
	exporter := ExporterGanesha
	if !f.useGanesha {
		exporter = ExporterKernel
	}
	c.Pools = []Pool{{
		Name:        "export",
		Provisioner: f.provisioner,
		Dir:         &Dir{Root: root, Quota: quota},
		Adopt:       AdoptNFSProvisioner,
		Exporter:    exporter,
		ExportPath:  exportPath,
		Clients:     strings.Split(f.exportSubnet, ","),
		MaxVolumes:  max(0, f.maxExports),
		GIDRange:    f.gidRange,
		Defaults:    Defaults{Mode: DefaultMode, RootSquash: f.rootSquash},
	}}
	c.Ganesha.External = !f.runServer
	c.Ganesha.Listen = f.listen
	c.Ganesha.Port = f.port
	c.Ganesha.NFSv3 = true // existing PersistentVolumes are mounted with vers=3
	c.Ganesha.GracePeriod = Duration(time.Duration(f.gracePeriod) * time.Second)
	c.Ganesha.DeviceBasedFSIDs = f.deviceBasedFSIDs
	c.Ganesha.RunDir = f.runDir
	c.Kernel.Address = c.Ganesha.Address()
	c.Server.Hostname = f.hostname
	c.Kubernetes.Master = f.master
	c.Kubernetes.Kubeconfig = f.kubeconfig
	c.Kubernetes.FailedRetryThreshold = f.failedRetryThreshold
	f.client.apply(&c.Kubernetes)
	c.HTTP.Listen = f.http
	c.Log.Level = f.logLevel
	c.Standby = f.standby
	c.complete()
	return c
}
