package config

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/berth-storage/berth/internal/suggest"
)

var (
	// An object's name and a quantity as Kubernetes has them; see
	// https://kubernetes.io/docs/concepts/overview/working-with-objects/names/ and
	// https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
	objectName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$`)
	quantity   = regexp.MustCompile(`^[1-9][0-9]{0,17}([KMGTPE]i|[kMGTPE])?$`)
	notInName  = regexp.MustCompile(`[^a-z0-9]+`)

	accessModes = []string{"ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"}
)

const maxObjectName = 253

// complete fills in the defaults that depend on other keys.
func (s *Static) complete() {
	if s.ExportPath == "" {
		s.ExportPath = s.Path
	}
	if s.Name == "" {
		s.Name = strings.Trim(notInName.ReplaceAllString(strings.ToLower(s.Path), "-"), "-")
	}
	if s.AccessModes == nil {
		s.AccessModes = []string{"ReadWriteMany"}
		if s.ReadOnly {
			s.AccessModes = []string{"ReadOnlyMany"}
		}
	}
}

func (s Static) validate() error {
	switch {
	case !filepath.IsAbs(s.Path) || filepath.Clean(s.Path) != s.Path || s.Path == "/":
		return fmt.Errorf("path: %q is not a clean absolute path below /", s.Path)
	case !path.IsAbs(s.ExportPath) || path.Clean(s.ExportPath) != s.ExportPath || s.ExportPath == "/":
		return fmt.Errorf("exportPath: %q is not a clean absolute path below /", s.ExportPath)
	case !exportable(s.Path + s.ExportPath):
		return errors.New("path and exportPath: quotes, backslashes and control characters cannot be exported")
	case !quantity.MatchString(s.Capacity):
		return fmt.Errorf("capacity: %q is not a quantity above 0 like 10Gi", s.Capacity)
	case len(s.Name) > maxObjectName || !objectName.MatchString(s.Name):
		return fmt.Errorf("name: %q cannot be the name of a PersistentVolume: small letters, digits, '-' and '.'", s.Name)
	case len(s.AccessModes) == 0:
		return errors.New("accessModes: there must be one at least")
	case s.StorageClassName != "" && !objectName.MatchString(s.StorageClassName):
		return fmt.Errorf("storageClassName: %q cannot be the name of a StorageClass", s.StorageClassName)
	}
	for _, mode := range s.AccessModes {
		if !slices.Contains(accessModes, mode) {
			return fmt.Errorf("accessModes: %q is unknown%s", mode, suggest.Nearest(mode, accessModes))
		}
	}
	return nil
}

// exportable says whether a path can be written in the configuration of every NFS server.
func exportable(path string) bool {
	return !strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f || r == '"' || r == '\\' })
}

// validateStatic checks the static directories of all pools: each has a place, an
// export path and a name of its own.
func (c Config) validateStatic() error {
	var wrong []error
	var before []Static
	for i, p := range c.Pools {
		for j, s := range p.Static {
			err := s.validate()
			if err == nil && p.Exporter == ExporterKernel && s.ExportPath != s.Path {
				err = fmt.Errorf("exportPath: %q is not the path: clients of the kernel's NFS server mount the path on disk; leave it out", s.ExportPath)
			}
			if err == nil {
				err = errors.Join(s.besidePools(c.Pools), s.beside(before))
			}
			if err != nil {
				wrong = append(wrong, fmt.Errorf("pools[%d] (%s): static[%d]: %w", i, p.Name, j, err))
			}
			before = append(before, s)
		}
	}
	return errors.Join(wrong...)
}

func (s Static) besidePools(pools []Pool) error {
	for _, p := range pools {
		switch {
		case p.root() != "" && overlap(s.Path, p.root()):
			return fmt.Errorf("path: %s and the root %s of pool %s lie in each other: what is in a pool is Berth's to delete", s.Path, p.root(), p.Name)
		case p.Subdir == nil && p.ExportPath != "" && overlap(s.ExportPath, p.ExportPath):
			return fmt.Errorf("exportPath: %s and %s of pool %s lie in each other", s.ExportPath, p.ExportPath, p.Name)
		}
	}
	return nil
}

func (s Static) beside(others []Static) error {
	for _, o := range others {
		switch {
		case overlap(s.Path, o.Path):
			return fmt.Errorf("path: %s and %s lie in each other", s.Path, o.Path)
		case overlap(s.ExportPath, o.ExportPath):
			return fmt.Errorf("exportPath: %s and %s lie in each other", s.ExportPath, o.ExportPath)
		case s.Name == o.Name:
			return fmt.Errorf("name: %s is that of %s too", s.Name, o.Path)
		}
	}
	return nil
}
