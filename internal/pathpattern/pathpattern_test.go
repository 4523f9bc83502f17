package pathpattern_test

import (
	"errors"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-storage/berth/internal/pathpattern"
	"github.com/berth-storage/berth/internal/volume"
)

var values = pathpattern.Values{
	Namespace: "team", Name: "data", Volume: "pvc-1",
	Labels: map[string]string{"app": "db", "a.b/c": "d", "empty": ""},
	Annotations: map[string]string{
		"nfs.io/storage-path": "logs/today", "up": "..", "far": "../../etc", "absolute": "/etc", "hidden": ".ssh", "back": `a\b`,
		"long": strings.Repeat("x", 2000), "own": ".berth/volumes", "slashes": "//x//", "reference": "${.PVC.name}", "line": "a\nb",
	},
}

func TestPath(t *testing.T) {
	for pattern, want := range map[string]string{ // "" for the default path
		"${.PVC.namespace}/${.PVC.name}":             "team/data",
		"${.PVC.namespace}-${.PVC.name}-${.PV.name}": "team-data-pvc-1",
		"fixed": "fixed",
		"${.PVC.labels.app}/${.PVC.labels.a.b/c}":                            "db/d",
		"${.PVC.namespace}/${.PVC.annotations.nfs.io/storage-path}":          "team/logs/today",
		"${.PVC.namespace}/${.PVC.annotations.missing}":                      "team",
		"${.PVC.annotations.missing}":                                        "",
		"${.PVC.annotations.missing}/${.PVC.labels.empty}/":                  "",
		"${.PVC.annotations.missing:-scratch}/x":                             "scratch/x",
		"${.PVC.labels.empty:-scratch}":                                      "scratch",
		"${.PVC.labels.app:-scratch}":                                        "db",
		"${.PVC.annotations.missing:-}":                                      "",
		"${.PVC.annotations.missing:-${.PVC.labels.missing:-${.PV.name}}}/x": "pvc-1/x",
		"${.PVC.annotations.missing:-a${.PVC.name}b}":                        "adatab",
		"a//b/${.PVC.name}//":                                                "a/b/data",
		"x${.PVC.annotations.slashes}y":                                      "x/x/y",
		"$x/{y}/$$":                                                          "$x/{y}/$$",
		"a}b":                                                                "a}b",
		"${.PVC.annotations.reference}":                                      "${.PVC.name}", // is not filled in again
		"${.PVC.annotations.up}x":                                            "",             // hidden: see the errors
	} {
		p, err := pathpattern.Parse(pattern)
		if err != nil {
			t.Errorf("Parse(%q): %v", pattern, err)
			continue
		}
		got, ok, err := p.Path(values)
		if strings.Contains(pattern, ".up}x") {
			if err == nil {
				t.Errorf("%q gives %q", pattern, got)
			}
			continue
		}
		if err != nil || got.String() != want || ok != (want != "") {
			t.Errorf("%q gives %q, %t, %v; want %q", pattern, got, ok, err, want)
		}
	}
}

