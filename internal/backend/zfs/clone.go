package zfs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/berth-storage/berth/internal/volume"
)

// clonePrefix begins the names of the snapshots that volumes are cloned from; the name
// of the clone follows.
const clonePrefix = "@berth-"

// Clone implements volume.Cloner: a snapshot, then the clone with its record, then
// the snapshot is told to go when it has no clone any more.
func (b *Backend) Clone(ctx context.Context, s volume.Spec, _ *volume.Progress) (volume.Volume, error) {
	if err := b.check(ctx, s); err != nil {
		return volume.Volume{}, err
	}
	if s.From == nil || s.From.Volume == (volume.Name{}) || s.From.Pool != "" {
		return volume.Volume{}, fmt.Errorf("%w: volume %s: no volume to clone", volume.ErrInvalid, s.Name)
	}
	v := b.plan(s)
	all, err := b.askOf(ctx, s.Name, s.From.Volume)
	if err != nil {
		return volume.Volume{}, fmt.Errorf("volume %s: %w", s.Name, err)
	}
	switch old, d, err := b.among(all, s.Name); {
	case err == nil && old.Is(s) && old.Ended.IsZero() && old.CopiedFrom == volume.Origin{}:
		return b.finishClone(ctx, old, d.value("origin"))
	case err == nil:
		return volume.Volume{}, fmt.Errorf("%w: volume %s belongs to claim %s (uid %s)", volume.ErrExists, s.Name, old.Claim, old.Claim.UID)
	case !errors.Is(err, volume.ErrNotFound):
		return volume.Volume{}, err
	}
	host, err := b.host(ctx, all, v)
	if err != nil {
		return volume.Volume{}, fmt.Errorf("volume %s: what it shall be cloned from: %w", s.Name, err)
	}
	if s.Settings.Properties, err = b.unfixed(ctx, s, host); err != nil {
		return volume.Volume{}, err
	}
	snapshot := host + "@" + v.FromSnapshot.String()
	if v.FromSnapshot == (volume.Name{}) {
		snapshot = host + clonePrefix + s.Name.String()
		if err := b.snapshot(ctx, s.Name, snapshot); err != nil {
			return volume.Volume{}, b.refused("cloning", v, err)
		}
	}
	args, err := b.options(v, s.Settings, true)
	if err != nil {
		return volume.Volume{}, err
	}
	switch err := b.make(ctx, v, append(append([]string{"clone"}, args...), snapshot)); {
	case err == nil:
		return b.finishClone(ctx, v, snapshot)
	case said(err, saysCreated), said(err, saysExists):
		return b.resume(ctx, s, err)
	case errors.Is(err, volume.ErrUnknown):
		return volume.Volume{}, b.refused("cloning", v, err) // it may be there, and need the snapshot
	case v.FromSnapshot != volume.Name{}:
		return volume.Volume{}, b.refused("cloning", v, err)
	default:
		return volume.Volume{}, errors.Join(b.refused("cloning", v, err), b.destroySnapshot(ctx, snapshot))
	}
}

// fixed are the properties that a file system has for life, so that a clone has its origin's.
var fixed = []string{"casesensitivity", "normalization", "utf8only"}

// unfixed gives the properties that s asks for in a clone of source, without those that it has from there.
func (b *Backend) unfixed(ctx context.Context, s volume.Spec, source string) (map[string]string, error) {
	kept, asked := maps.Clone(s.Settings.Properties), []string(nil)
	for _, name := range fixed {
		if _, has := kept[name]; has {
			asked = append(asked, name)
		}
	}
	if len(asked) == 0 {
		return kept, nil
	}
	all, err := b.ask(ctx, asked, source)
	if err != nil {
		return nil, fmt.Errorf("volume %s: what it shall be cloned from: %w", s.Name, err)
	}
	d := find(all, source)
	if d == nil {
		return nil, fmt.Errorf("%w: volume %s: what it shall be cloned from is gone: %s", volume.ErrNotFound, s.Name, source)
	}
	for _, name := range asked {
		if has := d.value(name); has != kept[name] {
			return nil, fmt.Errorf("%w: volume %s: a clone has the %s of what it is cloned from, which is %s and cannot be %s",
				volume.ErrInvalid, s.Name, name, has, kept[name])
		}
		delete(kept, name)
	}
	return kept, nil
}

