//go:build system

// Package inside shows how tests run in a guest.
package inside

import (
	"os"
	"strings"
	"testing"

	"github.com/berth-storage/berth/test/vm"
)

func TestMain(m *testing.M) { vm.Main(m) }

// The test is in the guest, whose kernel has what the host's may lack.
func TestKernel(t *testing.T) {
	if name, err := os.Hostname(); err != nil || name != "guest" {
		t.Errorf("the host is %q, %v", name, err)
	}
	dir := t.TempDir()
	if err := vm.MountNew(t.Context(), vm.Here{}, vm.XFS, dir, 512<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := (vm.Here{}).Run(t.Context(), "umount", dir); err != nil {
		t.Error(err)
	}
}

// The sources of the package are there, as for any test.
func TestSources(t *testing.T) {
	source, err := os.ReadFile("inside_system_test.go")
	if err != nil || !strings.Contains(string(source), "func TestSources(") {
		t.Errorf("read %q, %v", source, err)
	}
	if err := os.WriteFile("new", nil, 0o644); err == nil {
		t.Error("the source tree can be written to")
	}
}
