package zfs

import (
	"context"
	"errors"
	"fmt"

	"github.com/berth-storage/berth/internal/volume"
)

// Inspection is what lies in a pool.
type Inspection struct {
	Identity string
	Reports  []volume.Report
	// Problems are what is wrong with single volumes: a record that cannot be read, a dataset
	// that is not mounted, a limit that is not what the record says.
	Problems []error
	// Unknown are the datasets that no record names.
	Unknown []string
}

// Inspect reads the pool of o.Dataset. It changes nothing, so that it can be called while another
// process works there: a volume that comes or goes meanwhile may be in it or not.
func Inspect(ctx context.Context, o Options) (_ Inspection, err error) {
	b, err := OpenView(ctx, o)
	if err != nil {
		return Inspection{}, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	i := Inspection{Identity: b.identity}
	if b.identity == "" {
		return i, fmt.Errorf("%w: dataset %s is that of no pool: it has no %s", volume.ErrForeign, o.Dataset, b.private())
	}
	seen := map[volume.Name]bool{}
	for _, parent := range []string{b.private(), o.Dataset} { // one that is discarded meanwhile is told of once
		out, err := b.zfs(ctx, get(volumeProperties, "-d1", parent)...)
		if err != nil {
			return i, err
		}
		all, err := parse(out)
		if err != nil {
			i.Problems = append(i.Problems, err)
		}
		for _, d := range all {
			if d.name != o.Dataset && d.name != b.private() && !d.isSnapshot() {
				b.report(&i, d, seen)
			}
		}
	}
	return i, nil
}

// report adds what d is to i.
func (b *Backend) report(i *Inspection, d *dataset, seen map[volume.Name]bool) {
	v, ours, err := b.decode(d)
	switch {
	case err != nil:
		i.Problems = append(i.Problems, err)
		return
	case !ours:
		i.Unknown = append(i.Unknown, d.name)
		return
	case seen[v.Name]:
		return
	}
	seen[v.Name] = true
	u := volume.Usage{Bytes: d.number("referenced"), LimitBytes: d.number("refquota")}
	i.Reports = append(i.Reports, volume.Report{Volume: v, Usage: &u})
	if v.State != volume.StateReady && v.State != volume.StateRetained {
		return
	}
	if d.value("mounted") != "yes" {
		i.Problems = append(i.Problems, fmt.Errorf("volume %s: dataset %s is not mounted (zfs mount %s)", v.Name, d.name, d.name))
	}
	if v.Limit == Limit && u.LimitBytes != uint64(v.Size) {
		i.Problems = append(i.Problems, fmt.Errorf("volume %s: its record says %d bytes, the dataset's %s is %d (0: none)", v.Name, v.Size, Limit, u.LimitBytes))
	}
}