// host gives the dataset that has the snapshot that v is to be cloned from, or is to get it. all has the
// volume of that.
func (b *Backend) host(ctx context.Context, all []*dataset, v volume.Volume) (string, error) {
	if v.FromSnapshot != (volume.Name{}) {
		name, err := b.findSnapshot(ctx, v.FromSnapshot)
		if err == nil && name == "" {
			err = fmt.Errorf("%w: there is no snapshot %s", volume.ErrNotFound, v.FromSnapshot)
		}
		host, _, _ := strings.Cut(name, "@")
		return host, err
	}
	source, d, err := b.among(all, v.ClonedFrom)
	if err != nil {
		return "", err
	}
	if source.State != volume.StateReady {
		return "", fmt.Errorf("%w: it is %s", volume.ErrNotFound, source.State)
	}
	return d.name, nil
}

// snapshot makes one for the clone n. One that an earlier call has made holds what the
// source held then.
func (b *Backend) snapshot(ctx context.Context, n volume.Name, snapshot string) error {
	_, err := b.zfs(ctx, "snapshot", "-o", propClone+"="+n.String(), snapshot)
	if !said(err, saysExists) {
		return err
	}
	all, askErr := b.ask(ctx, []string{propClone}, snapshot)
	if d := find(all, snapshot); askErr == nil && (d == nil || d.local(propClone) != n.String()) {
		return fmt.Errorf("%w: snapshot %s is somebody else's: rename or destroy it", volume.ErrForeign, snapshot)
	}
	return askErr
}

// destroySnapshot destroys a snapshot, or has it go with its last clone.
func (b *Backend) destroySnapshot(ctx context.Context, snapshot string) error {
	if err := b.patiently(ctx, "destroy", "-d", snapshot); err != nil && !said(err, saysMissing) {
		return err
	}
	return nil
}

// finishClone does what is left when the clone is there, which was made of the snapshot origin.
func (b *Backend) finishClone(ctx context.Context, v volume.Volume, origin string) (volume.Volume, error) {
	if v.State == volume.StateReady {
		return v, nil
	}
	if err := b.Mount(ctx, v); err != nil {
		return volume.Volume{}, err
	}
	if err := b.release(ctx, v.Name, origin); err != nil {
		return volume.Volume{}, b.refused("cloning", v, err)
	}
	return b.settle(ctx, v)
}

// release has the snapshot origin, which n was made of, go with its last clone, if it was made
// for n.
func (b *Backend) release(ctx context.Context, n volume.Name, origin string) error {
	if !strings.HasSuffix(origin, clonePrefix+n.String()) {
		return nil
	}
	return b.destroySnapshot(ctx, origin)
}

// sweep destroys the snapshots of clones that never came to be, and has those of others
// go with them. found are all that may be such.
func (b *Backend) sweep(ctx context.Context, found []*dataset) error {
	var names []string
	for _, d := range found {
		if clone := d.local(propClone); clone != "" && strings.HasSuffix(d.name, clonePrefix+clone) {
			names = append(names, d.name)
		}
	}
	for some := range slices.Chunk(names, together) {
		all, err := b.ask(ctx, []string{"defer_destroy"}, some...)
		if err != nil {
			return fmt.Errorf("snapshots that clones were made from: %w", meaning(err))
		}
		for _, d := range all {
			if d.value("defer_destroy") == "on" {
				continue
			}
			if err := b.destroySnapshot(ctx, d.name); err != nil {
				return fmt.Errorf("snapshot %s, which a clone was to be made from: %w", d.name, meaning(err))
			}
		}
	}
	return nil
}
