package suggest_test

import (
	"testing"

	"github.com/berth-storage/berth/internal/suggest"
)

func TestNearest(t *testing.T) {
	names := []string{"mode", "gid", "rootSquash"}
	for got, want := range map[string]string{
		"mod":         `, did you mean "mode"?`,
		"rootsquash":  `, did you mean "rootSquash"?`,
		"root-squash": `, did you mean "rootSquash"?`,
		"gidd":        `, did you mean "gid"?`,
		"frobnicate":  "; known are mode, gid, rootSquash",
		"":            "; known are mode, gid, rootSquash",
	} {
		if s := suggest.Nearest(got, names); s != want {
			t.Errorf("Nearest(%q) is %q, want %q", got, s, want)
		}
	}
}
