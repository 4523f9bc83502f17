package config

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/zfsproperty"
)

// PVManager is how openshift-pvmanager was told what to do: by storage.yml, and by
// application.properties, which it can do without.
type PVManager struct {
	Storage    []byte // or the ConfigMap that has the files of these names
	Properties []byte
}

// pvManagerStorage is storage.yml.
type pvManagerStorage struct {
	DefaultStorageClass string              `json:"defaultStorageClass"`
	BlockedAnnotations  *[]string           `json:"blockedAnnotations"` // nil: compression and reclaim-policy
	StorageProviders    []pvManagerProvider `json:"storageProviders"`
}

type pvManagerProvider struct {
	StorageClass       string   `json:"storageClass"`
	ReclaimPolicy      string   `json:"reclaimPolicy"`
	ManagementProvider string   `json:"managementProvider"`
	PVNameFormat       string   `json:"pvNameFormat"`
	PVNamePrefix       string   `json:"pvNamePrefix"` // an older one, which nothing reads any more
	BlockedAnnotations []string `json:"blockedAnnotations"`
	Configuration      struct {
		Provider string         `json:"provider"` // older ones: "zfs"
		Identity map[string]any `json:"identity"` // likewise, and nothing reads it
		SSH      pvManagerSSH   `json:"ssh"`
		NFS      struct {
			Hostname   string `json:"hostname"`
			ExportRoot string `json:"exportRoot"`
		} `json:"nfs"`
		ZFS     pvManagerZFS   `json:"zfs"`
		FreeNAS map[string]any `json:"freenas"`
	} `json:"configuration"`
}

type pvManagerZFS struct {
	RootPath   string `json:"rootPath"`
	QuotaMode  string `json:"quotaMode"`
	UnixMode   string `json:"unixMode"`
	BecomeRoot bool   `json:"becomeRoot"` // where older ones have it
}

type pvManagerSSH struct {
	Hostname       string `json:"hostname"`
	Port           int    `json:"port"`
	Identity       string `json:"identity"`
	PrivateKeyFile string `json:"privateKeyFile"`
	PrivateKey     string `json:"privateKey"`
	Token          string `json:"token"` // the key's passphrase, or without a key the password
	BecomeRoot     bool   `json:"becomeRoot"`
}

// PVManagerFolder is where a converted configuration expects the files that it names.
const PVManagerFolder = "/etc/berth/ssh"

// probesListen is where kubelet reaches health by the manifests in deploy/.
const probesListen = ":9421"

// pvManagerProvisioner is in the StorageClasses of openshift-pvmanager.
const pvManagerProvisioner = "pvmanager.wimsey.us"

// ConvertPVManager translates how openshift-pvmanager was run to a configuration file that
// says the same, under notes on what differs.
func ConvertPVManager(m PVManager) ([]byte, error) {
	m, err := m.unpack()
	if err != nil {
		return nil, err
	}
	s, err := parsePVManager(m.Storage)
	if err != nil {
		return nil, fmt.Errorf("storage.yml: %w", err)
	}
	c := Default()
	c.HTTP.Listen = probesListen // it always runs in a pod
	var notes []string
	for _, p := range s.StorageProviders {
		pool, more, err := s.pool(p)
		if err != nil {
			return nil, fmt.Errorf("storage.yml: provider of StorageClass %q: %w", p.StorageClass, err)
		}
		c.Pools = addProvider(c.Pools, pool)
		for _, note := range more {
			if !slices.Contains(notes, note) { // providers of one host say the same
				notes = append(notes, note)
			}
		}
	}
	c.complete()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if class := s.DefaultStorageClass; class != "" {
		notes = append(notes, fmt.Sprintf(`Claims without a class: kubectl annotate storageclass %s storageclass.kubernetes.io/is-default-class=true`, class))
	}
	return converted(AdoptPVManager, c, append(notes, propertyNotes(m.Properties)...))
}

// unpack takes the files out of a ConfigMap.
func (m PVManager) unpack() (PVManager, error) {
	for _, document := range documentEnd.Split(string(m.Storage), -1) {
		var o struct {
			Kind string            `json:"kind"`
			Data map[string]string `json:"data"`
		}
		if err := yaml.Unmarshal([]byte(document), &o); err != nil || o.Kind != "ConfigMap" {
			continue
		}
		text, has := o.Data["storage.yml"]
		if !has {
			return m, errors.New("the ConfigMap has no storage.yml")
		}
		m.Storage = []byte(text)
		if m.Properties == nil {
			m.Properties = []byte(o.Data["application.properties"])
		}
		return m, nil
	}
	return m, nil
}

