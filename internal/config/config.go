// Package config is Berth's configuration: one strict structure, read from
// berth.yaml or translated from the flags of a program that Berth takes the
// place of.
package config

import (
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/berth-storage/berth/internal/suggest"
	"github.com/berth-storage/berth/internal/volume"
)

// Config is the whole configuration. docs/configuration.md describes each key.
type Config struct {
	Pools      []Pool     `json:"pools"`
	Ganesha    Ganesha    `json:"ganesha"`
	Kernel     Kernel     `json:"kernel"`
	Server     Server     `json:"server"`
	Kubernetes Kubernetes `json:"kubernetes"`
	HTTP       HTTP       `json:"http"`
	Log        Log        `json:"log"`

	// Standby is a matter of the command line, not of the file: wait for another
	// process that has a pool open, instead of giving up.
	Standby bool `json:"-"`
}

// Pool is storage that volumes are made of, and how.
type Pool struct {
	Name        string   `json:"name"`
	Provisioner string   `json:"provisioner"` // of the StorageClasses that it serves
	Classes     []string `json:"classes"`     // StorageClasses that it serves without their naming it; nil: any
	Dir         *Dir     `json:"dir"`         // this, Subdir or ZFS
	Subdir      *Subdir  `json:"subdir"`
	ZFS         *ZFS     `json:"zfs"`
	Adopt       string   `json:"adopt"` // the program whose volumes are taken over at the first start
	Exporter    string   `json:"exporter"`
	ExportPath  string   `json:"exportPath"` // clients mount <exportPath>/<volume>
	Clients     []string `json:"clients"`    // who may mount; see export.ParseClients
	MaxVolumes  int      `json:"maxVolumes"` // 0: no limit
	GIDRange    string   `json:"gidRange"`   // for classes with gid: auto; see volume.ParseGIDRange
	// ReclaimPolicy of PersistentVolumes, Delete or Retain; "": the class's.
	ReclaimPolicy string   `json:"reclaimPolicy"`
	PVNameFormat  string   `json:"pvNameFormat"` // see package nameformat; "": pvc-<uid of the claim>
	Defaults      Defaults `json:"defaults"`
	Archives      Archives `json:"archives"`
	Static        []Static `json:"static"`
}

// Static is a directory that is there already, outside of the root, and is published
// as a PersistentVolume. Its data is never touched.
type Static struct {
	Path             string   `json:"path"`       // on the server's host
	ExportPath       string   `json:"exportPath"` // what clients mount
	Capacity         string   `json:"capacity"`   // a quantity of Kubernetes, as in 10Gi
	Name             string   `json:"name"`       // of the PersistentVolume
	AccessModes      []string `json:"accessModes"`
	StorageClassName string   `json:"storageClassName"`
	MountOptions     []string `json:"mountOptions"`
	ReadOnly         bool     `json:"readOnly"`
}

// AdoptNFSProvisioner is a value of Pool.Adopt, for dir pools.
const AdoptNFSProvisioner = "nfs-provisioner"

// Exporters: what makes a pool's volumes reachable.
const (
	ExporterGanesha = "ganesha"
	ExporterKernel  = "kernel"
)

// Dir is a pool of directories.
type Dir struct {
	Root  string `json:"root"`
	Quota Quota  `json:"quota"`
}

// Quota says whether volumes are kept to their sizes.
type Quota string

// The values of Quota.
const (
	QuotaAuto     Quota = "auto"     // if the file system can
	QuotaRequired Quota = "required" // or Berth does not start
	QuotaOff      Quota = "off"
)

// UnmarshalJSON reads a Quota. The word off without quotes is false to YAML.
func (q *Quota) UnmarshalJSON(text []byte) error {
	var s string
	if string(text) == "false" {
		s = string(QuotaOff)
	} else if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("quota %s is none of auto, required, off", text)
	}
	switch *q = Quota(s); *q {
	case QuotaAuto, QuotaRequired, QuotaOff, "":
		return nil
	default:
		return fmt.Errorf("quota %q is none of auto, required, off%s", s, suggest.Nearest(s, []string{"auto", "required", "off"}))
	}
}

