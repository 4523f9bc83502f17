package zfs

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/berth-storage/berth/internal/volume"
)

// Properties that tell all of a snapshot.
var snapshotProperties = []string{propSnapshot, "defer_destroy"}

// Snapshot implements volume.Snapshotter: one command makes it with its record, which is a user
// property. ZFS takes it between two of its transactions, so that all that was written before is in it,
// on disk or not.
func (b *Backend) Snapshot(ctx context.Context, s volume.SnapshotSpec, _ *volume.Progress) (volume.Volume, error) {
	if err := ctx.Err(); err != nil {
		return volume.Volume{}, context.Cause(ctx)
	}
	if err := s.Validate(); err != nil {
		return volume.Volume{}, err
	}
	if old, err := b.takenBefore(ctx, s); !errors.Is(err, volume.ErrNotFound) {
		return old, err
	}
	of, d, err := b.read(ctx, s.Of)
	if err == nil && of.State != volume.StateReady {
		err = fmt.Errorf("%w: it is %s", volume.ErrNotFound, of.State)
	}
	if err != nil {
		return volume.Volume{}, fmt.Errorf("snapshot %s of volume %s: %w", s.Name, s.Of, err)
	}
	name := d.name + "@" + s.Name.String()
	if len(b.aside(s.Of))+len("@")+len(s.Name.String()) > maxDataset {
		return volume.Volume{}, fmt.Errorf("%w: snapshot %s of volume %s: its name is longer than ZFS allows: choose a parent dataset with a shorter name", volume.ErrInvalid, s.Name, s.Of)
	}
	v := volume.NewSnapshot(s, of, time.Now())
	v.State, v.Rev = volume.StateSnapshot, 1
	record, err := encode(v)
	if err != nil {
		return volume.Volume{}, err
	}
	_, err = b.zfs(ctx, "snapshot", "-o", propSnapshot+"="+record, name)
	switch {
	case said(err, saysExists): // perhaps by a command whose outcome was not known
		b.index.lose()
		old, err := b.takenBefore(ctx, s)
		if errors.Is(err, volume.ErrNotFound) {
			err = fmt.Errorf("%w: snapshot %s is somebody else's: rename or destroy it", volume.ErrForeign, name)
		}
		return old, err
	case errors.Is(err, volume.ErrUnknown):
		b.index.lose()
		return volume.Volume{}, fmt.Errorf("snapshot %s of volume %s: %w", s.Name, s.Of, err)
	case err != nil:
		return volume.Volume{}, fmt.Errorf("snapshot %s: %w", s.Name, b.refused("taking a snapshot of", of, err))
	}
	b.index.add(s.Name, name)
	v.Dir = snapshotDir(d, s.Name)
	return v, nil
}

// takenBefore gives the snapshot of s if it is there.
func (b *Backend) takenBefore(ctx context.Context, s volume.SnapshotSpec) (volume.Volume, error) {
	old, err := b.Get(ctx, s.Name)
	switch {
	case err != nil:
		return volume.Volume{}, err
	case !old.IsSnapshot(s):
		return volume.Volume{}, fmt.Errorf("%w: %s is something else, that of claim %s", volume.ErrExists, s.Name, old.Claim)
	case old.State != volume.StateSnapshot:
		return volume.Volume{}, fmt.Errorf("%w: snapshot %s is %s", volume.ErrBusy, s.Name, old.State)
	}
	return old, nil
}

// snapshotDir is where clients and this host see what is in a snapshot, if its volume d is mounted. It
// is there whether snapdir is visible or not.
func snapshotDir(d *dataset, n volume.Name) string {
	if at := d.value("mountpoint"); d.value("mounted") == "yes" && strings.HasPrefix(at, "/") {
		return path.Join(at, ".zfs", "snapshot", n.String())
	}
	return ""
}

// listTries is how often snapshots are listed until nothing happens meanwhile that nobody can tell the end of.
const listTries = 3

