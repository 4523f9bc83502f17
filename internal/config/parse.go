package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/suggest"
	"github.com/berth-storage/berth/internal/volume"
)

// Load reads the file at path.
func Load(path string) (Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	c, err := Parse(text)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

var unknownField = regexp.MustCompile(`unknown field "([^"]*)"`)

// Parse reads a configuration. Every key must be known, and the whole valid.
func Parse(text []byte) (Config, error) {
	c := Default()
	if err := yaml.UnmarshalStrict(text, &c); err != nil {
		if m := unknownField.FindStringSubmatch(err.Error()); m != nil {
			key := m[1][strings.LastIndex(m[1], ".")+1:]
			return Config{}, fmt.Errorf("unknown key %q%s", m[1], suggest.Nearest(key, keys(reflect.TypeFor[Config]())))
		}
		return Config{}, err
	}
	c.complete()
	return c, c.Validate()
}

// keys are the names of all keys in t and below, for finding the nearest.
func keys(t reflect.Type) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var names []string
	for field := range t.Fields() {
		if tag := field.Tag.Get("json"); tag != "-" {
			names = append(names, tag)
			names = append(names, keys(field.Type)...)
		}
	}
	return names
}

// complete fills in the defaults that depend on other keys.
func (c *Config) complete() {
	for i := range c.Pools {
		p := &c.Pools[i]
		switch {
		case p.Exporter != "" || p.Subdir != nil:
		case p.ZFS != nil:
			p.Exporter = ExporterZFSShare
		default:
			p.Exporter = ExporterGanesha
		}
		switch {
		case p.ExportPath != "" || p.ZFS != nil && p.Exporter != ExporterGanesha:
		case p.Subdir != nil:
			p.ExportPath = p.Subdir.Path
		case p.Exporter == ExporterKernel && p.Dir != nil:
			p.ExportPath = p.Dir.Root
		default:
			p.ExportPath = "/" + p.Name
		}
		if p.Dir != nil && p.Dir.Quota == "" {
			p.Dir.Quota = QuotaAuto
		}
		if p.ZFS != nil {
			p.ZFS.complete(p.Exporter)
		}
		p.Defaults.complete(p.Subdir != nil)
		for j := range p.Static {
			p.Static[j].complete()
		}
	}
}

func (d *Defaults) complete(share bool) {
	switch {
	case d.Mode != 0:
	case share:
		d.Mode = DefaultSubdirMode
	default:
		d.Mode = DefaultMode
	}
	if d.OnDelete == "" {
		d.OnDelete = volume.OnDeleteDelete
	}
	if d.Existing == "" {
		d.Existing = volume.ExistingRefuse
	}
}

var (
	poolName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	// A qualified name as Kubernetes has it for provisioners: DNS name, slash, name.
	provisionerName = regexp.MustCompile(`^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`)
)