// bareMode is an octal number that some readers of YAML take for a decimal one.
var bareMode = regexp.MustCompile(`(?m)^(\s*unixMode:\s*)([0-7]+)(\s*(#.*)?)$`)

func parsePVManager(text []byte) (s pvManagerStorage, err error) {
	if err := yaml.UnmarshalStrict(bareMode.ReplaceAll(text, []byte(`$1"$2"$3`)), &s); err != nil {
		return s, err
	}
	if len(s.StorageProviders) == 0 {
		return s, errors.New("there are no storageProviders")
	}
	return s, nil
}

// addProvider adds a pool. Those of one class are tried in the order of the file, and those
// that differ in the class only are one.
func addProvider(pools []Pool, p Pool) []Pool {
	for i := range pools {
		same := p
		same.Name, same.Classes = pools[i].Name, pools[i].Classes
		if reflect.DeepEqual(same, pools[i]) {
			pools[i].Classes = append(pools[i].Classes, p.Classes...)
			return pools
		}
	}
	name := p.Name
	for n := 2; slices.ContainsFunc(pools, func(o Pool) bool { return o.Name == p.Name }); n++ {
		p.Name = fmt.Sprintf("%s-%d", name, n)
	}
	return append(pools, p)
}

func (s pvManagerStorage) pool(from pvManagerProvider) (p Pool, notes []string, err error) {
	cfg := from.Configuration
	switch provider := strings.ToLower(from.ManagementProvider); {
	case from.StorageClass == "":
		return p, nil, errors.New("storageClass is missing")
	case provider == "freenas":
		return p, nil, errors.New("managementProvider: Berth does not speak the API of FreeNAS; such a host is reached over ssh too: make it zfscli, with ssh, nfs and zfs")
	case provider != "zfscli" && (provider != "nfs" || cfg.Provider != "zfs"):
		return p, nil, fmt.Errorf("managementProvider: %q is not zfscli", from.ManagementProvider)
	case from.PVNamePrefix != "":
		notes = append(notes, "pvNamePrefix is not read by openshift-pvmanager either: its heir is pvNameFormat.")
	}
	p = Pool{
		Name: strings.ReplaceAll(from.StorageClass, ".", "-"), Provisioner: pvManagerProvisioner, Classes: []string{from.StorageClass},
		Adopt: AdoptPVManager, Exporter: ExporterZFSShare,
		ZFS: &ZFS{
			Dataset: strings.TrimRight(cfg.ZFS.RootPath, "/"), Server: cfg.NFS.Hostname, ShareOptions: ShareInherit, ClaimAnnotations: s.allowed(from),
		},
	}
	if p.PVNameFormat = from.nameFormat(); p.checkNames() != nil {
		notes = append(notes, fmt.Sprintf("PersistentVolumes are called pvc-<uid of the claim>: with pvNameFormat, %v.", p.checkNames()))
		p.PVNameFormat = ""
	}
	if p.ReclaimPolicy, err = from.reclaimPolicy(); err != nil {
		return p, nil, err
	}
	if p.ZFS.Sizing, err = cfg.ZFS.sizing(); err != nil {
		return p, nil, err
	}
	if p.Defaults.Mode, err = cfg.ZFS.mode(); err != nil {
		return p, nil, err
	}
	cfg.SSH.BecomeRoot = cfg.SSH.BecomeRoot || cfg.ZFS.BecomeRoot
	var more []string
	p.ZFS.SSH, more = cfg.SSH.convert()
	notes = append(notes, fmt.Sprintf("On %s, %s has to be mounted at %s, as it was: zfs get mountpoint,sharenfs %[2]s", cfg.SSH.Hostname, p.ZFS.Dataset, cfg.NFS.ExportRoot))
	return p, append(notes, more...), nil
}

// allowed are the annotations that claims of a provider may use.
func (s pvManagerStorage) allowed(p pvManagerProvider) []string {
	blocked := []string{"compression", zfsproperty.ReclaimPolicy}
	if s.BlockedAnnotations != nil {
		blocked = *s.BlockedAnnotations
	}
	return slices.DeleteFunc(zfsproperty.Annotations(), func(name string) bool {
		return slices.Contains(blocked, name) || slices.Contains(p.BlockedAnnotations, name)
	})
}

