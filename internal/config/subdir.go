package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-storage/berth/internal/nameformat"
	"github.com/berth-storage/berth/internal/pathpattern"
	"github.com/berth-storage/berth/internal/suggest"
	"github.com/berth-storage/berth/internal/volume"
)

// Subdir is a pool of directories on a share of an NFS server that is already there.
type Subdir struct {
	Server string `json:"server"` // as PersistentVolumes name it
	Path   string `json:"path"`   // of the share on the server
	// Root is where the share is mounted already; "": Berth mounts it itself.
	Root         string   `json:"root"`
	MountOptions []string `json:"mountOptions"` // with which Berth mounts it, see nfs(5)
	// Cluster names the cluster on the share, where several may be. "": the uid of the
	// namespace kube-system.
	Cluster string `json:"cluster"`
}

// Archives says where volumes are kept whose claims were deleted with OnDeleteArchive,
// and how long.
type Archives struct {
	Beside  bool     `json:"beside"`  // as archived-<path> beside the volumes, not in Berth's own folder
	MaxAge  Duration `json:"maxAge"`  // 0: for good
	MaxSize Size     `json:"maxSize"` // of all together; 0: no limit
}

// AdoptNFSSubdir is a value of Pool.Adopt, for pools on a share.
const AdoptNFSSubdir = "nfs-subdir-external-provisioner"

// DefaultSubdirMode is the mode of a new volume's directory on a share when nothing
// says another: owner and group only.
const DefaultSubdirMode Mode = 0o770

// Size is a number of bytes, written as in "10Gi".
type Size int64

var sizeUnits = map[string]int64{
	"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
	"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60,
}

// UnmarshalJSON reads a Size, also as a bare number.
func (s *Size) UnmarshalJSON(text []byte) error {
	word := string(text)
	if strings.HasPrefix(word, `"`) {
		if err := json.Unmarshal(text, &word); err != nil {
			return err
		}
	}
	number := strings.TrimRight(word, "EGKMPTik")
	n, err := strconv.ParseInt(number, 10, 64)
	unit := sizeUnits[word[len(number):]]
	if err != nil || unit == 0 || n < 0 || n > math.MaxInt64/unit {
		return fmt.Errorf("%s is not a size like 10Gi", text)
	}
	*s = Size(n * unit)
	return nil
}

// MarshalJSON gives the shortest form that UnmarshalJSON reads.
func (s Size) MarshalJSON() ([]byte, error) {
	best := strconv.FormatInt(int64(s), 10)
	for name, unit := range sizeUnits {
		if s == 0 || int64(s)%unit != 0 {
			continue
		}
		text := strconv.FormatInt(int64(s)/unit, 10) + name
		if len(text) < len(best) || len(text) == len(best) && text < best {
			best = text
		}
	}
	return json.Marshal(best)
}

var (
	// clusterName is one element of a path that is not hidden, as a uid is.
	clusterName = regexp.MustCompile(`^[A-Za-z0-9][-A-Za-z0-9_.]{0,62}$`)
	// An option of nfs(5) is a word or word=value; a comma would make it two.
	mountOption = regexp.MustCompile(`^[a-z][a-z0-9_]*(=[-A-Za-z0-9_.:/%\[\]]+)?$`)
	hostName    = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_]*[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9_]*[A-Za-z0-9])?)*\.?$`)
)

func (s Subdir) validate() error {
	switch {
	case !isHost(s.Server):
		return fmt.Errorf("subdir.server: %q is neither a host's name nor an IP address", s.Server)
	case !path.IsAbs(s.Path) || path.Clean(s.Path) != s.Path || !exportable(s.Path):
		return fmt.Errorf("subdir.path: %q is not a clean absolute path", s.Path)
	case s.Root != "" && (!filepath.IsAbs(s.Root) || filepath.Clean(s.Root) != s.Root || s.Root == "/"):
		return fmt.Errorf("subdir.root: %q is not a clean absolute path below /", s.Root)
	case s.Root != "" && s.MountOptions != nil:
		return errors.New("subdir.mountOptions: what is mounted at subdir.root already, Berth does not mount; leave out one of the two")
	case s.Cluster != "" && !clusterName.MatchString(s.Cluster):
		return fmt.Errorf("subdir.cluster: %q is not 1 to 63 letters, digits, '-', '_' and '.'", s.Cluster)
	}
	for _, o := range s.MountOptions {
		if !mountOption.MatchString(o) {
			return fmt.Errorf("subdir.mountOptions: %q is not one option like vers=4.2", o)
		}
	}
	return nil
}

// beside refuses two pools whose volumes could lie in each other on the server.
func (s Subdir) beside(o *Subdir, pool string) error {
	switch {
	case o == nil:
		return nil
	case strings.EqualFold(s.Server, o.Server) && overlap(strings.TrimSuffix(s.Path, "/"), strings.TrimSuffix(o.Path, "/")):
		return fmt.Errorf("subdir.path: %s and %s of pool %s lie in each other on %s", s.Path, o.Path, pool, s.Server)
	}
	return nil
}

// validateShare checks a pool on a share, of which much is its server's business.
func (p Pool) validateShare() error {
	switch {
	case p.Exporter != "":
		return fmt.Errorf("exporter: %q: the volumes of a subdir pool are reached by the server of its share; leave it out", p.Exporter)
	case p.ExportPath != p.Subdir.Path:
		return fmt.Errorf("exportPath: %q: clients mount volumes of a subdir pool below subdir.path; leave it out", p.ExportPath)
	case p.Clients != nil || p.Defaults.RootSquash:
		return errors.New("clients and defaults.rootSquash: who may mount a share, and as whom, its server decides")
	case p.Static != nil:
		return errors.New("static: the server of a share exports nothing for Berth; put them into a dir pool")
	}
	return p.Subdir.validate()
}

// validatePolicy checks what becomes of volumes, and where they lie.
func (p Pool) validatePolicy() error {
	d := p.Defaults
	err := errors.Join(
		oneOf("defaults.onDelete", d.OnDelete, volume.OnDeleteDelete, volume.OnDeleteRetain, volume.OnDeleteArchive),
		oneOf("defaults.existing", d.Existing, volume.ExistingRefuse, volume.ExistingReuse, volume.ExistingShare),
	)
	switch {
	case err != nil:
		return err
	case p.Archives.MaxAge < 0:
		return errors.New("archives.maxAge: is below 0")
	case !slices.Contains([]string{"", "Delete", "Retain"}, p.ReclaimPolicy):
		return fmt.Errorf("reclaimPolicy: %q is neither Delete nor Retain", p.ReclaimPolicy)
	case p.Subdir == nil && (d.Existing != volume.ExistingRefuse || d.PathPattern != "" || p.Archives.Beside):
		return errors.New("defaults.existing, defaults.pathPattern and archives.beside: are for subdir pools only")
	case d.PathPattern == "":
		return nil
	}
	_, err = pathpattern.Parse(d.PathPattern)
	return err
}

func (p Pool) checkNames() error {
	if p.PVNameFormat == "" {
		return nil
	}
	if _, err := nameformat.Parse(p.PVNameFormat); err != nil {
		return fmt.Errorf("pvNameFormat: %w", err)
	}
	return nil
}

func oneOf[T ~string](key string, word T, known ...T) error {
	if slices.Contains(known, word) {
		return nil
	}
	var words []string
	for _, k := range known {
		words = append(words, string(k))
	}
	return fmt.Errorf("%s: %q is none of %s%s", key, word, strings.Join(words, ", "), suggest.Nearest(string(word), words))
}