// Validate says everything that is wrong with c.
func (c Config) Validate() error {
	var wrong []error
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	if len(c.Pools) == 0 {
		bad("pools: there must be one at least")
	}
	for i, p := range c.Pools {
		if err := p.validate(c.Pools[:i]); err != nil {
			bad("pools[%d] (%s): %w", i, p.Name, err)
		}
	}
	if err := c.validateStatic(); err != nil {
		wrong = append(wrong, err)
	}
	if c.Ganesha.Listen != "" && net.ParseIP(c.Ganesha.Listen) == nil {
		bad("ganesha.listen: %q is not an IP address", c.Ganesha.Listen)
	}
	if c.Ganesha.Port < 1 || c.Ganesha.Port > 65535 {
		bad("ganesha.port: %d is not a port", c.Ganesha.Port)
	}
	if g := time.Duration(c.Ganesha.GracePeriod); g < 0 || g > 180*time.Second || g%time.Second != 0 {
		bad("ganesha.gracePeriod: %s is not 0s to 180s in whole seconds", g)
	}
	if host, port, err := net.SplitHostPort(c.Kernel.Address); err != nil || net.ParseIP(host) == nil || !isPort(port) {
		bad("kernel.address: %q is not an IP address and a port like 127.0.0.1:2049", c.Kernel.Address)
	}
	for key, folder := range map[string]string{"ganesha.stateDir": c.Ganesha.StateDir, "ganesha.runDir": c.Ganesha.RunDir} {
		if folder != "" && (!filepath.IsAbs(folder) || folder == "/") {
			bad("%s: %q is not an absolute path below /", key, folder)
		}
	}
	k := c.Kubernetes
	if k.Workers < 1 || k.QPS <= 0 || k.Burst < 1 || k.FailedRetryThreshold < 0 || k.ScavengeAfter < 0 {
		bad("kubernetes: workers, qps and burst have to be above 0, failedRetryThreshold and scavengeAfter not below")
	}
	switch c.Log.Level {
	case "debug", "info", "warn", "error":
	default:
		bad("log.level: %q is none of debug, info, warn, error", c.Log.Level)
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		bad("log.format: %q is neither text nor json", c.Log.Format)
	}
	return errors.Join(wrong...)
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// validate checks one pool, and against those before it.
func (p Pool) validate(before []Pool) error {
	switch {
	case !poolName.MatchString(p.Name):
		return errors.New("name: 1 to 63 small letters, digits and '-' inside")
	case !provisionerName.MatchString(p.Provisioner):
		return fmt.Errorf("provisioner: %q is not a name like example.com/nfs", p.Provisioner)
	case p.Defaults.UID == math.MaxUint32 || p.Defaults.GID == math.MaxUint32:
		return fmt.Errorf("defaults.uid and gid: %d is no user's or group's number", uint32(math.MaxUint32))
	case p.Defaults.Mode > 0o7777:
		return fmt.Errorf("defaults.mode: %o has more than permission bits", p.Defaults.Mode)
	}
	kinds := 0
	for _, given := range []bool{p.Dir != nil, p.Subdir != nil, p.ZFS != nil} {
		if given {
			kinds++
		}
	}
	if kinds != 1 {
		return errors.New("dir, subdir and zfs: one of them says where the volumes are")
	}
	validate := p.validateDir
	switch {
	case p.Subdir != nil:
		validate = p.validateShare
	case p.ZFS != nil:
		validate = p.validateZFS
	}
	if err := errors.Join(validate(), p.validatePolicy(), p.checkNames()); err != nil {
		return err
	}
	if p.Adopt != "" && !slices.Contains(p.Adoptable(), p.Adopt) {
		return fmt.Errorf("adopt: %q is not possible here%s", p.Adopt, suggest.Nearest(p.Adopt, p.Adoptable()))
	}
	if _, err := export.ParseClients(p.Clients); err != nil {
		return err
	}
	if p.MaxVolumes < 0 {
		return fmt.Errorf("maxVolumes: %d is below 0", p.MaxVolumes)
	}
	if p.GIDRange != "" {
		if _, err := volume.ParseGIDRange(p.GIDRange); err != nil {
			return fmt.Errorf("gidRange: %w", err)
		}
	}
	for _, class := range p.Classes {
		if len(class) > maxObjectName || !objectName.MatchString(class) {
			return fmt.Errorf("classes: %q is not the name of a StorageClass", class)
		}
	}
	for _, q := range before {
		if err := p.beside(q); err != nil {
			return err
		}
	}
	return nil
}

// Adoptable are the programs whose volumes the pool can take over.
func (p Pool) Adoptable() []string {
	switch {
	case p.Subdir != nil:
		return []string{AdoptNFSSubdir}
	case p.ZFS != nil && (p.Exporter == ExporterZFSShare || p.Exporter == ExporterNone):
		return []string{AdoptZFSProvisioner, AdoptPVManager}
	case p.ZFS != nil: // clients have mounted what the host's own server exports
		return nil
	}
	return []string{AdoptNFSProvisioner}
}

func (p Pool) validateDir() error {
	switch {
	case !filepath.IsAbs(p.Dir.Root) || filepath.Clean(p.Dir.Root) != p.Dir.Root || p.Dir.Root == "/":
		return fmt.Errorf("dir.root: %q is not a clean absolute path below /", p.Dir.Root)
	case !path.IsAbs(p.ExportPath) || path.Clean(p.ExportPath) != p.ExportPath || p.ExportPath == "/":
		return fmt.Errorf("exportPath: %q is not a clean absolute path below /", p.ExportPath)
	case !exportable(p.Dir.Root + p.ExportPath):
		return errors.New("dir.root and exportPath: quotes, backslashes and control characters cannot be exported")
	case p.Exporter != ExporterGanesha && p.Exporter != ExporterKernel:
		return fmt.Errorf("exporter: %q is unknown%s", p.Exporter, suggest.Nearest(p.Exporter, []string{ExporterGanesha, ExporterKernel}))
	case p.Exporter == ExporterKernel && p.ExportPath != p.Dir.Root:
		return fmt.Errorf("exportPath: %q is not dir.root: clients of the kernel's NFS server mount the path on disk; leave it out", p.ExportPath)
	}
	return nil
}

// beside checks a pool against one before it: whatever lies in both would be deleted by
// either.
func (p Pool) beside(q Pool) error {
	switch {
	case p.Name == q.Name:
		return errors.New("name: another pool has it")
	case p.root() != "" && q.root() != "" && overlap(p.root(), q.root()):
		return fmt.Errorf("root: %s and %s of pool %s lie in each other", p.root(), q.root(), q.Name)
	case p.Subdir != nil:
		return p.Subdir.beside(q.Subdir, q.Name)
	case p.ZFS != nil && q.ZFS != nil && p.ZFS.beside(q.ZFS, q.Name) != nil:
		return p.ZFS.beside(q.ZFS, q.Name)
	case p.ExportPath != "" && q.ExportPath != "" && q.Subdir == nil && overlap(p.ExportPath, q.ExportPath):
		return fmt.Errorf("exportPath: %s and %s of pool %s lie in each other", p.ExportPath, q.ExportPath, q.Name)
	}
	return nil
}

// root is where the pool lies on this host; "" if that is for Berth to choose.
func (p Pool) root() string {
	switch {
	case p.Subdir != nil:
		return p.Subdir.Root
	case p.Dir != nil:
		return p.Dir.Root
	default:
		return ""
	}
}

func overlap(a, b string) bool {
	return a == b || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}
