package zfs

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-storage/berth/internal/volume"
)

// maxRecord is what ZFS takes for a user property (ZAP_MAXVALUELEN of OpenZFS).
const maxRecord = 8191

func encode(v volume.Volume) (string, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("volume %s: its record: %w", v.Name, err)
	}
	if len(text) > maxRecord {
		return "", fmt.Errorf("%w: volume %s: its record has %d bytes, more than a property of ZFS can hold", volume.ErrInvalid, v.Name, len(text))
	}
	return string(text), nil
}

// decode gives the volume that d is. It is ours only if the record was written on d
// itself, and for it: copies have it from elsewhere, or under another name.
func (b *Backend) decode(d *dataset) (v volume.Volume, ours bool, err error) {
	record := d.local(propRecord)
	parent, last := path.Split(d.name)
	discarded := parent == b.private()+"/"
	if record == "" || d.isSnapshot() || !discarded && parent != b.o.Dataset+"/" {
		return v, false, nil
	}
	if err := json.Unmarshal([]byte(record), &v); err != nil {
		return volume.Volume{}, false, fmt.Errorf("dataset %s: its property %s is no record: %w", d.name, propRecord, err)
	}
	wrong := ""
	switch {
	case v.Name == volume.Name{} || v.Path == volume.RelPath{} || strings.Contains(v.Path.String(), "/"):
		wrong = "tells of no volume"
	case discarded && v.Name.String() != last || !discarded && v.Path.String() != last:
		wrong = fmt.Sprintf("is that of volume %s, at %s: rename the dataset back, or remove the property (zfs inherit %s %s)", v.Name, v.Path, propRecord, d.name)
	}
	if wrong != "" {
		return volume.Volume{}, false, fmt.Errorf("dataset %s: its property %s %s", d.name, propRecord, wrong)
	}
	v.Dir = path.Join(b.root, v.Path.String())
	if at := d.value("mountpoint"); !discarded && strings.HasPrefix(at, "/") {
		v.Dir = at
	}
	if discarded {
		v.State = volume.StateDiscarded
	}
	if v.State == volume.StateCreating && b.isSettled(v, d) {
		v.State = volume.StateReady
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if discarded {
		b.discarded[v.Name] = true
	} else if v.Path != v.Name.RelPath() {
		b.places[v.Name] = v.Path
	}
	return v, true, nil
}

// options are the arguments of zfs create and zfs clone that make the volume v.
func (b *Backend) options(v volume.Volume, s volume.Settings, clone bool) ([]string, error) {
	record, err := encode(v)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for name, value := range b.o.Properties {
		if !clone || !slices.Contains(fixed, name) {
			all[name] = value
		}
	}
	maps.Copy(all, s.Properties)
	all[propRecord] = record
	size := strconv.FormatInt(v.Size, 10)
	if v.Sizing == volume.SizingQuota || v.Sizing == volume.SizingBoth {
		all["refquota"] = size
	}
	if v.Sizing == volume.SizingReservation || v.Sizing == volume.SizingBoth {
		all["refreservation"] = size
	}
	all["sharenfs"] = b.share(v) // also if it is off: it could inherit another one
	var args []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		args = append(args, "-o", name+"="+all[name])
	}
	return args, nil
}
