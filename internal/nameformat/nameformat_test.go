package nameformat_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/berth-storage/berth/internal/nameformat"
	"github.com/berth-storage/berth/internal/volume"
)

func TestNameFormats(t *testing.T) {
	claim := nameformat.Claim{Class: "gold", Namespace: "team", Name: "data", UID: "9d9d5d0f-0000-4000-8000-000000000000"}
	for text, want := range map[string]string{
		"{sc}-{pvmanager.wimsey.us/pvc-namespace}-{pvmanager.wimsey.us/pvc-name}-{PVMANAGER-PV-TAG}": "gold-team-data-9d9d5d0f",
		"pv.{tag}.{name}.{class}.{namespace}":                                                        "pv.9d9d5d0f.data.gold.team",
		"{tag}":                                                                                      "9d9d5d0f",
	} {
		f, err := nameformat.Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, err := f.Name(claim); err != nil || got.String() != want {
			t.Errorf("%s: got %s, %v; want %s", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"":                                      "lacks {PVMANAGER-PV-TAG}",
		"{namespace}-{name}":                    "lacks {PVMANAGER-PV-TAG}",
		"{nam}-{tag}":                           `{nam} is unknown, did you mean "name"?`,
		"{pvmanager.wimsey.us/blocksize}-{tag}": "is unknown",
		"PV-{tag}":                              "gives names like",
		"{tag}-":                                "gives names like",
		"{name}/{tag}":                          "gives names like",
		"../{tag}":                              "gives names like",
		"{tag":                                  "lacks {PVMANAGER-PV-TAG}",
		strings.Repeat("x", 200) + "{tag}":      "gives names like",
	} {
		if f, err := nameformat.Parse(text); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, error %v; want an ErrInvalid with %q", text, f, err, want)
		}
	}
}

// Whatever claims are called: a name is one that Kubernetes and ZFS take, or there is none.
func FuzzName(f *testing.F) {
	f.Add("{class}-{namespace}-{name}-{tag}", "gold", "team", "data.1", "9d9d5d0f-1")
	f.Add("{tag}", "", "", "", "")
	f.Fuzz(func(t *testing.T, text, class, namespace, name, uid string) {
		format, err := nameformat.Parse(text)
		if err != nil {
			return
		}
		got, err := format.Name(nameformat.Claim{Class: class, Namespace: namespace, Name: name, UID: uid})
		if err == nil && (got.String() == "" || strings.ContainsAny(got.String(), "/ {}@%\n")) {
			t.Errorf("%q gives %q", text, got)
		}
	})
}
