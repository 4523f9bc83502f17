package zfsproperty

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestValues(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"blocksize", "131072", "131072"},
		{"blocksize", "512", "512"},
		{"blocksize", "16K", "16384"},
		{"blocksize", "16k", "16384"},
		{"blocksize", "1M", "1048576"},
		{"checksum", "SHA256", "sha256"},
		{"checksum", "off", "off"},
		{"compression", "gzip-9", "gzip-9"},
		{"compression", "zstd-19", "zstd-19"},
		{"compression", "zstd-fast-1000", "zstd-fast-1000"},
		{"atime", "Off", "off"},
		{"exec", "on", "on"},
		{"setuid", "off", "off"},
		{"logbias", "throughput", "throughput"},
		{"snapdir", "visible", "visible"},
		{"sync", "disabled", "disabled"},
		{"casesensitive", "mixed", "mixed"},
		{"casesensitive", "casesensitive", "sensitive"},
	} {
		p, ok := ByName(c.name)
		if !ok {
			t.Fatalf("%s is not known", c.name)
		}
		if got, err := p.Value(c.text); err != nil || got != c.want {
			t.Errorf("%s %q: got %q, %v; want %q", c.name, c.text, got, err, c.want)
		}
	}
}

func TestValuesThatAreRefused(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"blocksize", "", "a power of two from 512 to 1M"},
		{"blocksize", "1000", "a power of two"},
		{"blocksize", "256", "a power of two"},
		{"blocksize", "2M", "a power of two"},
		{"blocksize", "4294967296K", "a power of two"},
		{"blocksize", "+512", "a power of two"},
		{"blocksize", "0x200", "a power of two"},
		{"blocksize", "1KK", "a power of two"},
		{"checksum", "noparity", "blake3"},
		{"compression", "gzip-10", "gzip-1 to gzip-9"},
		{"compression", "zstd-0", "zstd-1 to zstd-19"},
		{"atime", "true", "on, off"},
		{"logbias", "fast", "latency, throughput"},
		{"snapdir", "shown", "hidden, visible"},
		{"sync", "off", "standard, always, disabled"},
		{"casesensitive", "caseinsensitive", "sensitive, insensitive, mixed"},
		{"exec", "off -o mountpoint=/etc", "on, off"},
		{"exec", "off\n", "on, off"},
	} {
		p, _ := ByName(c.name)
		_, err := p.Value(c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %q: got error %v, want one with %q", c.name, c.text, err, c.want)
		}
	}
	for _, p := range All() {
		if _, err := p.Value(strings.Repeat("x", 5000)); err == nil || len(err.Error()) > 400 {
			t.Errorf("%s: a long value gives %v", p.Name, err)
		}
	}
}

// Each allowed value can be a word of a command as it is.
var word = regexp.MustCompile(`^[a-z0-9-]+$`)

func FuzzValue(f *testing.F) {
	f.Add("exec", "on")
	f.Add("blocksize", "128K")
	f.Fuzz(func(t *testing.T, name, text string) {
		p, ok := ByName(name)
		if !ok {
			return
		}
		value, err := p.Value(text)
		if err != nil {
			return
		}
		if !word.MatchString(value) {
			t.Errorf("%s %q gives %q", name, text, value)
		}
		if again, err := p.Value(value); err != nil || again != value {
			t.Errorf("%s %q gives %q, which gives %q, %v", name, text, value, again, err)
		}
	})
}

func TestAnnotations(t *testing.T) {
	all, usual := Annotations(), UsualAnnotations()
	for _, name := range []string{"compression", ReclaimPolicy} { // pvmanager's blockedAnnotations
		if !slices.Contains(all, name) || slices.Contains(usual, name) {
			t.Errorf("claims may use %s without being let", name)
		}
	}
	if len(usual) != len(all)-2 || !slices.Contains(usual, CloneFrom) {
		t.Errorf("claims may usually use %v of %v", usual, all)
	}
	if _, ok := ByName(CloneFrom); ok {
		t.Errorf("%s is a property", CloneFrom)
	}
}

func TestNativeProperties(t *testing.T) {
	for _, name := range []string{"recordsize", "acltype", "org.example:note", "com.sun:auto-snapshot"} {
		if err := CheckNative(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, why := range map[string]string{
		"quota": "count snapshots", "refquota": "sizing", "mountpoint": "below its parent", "readonly": "written to", "berth:record": "Berth's own",
		"": "not the name", "-o": "not the name", "a b": "not the name", "a=b": "not the name", "a@b": "not the name", "a\nb": "not the name", "Atime": "not the name",
	} {
		if err := CheckNative(name); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: got %v, want %q", name, err, why)
		}
	}
}
