package kube

import (
	"errors"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
)

func TestParameters(t *testing.T) {
	pool, _ := newPool("local")
	pool.GIDs = volume.GIDRange{First: 7, Last: 9}
	defaults := parameters{pool: pool, owner: pool.Owner, squash: pool.Squash}
	with := func(change func(*parameters)) parameters {
		p := defaults
		change(&p)
		return p
	}
	for _, c := range []struct {
		name  string
		given map[string]string
		want  parameters
	}{
		{"none", nil, defaults},
		{"all", map[string]string{"pool": "local", "mode": "1777", "uid": "1000", "gid": "4294967294", "rootSquash": "true", "inodes": "100000"},
			parameters{pool: pool, owner: volume.Owner{UID: 1000, GID: 4294967294, Mode: 0o1777}, squash: export.SquashRoot, inodes: 100000}},
		{"in another case", map[string]string{"POOL": "local", "Mode": "0700", "Uid": "0", "gId": "5", "rootsquash": "TRUE"},
			parameters{pool: pool, owner: volume.Owner{UID: 0, GID: 5, Mode: 0o700}, squash: export.SquashRoot}},
		{"mode with a leading 0", map[string]string{"mode": "00770"}, with(func(p *parameters) { p.owner.Mode = 0o770 })},
		{"mode 0", map[string]string{"mode": "0"}, with(func(p *parameters) { p.owner.Mode = 0 })},
		{"a group alone lets the group in", map[string]string{"gid": "5"}, with(func(p *parameters) { p.owner.GID, p.owner.Mode = 5, 0o2771 })},
		{"a group and a mode", map[string]string{"gid": "5", "mode": "0750"}, with(func(p *parameters) { p.owner.GID, p.owner.Mode = 5, 0o750 })},
		{"no group", map[string]string{"gid": "none"}, with(func(p *parameters) { p.owner.GID = 0 })},
		{"a group of its own", map[string]string{"gid": "Auto"}, with(func(p *parameters) { p.gids, p.owner.Mode = pool.GIDs, 0o2771 })},
		{"mount options", map[string]string{"mountOptions": "vers=4.1,hard"}, with(func(p *parameters) { p.mountOptions = "vers=4.1,hard" })},
		{"no squash", map[string]string{"rootSquash": "false"}, with(func(p *parameters) { p.squash = export.SquashNone })},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseParameters(c.given, pool)
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}

func TestRootSquashOfThePoolCanBeTakenBack(t *testing.T) {
	pool, _ := newPool("local")
	pool.Squash = export.SquashRoot
	if got, err := parseParameters(nil, pool); err != nil || got.squash != export.SquashRoot {
		t.Errorf("got %q, %v; want the pool's %q", got.squash, err, export.SquashRoot)
	}
	if got, err := parseParameters(map[string]string{"rootSquash": "false"}, pool); err != nil || got.squash != export.SquashNone {
		t.Errorf("got %q, %v; want the class's %q", got.squash, err, export.SquashNone)
	}
}

func TestParametersThatAreRefused(t *testing.T) {
	pool, _ := newPool("local")
	for _, c := range []struct {
		name  string
		given map[string]string
		want  string
	}{
		{"misspelt", map[string]string{"rootSquas": "true"}, `unknown StorageClass parameter "rootSquas", did you mean "rootSquash"?`},
		{"nothing alike", map[string]string{"qwertyuiop": "x"}, `unknown StorageClass parameter "qwertyuiop"; known are pool, mode, uid, gid, rootSquash, inodes, mountOptions, onDelete, archiveOnDelete, existing, pathPattern, parentDataset`},
		{"empty name", map[string]string{"": "x"}, `unknown StorageClass parameter ""`},
		{"twice in different case", map[string]string{"rootSquash": "true", "rootsquash": "false"}, `"rootSquash" and "rootsquash"`},
		{"mode that is not octal", map[string]string{"mode": "0780"}, `StorageClass parameter mode: "0780" is not an octal mode like 0770`},
		{"mode with more than permission bits", map[string]string{"mode": "10000"}, `"10000" is not an octal mode`},
		{"mode in letters", map[string]string{"mode": "rwxrwx---"}, "is not an octal mode"},
		{"empty mode", map[string]string{"mode": ""}, `"" is not an octal mode`},
		{"negative uid", map[string]string{"uid": "-1"}, `StorageClass parameter uid: "-1" is not a number from 0 to 4294967294`},
		{"uid by name", map[string]string{"uid": "root"}, `"root" is not a number`},
		{"gid of 33 bits", map[string]string{"gid": "4294967296"}, `StorageClass parameter gid: "4294967296" is not none, auto, or a number`},
		{"gid auto without a range", map[string]string{"gid": "auto"}, `"auto" is not possible, because pool local has no gidRange`},
		{"no inodes at all", map[string]string{"inodes": "0"}, `StorageClass parameter inodes: "0" is not a number of files and folders above 0`},
		{"inodes with a unit", map[string]string{"inodes": "100k"}, `"100k" is not a number of files`},
		{"a pattern for a pool that is not on a share", map[string]string{"pathPattern": "x"}, "is not possible, because the volumes of pool local are not on a share"},
		{"a policy for what exists likewise", map[string]string{"existing": "reuse"}, "are not on a share"},
		{"rootSquash neither true nor false", map[string]string{"rootSquash": "yes"}, `StorageClass parameter rootSquash: "yes" is not true or false`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parseParameters(c.given, pool)
			if !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want an ErrInvalid with %q", err, c.want)
			}
		})
	}
}

