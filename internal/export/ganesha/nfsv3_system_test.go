//go:build system

package ganesha_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/export/exporttest"
)

// cat reads a file with libnfs, by NFSv3: it asks rpcbind for the ports of the
// mount protocol and of NFS, as a kernel's client does.
func cat(e export.Export, file string) (string, error) {
	text, err := exec.Command("nfs-cat", "nfs://127.0.0.1"+e.Path+"/"+file+"?version=3").CombinedOutput()
	return string(text), err
}

func TestNFSv3(t *testing.T) {
	o := options(t)
	o.NFSv3 = true
	exports := makeExports(t, 2)
	for _, e := range exports {
		if err := os.WriteFile(filepath.Join(e.Dir, "file"), []byte("in "+e.Path), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, o, exports[0])
	if err := s.Publish(t.Context(), exports[1]); err != nil {
		t.Fatal(err)
	}
	for _, e := range exports {
		if text, err := cat(e, "file"); err != nil || text != "in "+e.Path {
			t.Errorf("%s: read %q, error %v", e.Path, text, err)
		}
	}
	before := s.pid(t)
	s.kill(t)
	exporttest.Eventually(t, "another server runs", func() bool { return s.Serving() && s.pid(t) != before })
	if text, err := cat(exports[0], "file"); err != nil || text != "in "+exports[0].Path {
		t.Errorf("after a crash: read %q, error %v", text, err)
	}
	if err := s.Withdraw(t.Context(), exports[0]); err != nil {
		t.Fatal(err)
	}
	if text, err := cat(exports[0], "file"); err == nil {
		t.Errorf("after Withdraw: read %q", text)
	}
}
