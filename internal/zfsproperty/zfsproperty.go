// Package zfsproperty knows the properties of ZFS datasets that claims and classes may
// set: their names there, which are those of openshift-pvmanager, and the values that each
// may have. Whatever a tenant writes reaches a command only as such a value.
package zfsproperty

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Property is one of them.
type Property struct {
	Name   string   // in annotations of claims and in parameters of classes
	ZFS    string   // in zfsprops(7)
	values []string // nil: a size
}

// The names of annotations that set no property of a dataset.
const (
	ReclaimPolicy = "reclaim-policy" // Delete or Retain
	CloneFrom     = "clone-from"     // a claim of the same namespace
)

// The bounds of a block's size. More than 128 KiB is possible only where the pool has the
// feature large_blocks, and 1 MiB is the most that needs nothing else.
const (
	minBlock = 512
	maxBlock = 1 << 20
)

// All gives all properties, in the order of pvmanager's page. The values are those of
// zfsprops(7) of OpenZFS 2.3, but for "noparity" and whatever else gives up checksums in
// a way of its own; older systems refuse some of them by themselves.
func All() []Property {
	onOff := []string{"on", "off"}
	return []Property{
		{"blocksize", "recordsize", nil},
		{"checksum", "checksum", []string{"on", "off", "fletcher2", "fletcher4", "sha256", "sha512", "skein", "edonr", "blake3"}},
		{"compression", "compression", compressions()},
		{"atime", "atime", onOff},
		{"exec", "exec", onOff},
		{"setuid", "setuid", onOff},
		{"logbias", "logbias", []string{"latency", "throughput"}},
		{"snapdir", "snapdir", []string{"hidden", "visible"}},
		{"sync", "sync", []string{"standard", "always", "disabled"}},
		{"casesensitive", "casesensitivity", []string{"sensitive", "insensitive", "mixed"}},
	}
}

func compressions() []string {
	all := []string{"on", "off", "lz4", "lzjb", "zle", "gzip", "zstd", "zstd-fast"}
	for level := 1; level <= 9; level++ {
		all = append(all, "gzip-"+strconv.Itoa(level))
	}
	for level := 1; level <= 19; level++ {
		all = append(all, "zstd-"+strconv.Itoa(level))
	}
	for _, level := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 500, 1000} {
		all = append(all, "zstd-fast-"+strconv.Itoa(level))
	}
	return all
}

// ByName finds a property by its name in annotations and parameters.
func ByName(name string) (Property, bool) {
	all := All()
	if i := slices.IndexFunc(all, func(p Property) bool { return p.Name == name }); i >= 0 {
		return all[i], true
	}
	return Property{}, false
}

// Annotations are all names that a pool can let claims use.
func Annotations() []string {
	var names []string
	for _, p := range All() {
		names = append(names, p.Name)
	}
	return append(names, ReclaimPolicy, CloneFrom)
}

// UsualAnnotations are those that claims may use if the pool does not say: all but those
// that pvmanager blocks.
func UsualAnnotations() []string {
	return slices.DeleteFunc(Annotations(), func(name string) bool { return name == "compression" || name == ReclaimPolicy })
}

// Value gives the value that zfs(8) gets for what somebody wrote, in which case does
// not matter. The error says which values there are.
func (p Property) Value(text string) (string, error) {
	if p.values == nil {
		return blockSize(text)
	}
	value := strings.ToLower(text)
	if p.ZFS == "casesensitivity" && value == "casesensitive" { // so pvmanager's page calls the default
		value = "sensitive"
	}
	if !slices.Contains(p.values, value) {
		return "", fmt.Errorf("%.64q is not one of %s", text, p.Allowed())
	}
	return value, nil
}

// Allowed tells a person which values there are.
func (p Property) Allowed() string {
	switch {
	case p.values == nil:
		return "a power of two from 512 to 1M, as in 16384 or 16K"
	case p.Name == "compression":
		return "on, off, lz4, lzjb, zle, gzip, gzip-1 to gzip-9, zstd, zstd-1 to zstd-19, zstd-fast, " +
			"zstd-fast-1 to -10, by tens to -100, -500, -1000"
	}
	return strings.Join(p.values, ", ")
}

// native are names of properties of ZFS, and of users' own ones; see zfsprops(7).
var native = regexp.MustCompile(`^[a-z][-a-z0-9:._]*$`)

// own are the properties that Berth sets itself, and such as would take a volume out of its place or
// its sight.
var own = map[string]string{
	"mountpoint": "every volume is mounted below its parent", "canmount": "every volume is mounted",
	"sharenfs": "it follows from the share options", "sharesmb": "volumes are exported by NFS only",
	"refquota": "it follows from the sizing and the claim's size", "refreservation": "it follows from the sizing and the claim's size",
	"quota": "it would count snapshots too", "reservation": "it would count snapshots too",
	"readonly": "volumes are written to", "zoned": "another zone's volumes are out of reach", "jailed": "another jail's volumes are out of reach",
}

// CheckNative says why the property of that name, in the words of ZFS, cannot be set on volumes; nil if it can.
func CheckNative(name string) error {
	switch why := own[name]; {
	case why != "":
		return fmt.Errorf("property %s cannot be set: %s", name, why)
	case strings.HasPrefix(name, "berth:"):
		return fmt.Errorf("property %.64s cannot be set: it is Berth's own", name)
	case !native.MatchString(name):
		return fmt.Errorf("%.64q is not the name of a property of ZFS, like recordsize", name)
	}
	return nil
}

// blockSize gives a size in bytes, because not every zfs(8) reads suffixes alike.
func blockSize(text string) (string, error) {
	number, shift := strings.ToUpper(text), 0
	switch {
	case strings.HasSuffix(number, "K"):
		number, shift = strings.TrimSuffix(number, "K"), 10
	case strings.HasSuffix(number, "M"):
		number, shift = strings.TrimSuffix(number, "M"), 20
	}
	n, err := strconv.ParseUint(number, 10, 32)
	n <<= shift
	if err != nil || n < minBlock || n > maxBlock || n&(n-1) != 0 {
		return "", fmt.Errorf("%.64q is not %s", text, Property{}.Allowed())
	}
	return strconv.FormatUint(n, 10), nil
}
