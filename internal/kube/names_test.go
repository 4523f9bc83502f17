package kube

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/berth-storage/berth/internal/volume"
)

func TestParseHandle(t *testing.T) {
	for s, want := range map[string]handle{
		"local/pvc-1": {"local", parseName(t, "pvc-1")},
		"a/b":         {"a", parseName(t, "b")},
	} {
		if got, err := parseHandle(s); err != nil || got != want {
			t.Errorf("%q: got %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "/", "local", "local/", "/pvc-1", "local/../pvc-1", "local/a/b", "local/.hidden", "local/pvc 1", "local//pvc-1"} {
		if got, err := parseHandle(s); !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("%q: got %v, %v; want %v", s, got, err, volume.ErrInvalid)
		}
	}
}

func FuzzHandle(f *testing.F) {
	for _, s := range []string{"local/pvc-1", "", "/", "a/b/c", "../../etc/passwd", "local/..", "local/\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseHandle(s)
		if err != nil {
			return
		}
		if h.String() != s || h.pool == "" || !filepath.IsLocal(h.name.String()) || filepath.Base(h.name.String()) != h.name.String() {
			t.Errorf("%q was read as pool %q, name %q", s, h.pool, h.name)
		}
	})
}
