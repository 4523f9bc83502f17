package volume_test

import (
	"encoding/json"
	"errors"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/berth-storage/berth/internal/volume"
)

// hostile are texts that have led programs of this kind out of their folder, or
// that file systems, servers or people read in more than one way.
var hostile = []string{
	"", ".", "..", "/", "//", "../x", "a/../../b", "a/..", "a/.", "./a", `..\x`, `..\\x`, `a\b`, "/etc", "/etc/passwd", "a//b", "a/",
	".hidden", ".hidden/x", "a/.berth/x", ".berth", "a\x00b", "\x00", "a\nb", "\n", "a\tb", "a\x7fb", "a\x1b[2Jb", "a\u0085b",
	"\xff", "a/\xc3\x28", "caf\xe9",
	// Of GHSA-jr3w-9vfr-c746 and CVE-2026-3864, and what would have gone past their first fixes.
	"../..", "../../../../etc/cron.d", "a/b/../../..", "..//", "a//../..", "...", "..a/..", `a\..\..`, `\..\`, "..%2f..", "a/..\\b", "~root/.ssh",
	strings.Repeat("x", 256), strings.Repeat("x/", 512) + "x", strings.Repeat("é", 128),
}

func TestParseName(t *testing.T) {
	for _, s := range []string{
		"a", "A", "0", "pvc-9d9d5d0f-d1f0-4bd1-a1b7-2f1b2b6a5b8e", "a.b", "a..b", "a_b-c.d", "a-", "a.", strings.Repeat("x", 200),
	} {
		if n, err := volume.ParseName(s); err != nil || n.String() != s {
			t.Errorf("ParseName(%q) is %q, %v; want it accepted", s, n, err)
		}
	}
	refused := append([]string{"-a", "_a", "a b", " a", "a/b", "a:b", "a*", "ä", "a\u202eb", "$(reboot)", "%2e%2e", strings.Repeat("x", 201)}, hostile...)
	for _, s := range refused {
		if n, err := volume.ParseName(s); !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("ParseName(%.40q) is %.40q, %v; want %v", s, n, err, volume.ErrInvalid)
		}
	}
}

func TestParseRelPath(t *testing.T) {
	for _, s := range []string{
		"a", "a/b", "team-1/db/data", "a b", "ünïcödé/日本", "a..b", "a/b..", "x~", "-x", "%2e%2e/x", strings.Repeat("x", 255), strings.Repeat("x/", 511) + "xx",
	} {
		if p, err := volume.ParseRelPath(s); err != nil || p.String() != s {
			t.Errorf("ParseRelPath(%.40q) is %.40q, %v; want it accepted", s, p, err)
		}
	}
	for _, s := range hostile {
		if p, err := volume.ParseRelPath(s); !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("ParseRelPath(%.40q) is %.40q, %v; want %v", s, p, err, volume.ErrInvalid)
		}
	}
}

func TestRefusalsAreShortEnoughForAnEvent(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	_, nameErr := volume.ParseName(long)
	_, pathErr := volume.ParseRelPath(long)
	_, elementErr := volume.ParseRelPath("a/" + long[:1000])
	for _, err := range []error{nameErr, pathErr, elementErr} {
		if err == nil || len(err.Error()) > 1024 { // the API server's limit of an event's message
			t.Errorf("the error has %d bytes: %.80v", len(err.Error()), err)
		}
	}
}

func TestNameForClaim(t *testing.T) {
	if n, err := volume.NameForClaim("9d9d5d0f"); err != nil || n.String() != "pvc-9d9d5d0f" {
		t.Errorf("got %q, %v; want pvc-9d9d5d0f", n, err)
	}
	if n, err := volume.NameForClaim("../../etc"); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("a claim with a strange uid got the name %q, %v", n, err)
	}
}

func TestNamesAndPathsAreParsedWhenRead(t *testing.T) {
	var n volume.Name
	var p volume.RelPath
	for _, s := range []string{`"../x"`, `".hidden"`, `""`, `"/etc"`} {
		if err := json.Unmarshal([]byte(s), &n); !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("name %s was read as %q, %v", s, n, err)
		}
		if err := json.Unmarshal([]byte(s), &p); !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("path %s was read as %q, %v", s, p, err)
		}
	}
}

func FuzzParseName(f *testing.F) {
	for _, s := range append(hostile, "pvc-1", "a.b_c") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := volume.ParseName(s)
		if err != nil {
			return
		}
		if n.String() != s {
			t.Errorf("%q became %q", s, n)
		}
		if strings.ContainsAny(s, "/\\ ") {
			t.Errorf("accepted %q, which is not one element", s)
		}
		wantSafe(t, s, n.RelPath())
	})
}

func FuzzParseRelPath(f *testing.F) {
	for _, s := range append(hostile, "a/b/c", "日本/x") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := volume.ParseRelPath(s)
		if err != nil {
			return
		}
		if p.String() != s {
			t.Errorf("%q became %q", s, p)
		}
		wantSafe(t, s, p)
	})
}

// wantSafe is what the types RelPath and Name promise.
func wantSafe(t *testing.T, s string, p volume.RelPath) {
	t.Helper()
	if !filepath.IsLocal(s) || path.Clean(s) != s || len(s) > 1024 {
		t.Errorf("accepted %q, which is not a short, clean, local path", s)
	}
	for element := range strings.SplitSeq(s, "/") {
		if element == "" || element[0] == '.' || len(element) > 255 {
			t.Errorf("accepted %q with the element %q", s, element)
		}
	}
	if strings.Contains(s, `\`) || strings.ContainsFunc(s, unicode.IsControl) {
		t.Errorf("accepted %q", s)
	}
	for _, root := range []string{"/", "/srv", "/srv/berth"} {
		rel, err := filepath.Rel(root, p.Below(root))
		if err != nil || rel != s {
			t.Errorf("%q below %s is %s, which is %q from there (%v)", s, root, p.Below(root), rel, err)
		}
	}
	// A record must name the very path that was made.
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var read volume.RelPath
	if err := json.Unmarshal(text, &read); err != nil || read != p {
		t.Errorf("%q is read from a record as %q, %v", s, read, err)
	}
}
