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
	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/volume"
)

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

// root is where a pool lies on this host.
func root(p config.Pool) string {
	if p.Subdir != nil {
		return shareRoot(p)
	}
	return p.Dir.Root
}

// inspect reads what is in a pool, without its lock.
func inspect(ctx context.Context, p config.Pool) (dir.Inspection, error) {
	if p.ZFS != nil {
		return dir.Inspection{}, fmt.Errorf("pool %s: zfs pools cannot be listed yet", p.Name)
	}
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
