package config

import (
	"errors"
	"fmt"
	"net"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/berth-storage/berth/internal/suggest"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/zfsproperty"
)

// ZFS is a pool of datasets below a parent, on this host or, over ssh, on another one.
type ZFS struct {
	Dataset string `json:"dataset"` // the parent
	SSH     *SSH   `json:"ssh"`     // nil: on this host
	// Server is the NFS server in PersistentVolumes. "": with SSH its host, else as
	// Config.Server says.
	Server     string            `json:"server"`
	Sizing     volume.Sizing     `json:"sizing"`
	Properties map[string]string `json:"properties"` // of new volumes
	// ClaimAnnotations are those that claims may use, without their prefix. nil: the
	// usual ones.
	ClaimAnnotations []string `json:"claimAnnotations"`
	ShareOptions     string   `json:"shareOptions"` // the property sharenfs, with ExporterZFSShare
	OnClones         OnClones `json:"onClones"`
	KeepSnapshots    bool     `json:"keepSnapshots"` // unless the class says otherwise
	VolumeType       string   `json:"volumeType"`    // of PersistentVolumes, if the class does not say
	// WidenAccessModes has PersistentVolumes say all access modes that they are good for, and
	// not only those that the claim asks for.
	WidenAccessModes bool   `json:"widenAccessModes"`
	Node             string `json:"node"` // the host's label kubernetes.io/hostname, for volumes that are not mounted by NFS
}

// SSH says how a host is reached whose programs Berth runs.
type SSH struct {
	Host string `json:"host"`
	Port int    `json:"port"`
	User string `json:"user"`
	// What proves that it is the user: a key, with its passphrase, or a password.
	Key            string `json:"key"`
	KeyFile        string `json:"keyFile"`
	Passphrase     string `json:"passphrase"`
	PassphraseFile string `json:"passphraseFile"`
	Password       string `json:"password"`
	PasswordFile   string `json:"passwordFile"`
	// What proves that it is the host: a file as in sshd(8), SSH_KNOWN_HOSTS FILE FORMAT.
	KnownHosts string `json:"knownHosts"`
	BecomeRoot bool   `json:"becomeRoot"` // by sudo
}

// OnClones says what becomes of a deleted volume that others are clones of.
type OnClones string

// The values of OnClones.
const (
	OnClonesWait    OnClones = "wait"    // it is kept aside until the last clone is gone
	OnClonesPromote OnClones = "promote" // the clones become independent of it
)

// Exporters that only zfs pools have.
const (
	ExporterZFSShare = "zfsshare" // the property sharenfs
	ExporterNone     = "none"     // volumes are used on their own host only
)

// ShareInherit is a value of ZFS.ShareOptions: volumes are shared as their parent dataset is.
const ShareInherit = "inherit"

// Types of PersistentVolumes in zfs pools.
const (
	VolumeTypeNFS      = "nfs"
	VolumeTypeHostPath = "hostPath"
	VolumeTypeLocal    = "local"
	VolumeTypeAuto     = "auto" // hostPath if it can be, else nfs
)

const sshPort = 22

func (z *ZFS) complete(exporter string) {
	if z.Sizing == "" {
		z.Sizing = volume.SizingBoth
	}
	if z.OnClones == "" {
		z.OnClones = OnClonesWait
	}
	if z.ClaimAnnotations == nil {
		z.ClaimAnnotations = zfsproperty.UsualAnnotations()
	}
	if z.VolumeType == "" {
		z.VolumeType = VolumeTypeNFS
		if exporter == ExporterNone {
			z.VolumeType = VolumeTypeHostPath
		}
	}
	if z.ShareOptions == "" && exporter == ExporterZFSShare {
		z.ShareOptions = "on"
	}
	if z.SSH != nil {
		if z.SSH.Port == 0 {
			z.SSH.Port = sshPort
		}
		if z.Server == "" {
			z.Server = z.SSH.Host
		}
	}
}

