package config

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// Format writes c as a configuration file, without what is the default anyway: Parse
// gives c again. Standby is not part of a file.
func Format(c Config) ([]byte, error) {
	f := formatter{}
	f.fields("", reflect.ValueOf(c), reflect.ValueOf(Default()))
	return f.out.Bytes(), f.err
}

type formatter struct {
	out bytes.Buffer
	err error // the first
}

// fields writes the fields of a struct in which v differs from base, in their order.
func (f *formatter) fields(indent string, v, base reflect.Value) {
	for i := range v.NumField() {
		key := v.Type().Field(i).Tag.Get("json")
		value, usual := v.Field(i), base.Field(i)
		if key == "-" || reflect.DeepEqual(value.Interface(), usual.Interface()) {
			continue
		}
		if value.Kind() == reflect.Pointer && value.Type().Elem().Kind() == reflect.Struct {
			if usual.IsNil() {
				usual = reflect.New(value.Type().Elem())
			}
			value, usual = value.Elem(), usual.Elem()
		}
		switch {
		case value.Kind() == reflect.Struct:
			fmt.Fprintf(&f.out, "%s%s:\n", indent, key)
			f.fields(indent+"  ", value, usual)
		case value.Kind() == reflect.Slice && value.Type().Elem().Kind() == reflect.Struct:
			fmt.Fprintf(&f.out, "%s%s:\n", indent, key)
			for j := range value.Len() {
				f.item(indent, value.Index(j))
			}
		default:
			fmt.Fprintf(&f.out, "%s%s: %s\n", indent, key, f.scalar(value))
		}
	}
}

// item writes an element of a list.
func (f *formatter) item(indent string, v reflect.Value) {
	base := reflect.Zero(v.Type())
	if p, ok := reflect.TypeAssert[Pool](v); ok {
		base = reflect.ValueOf(usualPool(p))
	}
	start := f.out.Len()
	f.fields(indent+"  ", v, base)
	copy(f.out.Bytes()[start+len(indent):], "- ")
}

// usualPool is what a pool is like of which the file says no more than p's name, root
// or share, and exporter, without these.
func usualPool(p Pool) Pool {
	c := Config{Pools: []Pool{{Name: p.Name, Exporter: p.Exporter}}}
	if p.Dir != nil {
		c.Pools[0].Dir = &Dir{Root: p.Dir.Root}
	}
	if p.Subdir != nil {
		c.Pools[0].Subdir = &Subdir{Path: p.Subdir.Path}
	}
	if p.ZFS != nil {
		c.Pools[0].ZFS = &ZFS{}
		if p.ZFS.SSH != nil {
			c.Pools[0].ZFS.SSH = &SSH{Host: p.ZFS.SSH.Host}
		}
	}
	c.complete()
	usual := c.Pools[0]
	usual.Name, usual.Exporter = "", ExporterGanesha
	if usual.Dir != nil {
		usual.Dir.Root = ""
	}
	if usual.Subdir != nil {
		usual.Exporter, usual.Subdir.Path = "", ""
	}
	if usual.ZFS != nil {
		usual.Exporter = ExporterZFSShare
		if usual.ZFS.SSH != nil {
			usual.ZFS.SSH.Host = ""
		}
	}
	return usual
}

// scalar writes a value that has a line to itself: lists as in [a, b], maps as in {a: b}.
func (f *formatter) scalar(v reflect.Value) string {
	switch {
	case v.Kind() == reflect.Slice:
		var elements []string
		for i := range v.Len() {
			elements = append(elements, f.scalar(v.Index(i)))
		}
		return "[" + strings.Join(elements, ", ") + "]"
	case v.Kind() == reflect.Map:
		var elements []string
		for _, key := range v.MapKeys() {
			elements = append(elements, f.scalar(key)+": "+f.scalar(v.MapIndex(key)))
		}
		slices.Sort(elements)
		return "{" + strings.Join(elements, ", ") + "}"
	case v.Kind() == reflect.String && strings.Contains(v.String(), "\n"):
		return strconv.Quote(v.String()) // on one line
	}
	text, err := yaml.Marshal(v.Interface())
	if f.err == nil && err != nil {
		f.err = err
	}
	return strings.TrimSuffix(string(text), "\n")
}