// One that changes would be a new event each time.
func TestTheErrorOfAClassIsAlwaysTheSame(t *testing.T) {
	pool, _ := newPool("local")
	for _, given := range []map[string]string{
		{"a": "", "b": "", "c": "", "d": ""},
		{"mode": "x", "uid": "x", "gid": "x", "rootSquash": "x"},
		{"mode": "0", "MODE": "0", "uid": "0", "UID": "0"},
	} {
		_, first := parseParameters(given, pool)
		for range 20 {
			if _, err := parseParameters(given, pool); err == nil || first == nil || err.Error() != first.Error() {
				t.Fatalf("got error %q, and before %q", err, first)
			}
		}
	}
}

func TestChoosingThePool(t *testing.T) {
	fast, _ := newPool("fast")
	slow, _ := newPool("slow")
	for _, c := range []struct {
		name  string
		pools []*Pool
		want  *Pool
		err   string
	}{
		{"", []*Pool{fast}, fast, ""},
		{"fast", []*Pool{fast}, fast, ""},
		{"fasst", []*Pool{fast}, nil, `there is no pool "fasst", did you mean "fast"?`},
		{"slow", []*Pool{fast, slow}, slow, ""},
		{"", []*Pool{fast, slow}, nil, `the StorageClass has to say which pool, by the parameter "pool": fast, slow`},
		{"Slow", []*Pool{fast, slow}, nil, `did you mean "slow"?`}, // values are what they are
		{"fast", nil, nil, `there is no pool "fast"`},
		{"", nil, nil, "has to say which pool"},
	} {
		given := map[string]string{}
		if c.name != "" {
			given["pool"] = c.name
		}
		got, err := poolsFor(&storagev1.StorageClass{Parameters: given}, c.pools)
		switch {
		case c.err == "" && (err != nil || len(got) != 1 || got[0] != c.want):
			t.Errorf("pool %q of %d: got %+v, %v", c.name, len(c.pools), got, err)
		case c.err != "" && (!errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), c.err)):
			t.Errorf("pool %q of %d: got error %v, want an ErrInvalid with %q", c.name, len(c.pools), err, c.err)
		}
	}
}

func FuzzParameters(f *testing.F) {
	f.Add("mode", "0770")
	f.Add("ROOTSQUASH", "1")
	f.Add("gid", "+5")
	f.Add("ſquash", "x")
	pool, _ := newPool("local")
	f.Fuzz(func(t *testing.T, key, value string) {
		p, err := parseParameters(map[string]string{key: value}, pool)
		if err != nil {
			if !errors.Is(err, volume.ErrInvalid) {
				t.Errorf("%q=%q: got error %v, want %v", key, value, err, volume.ErrInvalid)
			}
			return
		}
		if p.owner.Mode > 0o7777 || p.pool != pool || p.squash != export.SquashNone && p.squash != export.SquashRoot {
			t.Errorf("%q=%q gave %+v", key, value, p)
		}
	})
}

func TestEveryParameterIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(page), "| parameter | default | meaning |\n")
	if !found {
		t.Fatal("the page has no table of parameters")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*`) \\|").FindAllStringSubmatch(table, -1) {
		for cell := range strings.SplitSeq(row[1], ", ") {
			documented = append(documented, strings.Trim(cell, "`"))
		}
	}
	if diff := cmp.Diff(classParameters(), documented); diff != "" {
		t.Errorf("docs/configuration.md (-code +page):\n%s", diff)
	}
}