// Defaults are for what a StorageClass does not say.
type Defaults struct {
	Mode       Mode   `json:"mode"`
	UID        uint32 `json:"uid"`
	GID        uint32 `json:"gid"`
	RootSquash bool   `json:"rootSquash"`
	// OnDelete is what becomes of a volume whose claim is deleted.
	OnDelete volume.OnDelete `json:"onDelete"`
	// The others are for pools on a share.
	Existing    volume.Existing `json:"existing"`
	PathPattern string          `json:"pathPattern"` // see package pathpattern; "": <namespace>-<claim>-<volume>
}

// Ganesha is the NFS server that Berth runs, or one that somebody else runs.
type Ganesha struct {
	External    bool     `json:"external"` // not run by Berth, but driven over the system bus
	Listen      string   `json:"listen"`
	Port        int      `json:"port"`
	NFSv3       bool     `json:"nfsv3"`
	GracePeriod Duration `json:"gracePeriod"`
	// DeviceBasedFSIDs: file handles name file systems by device number; see
	// docs/decisions/handles.md. nil: as the program before did.
	DeviceBasedFSIDs *bool  `json:"deviceBasedFsids"`
	StateDir         string `json:"stateDir"`
	RunDir           string `json:"runDir"`
}

// Address is where it answers on this host.
func (g Ganesha) Address() string {
	host := g.Listen
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, strconv.Itoa(g.Port))
}

// Kernel is the host's own NFS server, which Berth does not run.
type Kernel struct {
	Address string `json:"address"` // where it answers on this host
}

// Server is the address of the NFS server in PersistentVolumes.
type Server struct {
	Hostname string `json:"hostname"`
}

// Kubernetes is how Berth works with the cluster.
type Kubernetes struct {
	Kubeconfig           string   `json:"kubeconfig"`
	Master               string   `json:"master"`
	Workers              int      `json:"workers"`
	QPS                  float32  `json:"qps"`
	Burst                int      `json:"burst"`
	FailedRetryThreshold int      `json:"failedRetryThreshold"`
	ScavengeAfter        Duration `json:"scavengeAfter"`
}

// HTTP is where metrics and health are served.
type HTTP struct {
	Listen string `json:"listen"`
}

// Log is what is logged, and how.
type Log struct {
	Level  string `json:"level"`
	Format string `json:"format"`
}

// Duration is a time.Duration, written as in "30s" or "5m".
type Duration time.Duration

// UnmarshalJSON reads a duration.
func (d *Duration) UnmarshalJSON(text []byte) error {
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("%s is not a duration like \"30s\"", text)
	}
	parsed, err := time.ParseDuration(s)
	*d = Duration(parsed)
	return err
}

// MarshalJSON gives the form that UnmarshalJSON reads.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// Mode is permission bits, written in octal and between quotes, as in "0770".
type Mode uint32

// ParseMode reads octal permission bits, setuid, setgid and sticky bit included.
func ParseMode(s string) (Mode, error) {
	m, err := strconv.ParseUint(s, 8, 32)
	if err != nil || m > 0o7777 {
		return 0, fmt.Errorf("%q is not a mode like \"0770\" (octal, 7777 at the most)", s)
	}
	return Mode(m), nil
}

// UnmarshalJSON reads a mode. A bare number is refused, because YAML readers
// disagree whether 0770 is octal.
func (m *Mode) UnmarshalJSON(text []byte) (err error) {
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("mode %s has to be between quotes, as in \"0770\"", text)
	}
	*m, err = ParseMode(s)
	return err
}

// MarshalJSON gives the form that UnmarshalJSON reads.
func (m Mode) MarshalJSON() ([]byte, error) { return json.Marshal(fmt.Sprintf("%04o", uint32(m))) }

// Default is the configuration that a file starts from.
func Default() Config {
	return Config{
		Ganesha: Ganesha{Port: 2049, GracePeriod: Duration(30 * time.Second)},
		Kernel:  Kernel{Address: "127.0.0.1:2049"},
		Kubernetes: Kubernetes{
			Workers: 4, QPS: 200, Burst: 400, ScavengeAfter: Duration(15 * time.Minute),
		},
		HTTP: HTTP{Listen: "127.0.0.1:9421"},
		Log:  Log{Level: "info", Format: "text"},
	}
}

// DefaultMode is the mode of a new volume's directory in a dir pool when nothing says
// another.
const DefaultMode Mode = 0o777
