package zfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/berth-storage/berth/internal/volume"
)

// sized are the properties that tell, wherever they come from, how a dataset is limited and
// where its content comes from.
var sized = []string{"quota", "refquota", "reservation", "refreservation", "origin"}

// limitQuota is what openshift-pvmanager limits volumes by. It counts their snapshots too.
const limitQuota volume.Limit = "quota"

// Look says what the dataset at p is like, which Berth did not make. ErrNotFound if
// there is none, ErrForeign if it is not a file system that is mounted.
func (b *Backend) Look(ctx context.Context, p volume.RelPath) (volume.Found, error) {
	found, _, err := b.examine(ctx, p)
	return found, err
}

func (b *Backend) examine(ctx context.Context, p volume.RelPath) (found volume.Found, d *dataset, err error) {
	name := b.o.Dataset + "/" + p.String()
	if !element.MatchString(p.String()) {
		return found, nil, fmt.Errorf("%w: %s is not directly below the pool's dataset", volume.ErrForeign, name)
	}
	all, err := b.ask(ctx, []string{"all"}, b.o.Dataset, name)
	if err != nil {
		return found, nil, fmt.Errorf("dataset %s: %w", name, err)
	}
	if find(all, b.o.Dataset) == nil {
		return found, nil, fmt.Errorf("%w: the pool's own dataset %s does not exist", volume.ErrUnknown, b.o.Dataset)
	}
	switch d = find(all, name); {
	case d == nil:
		return found, nil, fmt.Errorf("%w: dataset %s does not exist", volume.ErrNotFound, name)
	case d.value("type") != "filesystem":
		return found, nil, fmt.Errorf("%w: dataset %s is a %s, and not a file system", volume.ErrForeign, name, d.value("type"))
	case d.value("mounted") != "yes" || !strings.HasPrefix(d.value("mountpoint"), "/"):
		return found, nil, fmt.Errorf("%w: dataset %s is not mounted by itself (its mountpoint is %s): zfs mount %s", volume.ErrForeign, name, d.value("mountpoint"), name)
	}
	found = volume.Found{Dir: d.value("mountpoint"), Properties: map[string]string{}}
	for property := range d.properties {
		if value := d.local(property); value != "" {
			found.Properties[property] = value
		}
	}
	for _, property := range sized {
		if value := d.value(property); value != "" && value != "-" {
			found.Properties[property] = value
		}
	}
	// Over ssh nobody asks for the owner: it is kept for information only.
	if b.o.Local && found.Dir == p.Below(b.root) {
		if found.Owner, err = b.owner(p); err != nil {
			return found, nil, fmt.Errorf("dataset %s: %w", name, err)
		}
	}
	return found, d, nil
}

// Folders are the names of the datasets directly below the parent, without Berth's own.
func (b *Backend) Folders(ctx context.Context) ([]string, error) {
	all, err := b.volumes(ctx)
	if err != nil {
		return nil, fmt.Errorf("dataset %s: %w", b.o.Dataset, err)
	}
	var names []string
	for _, d := range all {
		if parent, name := path.Split(d.name); parent == b.o.Dataset+"/" && d.name != b.private() && !d.isSnapshot() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Adopt writes a record of v, a volume that another program made: ready, with the owner and
// mode that its directory has, and the limits that its dataset has. The dataset stays as it
// is, but for the snapshot that a clone was made of: that goes with its last clone from now on.
// ErrExists if v's name or its dataset has a record, and the errors of Look.
func (b *Backend) Adopt(ctx context.Context, v volume.Volume) (volume.Volume, error) {
	switch _, err := b.Get(ctx, v.Name); {
	case err == nil:
		return volume.Volume{}, fmt.Errorf("%w: volume %s has a record", volume.ErrExists, v.Name)
	case !errors.Is(err, volume.ErrNotFound):
		return volume.Volume{}, err
	}
	found, d, err := b.examine(ctx, v.Path)
	if err != nil {
		return volume.Volume{}, err
	}
	if d.local(propRecord) != "" {
		return volume.Volume{}, fmt.Errorf("%w: dataset %s has a record of another volume", volume.ErrExists, d.name)
	}
	if err := b.deferSnapshot(ctx, v, d); err != nil {
		return volume.Volume{}, err
	}
	v.Owner, v.State, v.Rev, v.Dir, v.Limit = found.Owner, volume.StateReady, 0, found.Dir, volume.LimitNone
	switch {
	case d.number(string(Limit)) > 0:
		v.Limit = Limit
	case d.number(string(limitQuota)) > 0:
		v.Limit = limitQuota
	}
	b.mu.Lock()
	if v.Path != v.Name.RelPath() {
		b.places[v.Name] = v.Path // also if it fails: the record may be there
	}
	b.mu.Unlock()
	b.forget(d.name)
	return b.save(ctx, v)
}

// deferSnapshot has the snapshot that d is a clone of go with the last of its clones, as that
// of Berth's own clones does.
func (b *Backend) deferSnapshot(ctx context.Context, v volume.Volume, d *dataset) error {
	origin := d.value("origin")
	if v.ClonedFrom == (volume.Name{}) || path.Dir(origin) != b.o.Dataset {
		return nil
	}
	_, err := b.zfs(ctx, "destroy", "-d", origin)
	if errors.Is(err, volume.ErrUnknown) {
		return fmt.Errorf("volume %s: having snapshot %s go with its last clone: %w", v.Name, origin, err)
	}
	if err != nil {
		b.o.Log.Warn("a snapshot stays when its last clone is gone", "snapshot", origin, "clone", v.Name.String(), "err", err)
	}
	return nil
}

// Adoption is the account of a finished adoption. As long as there is none, the volumes
// of the program before may still be nobody's.
type Adoption struct {
	From     string    `json:"from"` // the program
	Finished time.Time `json:"finished"`
	Adopted  int       `json:"adopted"` // volumes
	Left     int       `json:"left"`    // PersistentVolumes that were left alone
}

// Adoption reads the account. ErrNotFound if there is none.
func (b *Backend) Adoption(ctx context.Context) (a Adoption, err error) {
	all, err := b.ask(ctx, []string{propAdoption}, b.private())
	if err != nil {
		return a, err
	}
	d := find(all, b.private())
	if d == nil || d.local(propAdoption) == "" {
		return a, fmt.Errorf("%w: nothing was adopted below %s", volume.ErrNotFound, b.o.Dataset)
	}
	if err := json.Unmarshal([]byte(d.local(propAdoption)), &a); err != nil {
		return a, fmt.Errorf("dataset %s: its property %s, the account of what was adopted: %w", d.name, propAdoption, err)
	}
	return a, nil
}

// SetAdoption writes the account.
func (b *Backend) SetAdoption(ctx context.Context, a Adoption) error {
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if _, err := b.zfs(ctx, "set", propAdoption+"="+string(text), b.private()); err != nil {
		return fmt.Errorf("the account of what was adopted: %w", meaning(err))
	}
	return nil
}