var (
	// As in zfs(8), but for spaces.
	datasetName = regexp.MustCompile(`^[A-Za-z][-A-Za-z0-9_.:]*(/[-A-Za-z0-9_.:]+)*$`)
	userName    = regexp.MustCompile(`^[A-Za-z0-9_][-A-Za-z0-9_.]*\$?$`)
)

// validateZFS checks a pool of datasets.
func (p Pool) validateZFS() error {
	z := p.ZFS
	if err := errors.Join(
		checkDataset(z.Dataset), z.checkProperties(), p.checkZFSExport(), p.checkVolumeType(),
		oneOf("zfs.sizing", z.Sizing, volume.SizingBoth, volume.SizingQuota, volume.SizingReservation, volume.SizingIgnore),
		oneOf("zfs.onClones", z.OnClones, OnClonesWait, OnClonesPromote),
	); err != nil {
		return err
	}
	for _, a := range z.ClaimAnnotations {
		if err := oneOf("zfs.claimAnnotations", a, zfsproperty.Annotations()...); err != nil {
			return err
		}
	}
	if z.Server != "" && !isHost(z.Server) {
		return fmt.Errorf("zfs.server: %q is neither a host's name nor an IP address", z.Server)
	}
	switch {
	case p.Defaults.OnDelete == volume.OnDeleteArchive || p.Archives != Archives{}:
		return errors.New("defaults.onDelete and archives: a zfs pool keeps no archives; take snapshots, or retain the volumes")
	case p.Static != nil:
		return errors.New("static: a zfs pool publishes no directories; put them into a dir pool")
	}
	if z.SSH != nil {
		return z.SSH.validate()
	}
	return nil
}

// checkDataset says what is wrong with a parent dataset's name.
func checkDataset(name string) error {
	bare := strings.Trim(name, "/")
	switch {
	case name == "":
		return errors.New("zfs.dataset: is missing; it is the parent dataset, below which volumes are made")
	case bare != name && datasetName.MatchString(bare):
		return fmt.Errorf("zfs.dataset: %q begins or ends with a slash, as no dataset does: say %s", name, bare)
	case !datasetName.MatchString(name) || slices.ContainsFunc(strings.Split(name, "/"), func(s string) bool { return strings.Trim(s, ".") == "" }):
		return fmt.Errorf("zfs.dataset: %q is not the name of a dataset like tank/kubernetes", name)
	}
	return nil
}

func (z ZFS) checkProperties() error {
	for name, value := range z.Properties {
		if err := zfsproperty.CheckNative(name); err != nil {
			return fmt.Errorf("zfs.properties: %w", err)
		}
		if value == "" || !exportable(value) {
			return fmt.Errorf("zfs.properties: %s: %q cannot be its value", name, value)
		}
	}
	return nil
}

// checkZFSExport checks what depends on who exports the datasets.
func (p Pool) checkZFSExport() error {
	z, atMountpoint := p.ZFS, p.Exporter != ExporterGanesha
	switch {
	case !slices.Contains([]string{ExporterZFSShare, ExporterGanesha, ExporterKernel, ExporterNone}, p.Exporter):
		return fmt.Errorf("exporter: %q is unknown%s", p.Exporter,
			suggest.Nearest(p.Exporter, []string{ExporterZFSShare, ExporterGanesha, ExporterKernel, ExporterNone}))
	case z.SSH != nil && (p.Exporter == ExporterGanesha || p.Exporter == ExporterKernel):
		return fmt.Errorf("exporter: %q exports datasets of this host only; with zfs.ssh it is %s", p.Exporter, ExporterZFSShare)
	case atMountpoint && p.ExportPath != "":
		return fmt.Errorf("exportPath: %q: clients mount volumes at their mountpoints; leave it out", p.ExportPath)
	case !atMountpoint && (!path.IsAbs(p.ExportPath) || path.Clean(p.ExportPath) != p.ExportPath || p.ExportPath == "/" || !exportable(p.ExportPath)):
		return fmt.Errorf("exportPath: %q is not a clean absolute path below /", p.ExportPath)
	case p.Exporter != ExporterZFSShare && z.ShareOptions != "":
		return fmt.Errorf("zfs.shareOptions: are for exporter: %s; with %s say clients and defaults.rootSquash", ExporterZFSShare, p.Exporter)
	case p.Exporter != ExporterGanesha && p.Exporter != ExporterKernel && (p.Clients != nil || p.Defaults.RootSquash):
		return fmt.Errorf("clients and defaults.rootSquash: with exporter: %s, zfs.shareOptions say who may mount, and as whom", p.Exporter)
	case !exportable(z.ShareOptions) || z.ShareOptions == "off":
		return fmt.Errorf("zfs.shareOptions: %q cannot be the property sharenfs", z.ShareOptions)
	}
	return nil
}

