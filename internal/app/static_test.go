package app

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/kube"
)

// One that cannot be exported keeps no other from it, and nobody is told of its address.
func TestStaticDirectoriesThatCanBeExported(t *testing.T) {
	root, home := t.TempDir(), t.TempDir()
	into := filepath.Join(t.TempDir(), "into")
	if err := os.Symlink(root, into); err != nil {
		t.Fatal(err)
	}
	c := newConfig(t, root)
	c.Pools = append(c.Pools, config.Pool{Name: "nas", Subdir: &config.Subdir{Server: "nas", Path: "/vol", Root: "/nonexistent/share"}})
	c.Pools[0].Static = []config.Static{
		{Path: home, ExportPath: "/home", Capacity: "1Mi", Name: "home", AccessModes: []string{"ReadWriteMany"}, StorageClassName: "homes", MountOptions: []string{"hard"}},
		{Path: "/nonexistent", ExportPath: "/nonexistent", Capacity: "1Mi", Name: "missing"},
		{Path: into, ExportPath: into, Capacity: "1Mi", Name: "into"},
		{Path: t.TempDir(), ExportPath: "/data", Capacity: "2Mi", Name: "data", ReadOnly: true},
	}
	clients, err := export.ParseClients([]string{"10.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	ids, err := export.OpenIDs(filepath.Join(t.TempDir(), "ids"))
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	a := &app{config: c, log: slog.New(slog.NewTextHandler(&log, nil))}
	p := &pool{config: c.Pools[0], root: root, backend: open(t, root), clients: clients, front: &kube.Pool{Squash: export.SquashRoot}}
	a.pools = []*pool{p}
	exports := a.exportStatic(p, a.openBook(p, ids))
	want := []export.Export{
		{ID: 1, Dir: home, Path: "/home", Squash: export.SquashRoot, Clients: clients},
		{ID: 2, Dir: c.Pools[0].Static[3].Path, Path: "/data", Squash: export.SquashRoot, Clients: clients, ReadOnly: true},
	}
	for i := range exports {
		exports[i].FSID = export.FSID{}
	}
	if diff := cmp.Diff(want, exports); diff != "" {
		t.Errorf("exports (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]kube.Static{
		{Name: "home", Path: "/home", Capacity: "1Mi", AccessModes: []string{"ReadWriteMany"}, StorageClass: "homes", MountOptions: []string{"hard"}},
		{Name: "data", Path: "/data", Capacity: "2Mi", ReadOnly: true},
	}, p.front.Static); diff != "" {
		t.Errorf("published (-want +got):\n%s", diff)
	}
	for _, path := range []string{"/nonexistent", into} {
		if !strings.Contains(log.String(), "path="+path) {
			t.Errorf("the log does not tell of %s: %s", path, log.String())
		}
	}

	// A book that cannot be read is left as it is: to begin anew would give other ids.
	file := filepath.Join(root, ".berth", "static.json")
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if exports := a.exportStatic(p, a.openBook(p, ids)); len(exports) > 0 {
		t.Errorf("with a damaged book: %v", exports)
	}
	if text, err := os.ReadFile(file); string(text) != "{" || err != nil {
		t.Errorf("the damaged book is now %s, %v", text, err)
	}
}