// nameFormat is the provider's, or the one that openshift-pvmanager has by itself.
func (p pvManagerProvider) nameFormat() string {
	if p.PVNameFormat == "" {
		return "{sc}-{pvmanager.wimsey.us/pvc-namespace}-{pvmanager.wimsey.us/pvc-name}-{PVMANAGER-PV-TAG}"
	}
	return strings.ReplaceAll(p.PVNameFormat, "{storage-class}", "{sc}") // as its documentation has it
}

func (p pvManagerProvider) reclaimPolicy() (string, error) {
	switch {
	case p.ReclaimPolicy == "", strings.EqualFold(p.ReclaimPolicy, "Delete"):
		return "Delete", nil
	case strings.EqualFold(p.ReclaimPolicy, "Retain"):
		return "Retain", nil
	}
	return "", fmt.Errorf("reclaimPolicy: %q is neither Delete nor Retain; with Recycle openshift-pvmanager deletes: say what you want", p.ReclaimPolicy)
}

func (z pvManagerZFS) sizing() (volume.Sizing, error) {
	switch strings.ToLower(z.QuotaMode) {
	case "", "quota":
		return volume.SizingQuota, nil
	case "reserve", "reservation": // in its code and in its documentation
		return volume.SizingReservation, nil
	case "both":
		return volume.SizingBoth, nil
	case "ignore":
		return volume.SizingIgnore, nil
	}
	return "", fmt.Errorf("zfs.quotaMode: %q is none of ignore, quota, reserve and both", z.QuotaMode)
}

// mode is what it says, or what zfs makes.
func (z pvManagerZFS) mode() (Mode, error) {
	if z.UnixMode == "" {
		return zfsMode, nil
	}
	mode, err := ParseMode(z.UnixMode)
	if err != nil {
		return 0, fmt.Errorf("zfs.unixMode: %w", err)
	}
	return mode, nil
}

// convert says how Berth reaches the host, and what it needs for that.
func (s pvManagerSSH) convert() (*SSH, []string) {
	to := &SSH{Host: s.Hostname, Port: s.Port, User: s.Identity, Key: s.PrivateKey, BecomeRoot: s.BecomeRoot, KnownHosts: path.Join(PVManagerFolder, "known_hosts")}
	notes := []string{fmt.Sprintf("openshift-pvmanager took any host for %s. Berth wants to know its key: ssh-keyscan -p %[2]d %[1]s >>%[3]s, and compare the key with the host's.",
		s.Hostname, cmp.Or(s.Port, sshPort), to.KnownHosts)}
	if to.Key == "" && s.PrivateKeyFile != "" {
		if to.KeyFile = s.PrivateKeyFile; !path.IsAbs(to.KeyFile) {
			to.KeyFile = path.Join(PVManagerFolder, path.Base(to.KeyFile))
			notes = append(notes, fmt.Sprintf("The key %s has to be at %s.", s.PrivateKeyFile, to.KeyFile))
		}
	}
	switch {
	case s.Token == "":
	case to.Key != "" || to.KeyFile != "":
		to.Passphrase = s.Token
	default:
		to.Password = s.Token
	}
	if s.Token != "" || s.PrivateKey != "" {
		notes = append(notes, "A secret stands in this file, as it stood in storage.yml. passphraseFile, passwordFile and keyFile name files instead.")
	}
	return to, notes
}

// propertyNotes says what becomes of application.properties: Berth finds its API server as
// other programs do, and knows what else stands there by itself.
func propertyNotes(text []byte) (notes []string) {
	add := func(note string) {
		if !slices.Contains(notes, note) {
			notes = append(notes, note)
		}
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		switch {
		case key == "" || key[0] == '#' || key[0] == '!' || value == "":
		case key == "kubernetes.service.validatessl" && !strings.EqualFold(value, "true"):
			add("validatessl=false: Berth always checks who the API server is.")
		case strings.HasPrefix(key, "kubernetes.service."):
			add("kubernetes.service.*: in a pod Berth finds the API server itself; elsewhere say kubernetes: {kubeconfig: FILE}.")
		case strings.HasPrefix(key, "distributed.mode."):
			add("distributed.mode.*: any number of Berths agree by themselves who acts; see docs/operating.md.")
		case key == "storage.configuration", key == "spring.application.name", strings.HasPrefix(key, "kubernetes.pollsleepms"),
			strings.HasPrefix(key, "kubernetes.readtimeout"), strings.HasPrefix(key, "kubernetes.client."), strings.HasPrefix(key, "logging."):
		default:
			add(fmt.Sprintf("%s: is unknown here, and does nothing.", key))
		}
	}
	return notes
}
