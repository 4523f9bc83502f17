package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/backend/subdir"
	"github.com/berth-storage/berth/internal/backend/zfs"
	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/volume"
)

// DatasetPool is the pool below a dataset of this host, without a configuration.
func DatasetPool(dataset string) config.Pool {
	return config.Pool{ZFS: &config.ZFS{Dataset: dataset}}
}

// PoolAt is the pool at a root, without a configuration. The cluster names the part of one
// on a share, where there are several.
func PoolAt(root, cluster string) config.Pool {
	clusters, err := os.Stat(filepath.Join(root, clustersFolder))
	if cluster != "" || err == nil && clusters.IsDir() {
		return config.Pool{Subdir: &config.Subdir{Root: root, Cluster: cluster}}
	}
	return config.Pool{Dir: &config.Dir{Root: root, Quota: config.QuotaAuto}}
}

// clustersFolder holds a folder for each cluster that uses a share.
var clustersFolder = filepath.Dir(dir.Folder("any"))

// root is where a pool lies: a folder of this host, or a dataset.
func root(p config.Pool) string {
	switch {
	case p.ZFS != nil:
		return p.ZFS.Dataset
	case p.Subdir != nil:
		return shareRoot(p)
	}
	return p.Dir.Root
}

// inspection is what lies in a pool.
type inspection struct {
	Identity string
	Root     string
	Advisory error // why new volumes are not limited; nil: they are
	Reports  []volume.Report
	Problems []error  // with single volumes
	Unknown  []string // what no record names
}

// inspect reads what is in a pool, without its lock.
func inspect(ctx context.Context, p config.Pool) (inspection, error) {
	if p.ZFS != nil {
		return inspectDatasets(ctx, p)
	}
	i, err := inspectDirectories(ctx, p)
	return inspection{Identity: i.Identity, Root: root(p), Advisory: i.Advisory, Reports: i.Reports, Problems: i.Problems, Unknown: i.Unknown}, err
}

func inspectDirectories(ctx context.Context, p config.Pool) (dir.Inspection, error) {
	if p.Subdir == nil {
		return dir.Inspect(ctx, root(p), "", dir.Quota(p.Dir.Quota))
	}
	if err := subdir.Answers(ctx, root(p)); err != nil {
		return dir.Inspection{}, err
	}
	cluster := p.Subdir.Cluster
	if cluster == "" {
		var err error
		if cluster, err = onlyCluster(root(p)); err != nil {
			return dir.Inspection{}, err
		}
	}
	return dir.Inspect(ctx, root(p), cluster, dir.QuotaOff)
}

func inspectDatasets(ctx context.Context, p config.Pool) (inspection, error) {
	r, done, err := runner(p.ZFS)
	if err != nil {
		return inspection{}, err
	}
	defer done()
	i, err := zfs.Inspect(ctx, datasetOptions(p.ZFS, r))
	return inspection{Identity: i.Identity, Root: p.ZFS.Dataset, Reports: i.Reports, Problems: i.Problems, Unknown: i.Unknown}, err
}

// onlyCluster is the cluster that uses the share at root.
func onlyCluster(root string) (string, error) {
	folders, err := os.ReadDir(filepath.Join(root, clustersFolder))
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && len(folders) == 0:
		return "", fmt.Errorf("%w: %s is the root of no pool on a share, or the share is not mounted there: it has no %s", volume.ErrForeign, root, clustersFolder)
	case err != nil:
		return "", fmt.Errorf("pool root: %w", err)
	case len(folders) == 1:
		return folders[0].Name(), nil
	}
	var names []string
	for _, f := range folders {
		names = append(names, f.Name())
	}
	return "", fmt.Errorf("several clusters use the share at %s; say which by --cluster, or subdir.cluster in the configuration: %s", root, strings.Join(names, ", "))
}