// findSnapshot gives the full name of the snapshot n; "" if n is none.
func (b *Backend) findSnapshot(ctx context.Context, n volume.Name) (string, error) {
	if name, known := b.index.find(n); known {
		return name, nil
	}
	select { // there may be tens of thousands, and many who ask
	case b.index.looking <- struct{}{}:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	defer func() { <-b.index.looking }()
	for range listTries {
		if name, known := b.index.find(n); known {
			return name, nil
		}
		l := b.index.list()
		all, err := b.ask(ctx, []string{"type"}, "-d1", b.o.Dataset, b.private())
		if err != nil {
			b.index.end(l, nil)
			return "", untold(ctx, err)
		}
		for _, err := range b.listSnapshots(ctx, l, all) {
			if errors.Is(err, volume.ErrUnknown) {
				return "", err
			}
		}
	}
	if name, known := b.index.find(n); known {
		return name, nil
	}
	return "", fmt.Errorf("%w: whether %s is a snapshot cannot be told just now", volume.ErrBusy, n)
}

// snapshotCalled gives the snapshot n and its full name; "" if n is none.
func (b *Backend) snapshotCalled(ctx context.Context, n volume.Name) (v volume.Volume, name string, err error) {
	for try := 1; ; try++ {
		if name, err = b.findSnapshot(ctx, n); err != nil || name == "" {
			return volume.Volume{}, "", err
		}
		v, err = b.readSnapshot(ctx, n, name)
		// Where it was it is not any more. It may be another dataset's, since somebody promoted that.
		if !errors.Is(err, volume.ErrNotFound) || try == listTries {
			return v, name, err
		}
	}
}

// readSnapshot reads the snapshot n, whose full name is given.
func (b *Backend) readSnapshot(ctx context.Context, n volume.Name, name string) (volume.Volume, error) {
	of, _, _ := strings.Cut(name, "@")
	all, err := b.ask(ctx, append([]string{"mounted", "mountpoint"}, snapshotProperties...), b.o.Dataset, of, name)
	if err != nil {
		return volume.Volume{}, fmt.Errorf("snapshot %s: %w", n, err)
	}
	d := find(all, name)
	switch {
	case find(all, b.o.Dataset) == nil:
		return volume.Volume{}, fmt.Errorf("%w: snapshot %s: the pool's own dataset %s does not exist", volume.ErrUnknown, n, b.o.Dataset)
	case d == nil:
		b.index.lose()
		return volume.Volume{}, fmt.Errorf("%w: %s", volume.ErrNotFound, n)
	}
	v, ours, err := b.decodeSnapshot(d)
	if err == nil && !ours {
		err = fmt.Errorf("%w: %s: snapshot %s is somebody else's", volume.ErrNotFound, n, name)
	}
	if host := find(all, of); host != nil && err == nil {
		v.Dir = snapshotDir(host, n)
	}
	return v, err
}

// decodeSnapshot gives the snapshot that d is. It is ours only if the record was written on d
// itself, and for it. Of one that cannot be read it gives what it may be called.
func (b *Backend) decodeSnapshot(d *dataset) (v volume.Volume, ours bool, err error) {
	record := d.local(propSnapshot)
	of, last, isSnapshot := strings.Cut(d.name, "@")
	if record == "" || !isSnapshot || !b.hasVolumes(path.Dir(of)) {
		return v, false, nil
	}
	called, _ := volume.ParseName(last) // the zero Name if Berth would give none like that
	if err := json.Unmarshal([]byte(record), &v); err != nil {
		return volume.Volume{Name: called}, false, fmt.Errorf("snapshot %s: its property %s is no record: %w", d.name, propSnapshot, err)
	}
	if v.Name.String() != last || v.SnapshotOf == (volume.Name{}) || v.State != volume.StateSnapshot && v.State != volume.StateDiscarded {
		return volume.Volume{Name: cmp.Or(v.Name, called)}, false, fmt.Errorf("snapshot %s: its property %s is that of snapshot %s: rename the snapshot back, or remove the property (zfs inherit %s %s)",
			d.name, propSnapshot, v.Name, propSnapshot, d.name)
	}
	if d.value("defer_destroy") == "on" {
		v.State = volume.StateDiscarded
	}
	return v, true, nil
}

// hasVolumes says whether a dataset is one whose children are volumes.
func (b *Backend) hasVolumes(name string) bool { return name == b.o.Dataset || name == b.private() }

// together is how many datasets, or snapshots, one command is asked about. ZFS looks at every
// snapshot of a dataset for one property of it, and administrators have thousands in each: of all datasets at once a
// command would take longer than it may.
const together = 50

// ourSnapshots gives those that have a property of Berth's, of datasets among all. Of the others, of which there may
// be hundreds of thousands, zfs prints nothing.
func (b *Backend) ourSnapshots(ctx context.Context, l *listing, all []*dataset) ([]*dataset, error) {
	if find(all, b.o.Dataset) == nil {
		return nil, fmt.Errorf("%w: the pool's dataset %s does not exist", volume.ErrUnknown, b.o.Dataset)
	}
	var hosts []string
	for _, d := range all {
		if b.hasVolumes(path.Dir(d.name)) && !d.isSnapshot() {
			hosts = append(hosts, d.name)
		}
	}
	byHost := map[string][]*dataset{}
	for ; len(hosts) > 0; hosts = b.index.again(l) {
		for some := range slices.Chunk(hosts, together) {
			all, err := b.ask(ctx, []string{propClone, propSnapshot}, append([]string{"-d1", "-slocal"}, some...)...)
			if err != nil {
				return nil, err
			}
			for _, host := range some {
				delete(byHost, host)
			}
			for _, d := range all {
				host, _, _ := strings.Cut(d.name, "@")
				byHost[host] = append(byHost[host], d)
			}
		}
	}
	return slices.Concat(slices.Collect(maps.Values(byHost))...), nil
}

// untold is err of a command that should have told of everything: that it did not is no answer.
func untold(ctx context.Context, err error) error {
	if err != nil && ctx.Err() == nil && !errors.Is(err, volume.ErrUnknown) {
		return fmt.Errorf("%w: %w", volume.ErrUnknown, err)
	}
	return err
}

// listSnapshots gives every snapshot that is ours, and notes where they are. datasets are those that there
// were when l had begun, which it ends.
func (b *Backend) listSnapshots(ctx context.Context, l *listing, datasets []*dataset) func(yield func(volume.Volume, error) bool) {
	return func(yield func(volume.Volume, error) bool) {
		defer b.index.end(l, nil)
		all, err := b.ourSnapshots(ctx, l, datasets)
		if err != nil {
			yield(volume.Volume{}, untold(ctx, err))
			return
		}
		var bad []error
		found, at := map[volume.Name]volume.Volume{}, map[volume.Name]string{}
		for _, d := range all {
			v, ours, err := b.decodeSnapshot(d)
			switch before := at[v.Name]; {
			case err != nil:
				bad = append(bad, err)
				if v.Name != (volume.Name{}) { // what cannot be read is not gone
					at[v.Name] = cmp.Or(before, d.name)
				}
			case ours && before != "":
				bad = append(bad, fmt.Errorf("snapshots %s and %s have one name and Berth's property %s: rename one of them, or remove its property (zfs inherit)", before, d.name, propSnapshot))
			case ours:
				found[v.Name], at[v.Name] = v, d.name
			}
		}
		b.index.end(l, at)
		for _, err := range bad {
			if !yield(volume.Volume{}, err) {
				return
			}
		}
		for _, n := range slices.SortedFunc(maps.Keys(found), func(x, y volume.Name) int { return strings.Compare(x.String(), y.String()) }) {
			if !yield(found[n], nil) {
				return
			}
		}
	}
}

// discardSnapshot destroys a snapshot, or, if it has clones, has it go with the last of them. Its
// record says so first: ZFS tells of that only who asks for this very snapshot.
func (b *Backend) discardSnapshot(ctx context.Context, v volume.Volume, name string) error {
	if v.State == volume.StateSnapshot {
		err := b.patiently(ctx, "destroy", name)
		if err == nil || said(err, saysMissing) {
			b.index.remove(v.Name)
			return nil
		}
		if !said(err, saysHolds) {
			return fmt.Errorf("deleting snapshot %s: %w", v.Name, meaning(err))
		}
		v.State = volume.StateDiscarded
		if _, err := b.saveSnapshot(ctx, v, name); err != nil {
			return err
		}
	}
	if err := b.destroySnapshot(ctx, name); err != nil {
		return fmt.Errorf("deleting snapshot %s: %w", v.Name, meaning(err))
	}
	return nil
}

// purgeSnapshot waits for the clones of a snapshot: the last one takes it along.
func (b *Backend) purgeSnapshot(ctx context.Context, v volume.Volume, name string) error {
	if v.State != volume.StateDiscarded {
		return fmt.Errorf("%w: snapshot %s is not discarded", volume.ErrConflict, v.Name)
	}
	if err := b.destroySnapshot(ctx, name); err != nil {
		return fmt.Errorf("purging snapshot %s: %w", v.Name, meaning(err))
	}
	all, err := b.ask(ctx, snapshotProperties, b.o.Dataset, name)
	switch {
	case err != nil:
		return fmt.Errorf("purging snapshot %s: %w", v.Name, err)
	case find(all, name) != nil:
		return fmt.Errorf("%w: of snapshot %s; its space is freed when they are deleted", volume.ErrCloned, name)
	}
	b.index.lose()
	elsewhere, err := b.findSnapshot(ctx, v.Name)
	if err == nil && elsewhere != "" {
		err = fmt.Errorf("%w: of snapshot %s, which was %s; its space is freed when they are deleted", volume.ErrCloned, elsewhere, name)
	}
	return err
}

// saveSnapshot writes the record of a snapshot, with the next revision.
func (b *Backend) saveSnapshot(ctx context.Context, v volume.Volume, name string) (volume.Volume, error) {
	v.Rev++
	record, err := encode(v)
	if err != nil {
		return volume.Volume{}, err
	}
	if _, err := b.zfs(ctx, "set", propSnapshot+"="+record, name); err != nil {
		return volume.Volume{}, fmt.Errorf("recording snapshot %s: %w", v.Name, meaning(err))
	}
	return v, nil
}

// updateSnapshot is Update for a snapshot, which is old now.
func (b *Backend) updateSnapshot(ctx context.Context, old, v volume.Volume, name string) (volume.Volume, error) {
	if old.Rev != v.Rev {
		return volume.Volume{}, fmt.Errorf("%w: the record of snapshot %s is at revision %d, not %d", volume.ErrConflict, v.Name, old.Rev, v.Rev)
	}
	return b.saveSnapshot(ctx, v, name)
}
