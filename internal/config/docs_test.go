package config_test

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/config"
)

// firstCells are the names in the first column of a page's tables.
func firstCells(t *testing.T, page string) []string {
	t.Helper()
	text, err := os.ReadFile("../../docs/" + page)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*`) \\|").FindAllStringSubmatch(string(text), -1) {
		for cell := range strings.SplitSeq(row[1], ", ") {
			names = append(names, strings.Trim(cell, "`"))
		}
	}
	return names
}

func TestEveryKeyIsDocumented(t *testing.T) {
	var documented []string
	for _, name := range firstCells(t, "configuration.md") {
		if strings.Contains(name, ".") { // the others are StorageClass parameters
			documented = append(documented, name)
		}
	}
	if diff := cmp.Diff(keys("", reflect.TypeFor[config.Config]()), documented); diff != "" {
		t.Errorf("docs/configuration.md (-code +page):\n%s", diff)
	}
}

// keys are the names of t's leaves, as the page writes them.
func keys(prefix string, t reflect.Type) []string {
	var names []string
	for field := range t.Fields() {
		tag := field.Tag.Get("json")
		inner := field.Type
		switch inner.Kind() {
		case reflect.Slice:
			tag, inner = tag+"[]", inner.Elem()
		case reflect.Pointer:
			inner = inner.Elem()
		}
		switch {
		case tag == "-":
		case inner.Kind() == reflect.Struct:
			names = append(names, keys(prefix+tag+".", inner)...)
		default:
			names = append(names, prefix+tag)
		}
	}
	return names
}

func TestEveryFlagIsDocumented(t *testing.T) {
	var usage strings.Builder
	if _, err := config.FromNFSProvisioner([]string{"-help"}, &usage); err == nil {
		t.Fatal("-help is no error to the caller")
	}
	var flags []string
	for _, line := range regexp.MustCompile(`(?m)^  -([a-z-]+)`).FindAllStringSubmatch(usage.String(), -1) {
		flags = append(flags, "-"+line[1])
	}
	documented := firstCells(t, "nfs-provisioner.md")
	slices.Sort(flags)
	slices.Sort(documented)
	if diff := cmp.Diff(flags, documented); diff != "" {
		t.Errorf("docs/nfs-provisioner.md (-code +page):\n%s", diff)
	}
}
