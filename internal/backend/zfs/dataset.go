package zfs

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// The user properties of Berth.
const (
	propRecord   = "berth:record"   // of a volume: its record
	propPool     = "berth:pool"     // of the private dataset: the pool's identity
	propAdoption = "berth:adoption" // likewise: the account of a finished adoption
	propClone    = "berth:clone"    // of a snapshot: the volume that it was made for
	propSnapshot = "berth:snapshot" // of a snapshot that was asked for: its record
)

// Sources of properties: set on the dataset itself, and come with zfs receive.
const (
	local    = "local"
	received = "received"
)

// property is the value of a property, and where it comes from.
type property struct{ source, value string }

// dataset is a file system, a volume of blocks or a snapshot, as zfs get tells of it.
type dataset struct {
	name       string
	properties map[string]property
}

// get is the arguments of zfs that ask for properties, with options of one word each and the
// datasets in more; parse reads the answer.
func get(properties []string, more ...string) []string {
	args := []string{"get", "-Hp", "-o", "name,property,source,value"}
	// getopt(3) of glibc finds options anywhere, that of others before all else only.
	for len(more) > 0 && strings.HasPrefix(more[0], "-") {
		args, more = append(args, more[0]), more[1:]
	}
	return append(append(args, strings.Join(properties, ",")), more...)
}

// parse reads what zfs prints for get: a line for each property, of one dataset after the other. A dataset
// that was asked for twice is given once. Whoever may set properties may write new lines
// into them: a line that is none, and one that says something else than one before, make
// the dataset before it, or that of the name, unreadable.
func parse(output []byte) ([]*dataset, error) {
	var all []*dataset
	byName := map[string]*dataset{}
	var bad error
	for line := range bytes.Lines(output) {
		fields := strings.SplitN(strings.TrimSuffix(string(line), "\n"), "\t", 4)
		if len(fields) != 4 || fields[0] == "" {
			bad = fmt.Errorf("zfs get printed a line that is no property: %.200q", line)
			continue
		}
		d := byName[fields[0]]
		if d == nil {
			d = &dataset{name: fields[0], properties: map[string]property{}}
			byName[d.name] = d
			all = append(all, d)
		}
		p := property{source: fields[2], value: fields[3]}
		if before, twice := d.properties[fields[1]]; twice && before != p {
			bad = fmt.Errorf("zfs get printed property %.64s of %.255s twice, as %.200q and as %.200q", fields[1], d.name, before.value, p.value)
			p = property{} // neither
		}
		d.properties[fields[1]] = p
	}
	return all, bad
}

// local gives a property that was set on d itself, or "".
func (d *dataset) local(name string) string {
	if p := d.properties[name]; p.source == local {
		return p.value
	}
	return ""
}

// number gives a property that is one; 0 if it is not, or is none.
func (d *dataset) number(name string) uint64 {
	n, err := strconv.ParseUint(d.properties[name].value, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (d *dataset) value(name string) string { return d.properties[name].value }

func (d *dataset) isSnapshot() bool { return strings.Contains(d.name, "@") }