func TestPathsThatAreRefused(t *testing.T) {
	for pattern, want := range map[string]string{
		"${.PVC.annotations.up}":                    `element ".."`,
		"${.PVC.namespace}/${.PVC.annotations.up}":  `element ".."`,
		"${.PVC.namespace}/${.PVC.annotations.far}": `gives "team/../../etc" for this claim`,
		"${.PVC.annotations.absolute}":              "is absolute",
		"/${.PVC.name}":                             "is absolute",
		"${.PVC.annotations.missing}/${.PVC.name}":  "is absolute",
		"${.PVC.annotations.hidden}":                `element ".ssh" is hidden`,
		"${.PVC.annotations.own}":                   `element ".berth" is hidden`,
		".":                                         `element "."`,
		"./${.PVC.name}":                            `element "."`,
		"${.PVC.annotations.back}":                  "is not allowed",
		"${.PVC.annotations.line}":                  "is not allowed",
		"${.PVC.annotations.long}":                  "1 to 1024 bytes",
	} {
		p, err := pathpattern.Parse(pattern)
		if err != nil {
			t.Errorf("Parse(%q): %v", pattern, err)
			continue
		}
		got, _, err := p.Path(values)
		if !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), pattern) {
			t.Errorf("%q gives %q, %v; want an error with %q and the pattern", pattern, got, err, want)
		}
		if err != nil && len(err.Error()) > 1024 {
			t.Errorf("%q: the error has %d bytes, an event 1024 at the most", pattern, len(err.Error()))
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for pattern, want := range map[string]string{
		"":                         "0 bytes",
		strings.Repeat("x", 5000):  "5000 bytes",
		"${.PVC.name":              "no closing brace",
		"${":                       "no closing brace",
		"${.PVC.name:-${.PV.name}": "no closing brace",
		"${}":                      "there is no ${}",
		"${.PVC.nam}":              `did you mean ".PVC.name"?`,
		"${.PVC.label.app}":        "there is no ${.PVC.label.app}",
		"${.PVC.labels.}":          "there is no",
		"${.PVC.labels}":           "there is no",
		"${PVC.name}":              `did you mean ".PVC.name"?`,
		"${.pvc.name}":             `did you mean ".PVC.name"?`,
		"${.PVC.uid}":              "there is no",
		"${ .PVC.name }":           "there is no",
		strings.Repeat("${.PVC.name:-", 20) + strings.Repeat("}", 20): "in each other",
	} {
		_, err := pathpattern.Parse(pattern)
		if !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%.60q): got error %v, want one with %q", pattern, err, want)
		}
	}
}

// escapes are what tenants wrote, or could have written, to leave the folder of
// their own in provisioners of this kind.
var escapes = []string{
	"../..", "../../etc", "../team-b/data", "x/../../team-b", // nfs-subdir-external-provisioner: nothing was checked
	"..", "../../../../etc/cron.d", "a/../..", "a/..", "..//", "a//../..", // local-path-provisioner, GHSA-jr3w-9vfr-c746
	"a/b/../../..", "./..", "...", "..a/..", `..\..`, `a\..\..`, `\..\`, // csi-driver-nfs, CVE-2026-3864: by segment, and with backslashes
	"%2e%2e/", "..%2f..", "．．/", "‥/", "..\x00", "..\n", ".. /..", "\u202e..", // spellings of the same
	"/", "//etc", "~", "~root/.ssh", "${.PVC.name}/..", "$(id)", "`id`", "; rm -rf /", // other programs' languages
	".berth/clusters", "archived-team-b", "lost+found", // what is not the tenant's
}

// FuzzTenant: with the class of the documents a tenant does not leave the folder of his
// namespace.
func FuzzTenant(f *testing.F) {
	for _, s := range escapes {
		f.Add(s)
	}
	p, err := pathpattern.Parse("${.PVC.namespace}/${.PVC.annotations.nfs.io/storage-path}")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, annotation string) {
		v := values
		v.Annotations = map[string]string{"nfs.io/storage-path": annotation}
		got, ok, err := p.Path(v)
		if err != nil {
			return
		}
		if !ok || got.String() != "team" && !strings.HasPrefix(got.String(), "team/") {
			t.Errorf("%q gives %q, %t", annotation, got, ok)
		}
		if below := got.Below("/share"); below != "/share/"+got.String() || strings.Contains(below, "/.") {
			t.Errorf("%q is at %s", annotation, below)
		}
	})
}

// FuzzPath: whatever a class and a tenant write, the result is a path that stays
// below where it starts.
func FuzzPath(f *testing.F) {
	for _, s := range append(escapes, "/etc", "./x", "", "x/", "a\x00b", "${.PVC.name}", "}", ":-") {
		f.Add("${.PVC.namespace}/${.PVC.annotations.path}", s)
		f.Add("${.PVC.annotations.path:-${.PV.name}}", s)
		f.Add(s, "x")
	}
	f.Fuzz(func(t *testing.T, pattern, annotation string) {
		p, err := pathpattern.Parse(pattern)
		if err != nil {
			return
		}
		v := values
		v.Annotations = map[string]string{"path": annotation}
		got, ok, err := p.Path(v)
		if err != nil || !ok {
			return
		}
		s := got.String()
		if !filepath.IsLocal(s) || path.Clean(s) != s || strings.HasPrefix(s, ".") || strings.Contains(s, "/.") {
			t.Errorf("pattern %q with %q gives %q", pattern, annotation, s)
		}
	})
}