func (p Pool) checkVolumeType() error {
	z := p.ZFS
	if err := oneOf("zfs.volumeType", z.VolumeType, VolumeTypeNFS, VolumeTypeHostPath, VolumeTypeLocal, VolumeTypeAuto); err != nil {
		return err
	}
	switch {
	case p.Exporter == ExporterNone && (z.VolumeType == VolumeTypeNFS || z.VolumeType == VolumeTypeAuto):
		return fmt.Errorf("zfs.volumeType: %q needs an exporter; with exporter: %s it is %s or %s", z.VolumeType, ExporterNone, VolumeTypeHostPath, VolumeTypeLocal)
	case z.Node != "" && (len(z.Node) > maxObjectName || !objectName.MatchString(z.Node)):
		return fmt.Errorf("zfs.node: %q is not the name of a node", z.Node)
	}
	return nil
}

func (s SSH) validate() error {
	secrets := []struct{ key, inline, file string }{
		{"key", s.Key, s.KeyFile}, {"passphrase", s.Passphrase, s.PassphraseFile}, {"password", s.Password, s.PasswordFile},
	}
	for _, secret := range secrets {
		switch {
		case secret.inline != "" && secret.file != "":
			return fmt.Errorf("zfs.ssh.%[1]s and %[1]sFile: give one of them", secret.key)
		case secret.file != "" && !path.IsAbs(secret.file):
			return fmt.Errorf("zfs.ssh.%sFile: %q is not an absolute path", secret.key, secret.file)
		}
	}
	hasKey := s.Key != "" || s.KeyFile != ""
	switch {
	case !isHost(s.Host):
		return fmt.Errorf("zfs.ssh.host: %q is neither a host's name nor an IP address", s.Host)
	case s.Port < 1 || s.Port > 65535:
		return fmt.Errorf("zfs.ssh.port: %d is not a port", s.Port)
	case !path.IsAbs(s.KnownHosts):
		return fmt.Errorf("zfs.ssh.knownHosts: %q is not the absolute path of a file with the host's keys; one that is empty is enough to be told what to write into it", s.KnownHosts)
	case !userName.MatchString(s.User):
		return fmt.Errorf("zfs.ssh.user: %q is not a user's name", s.User)
	case !hasKey && s.Password == "" && s.PasswordFile == "":
		return errors.New("zfs.ssh: a key or password is missing, by which the host knows the user: say keyFile, for instance")
	case !hasKey && (s.Passphrase != "" || s.PassphraseFile != ""):
		return errors.New("zfs.ssh.passphrase: is that of a key, and there is none")
	}
	return nil
}

func isHost(s string) bool {
	return hostName.MatchString(s) || net.ParseIP(strings.Trim(s, "[]")) != nil
}

// host is on which the datasets are; "" for this one.
func (z ZFS) host() string {
	if z.SSH == nil {
		return ""
	}
	return strings.ToLower(z.SSH.Host)
}

// beside refuses two pools whose volumes could lie in each other.
func (z ZFS) beside(o *ZFS, pool string) error {
	if o != nil && z.host() == o.host() && overlap(z.Dataset, o.Dataset) {
		return fmt.Errorf("zfs.dataset: %s and %s of pool %s lie in each other", z.Dataset, o.Dataset, pool)
	}
	return nil
}
