//go:build system

// Package quota tests what keeps volumes to their sizes on kernels that have it all:
// the tests run in a guest.
package quota

import (
	"os"
	"testing"

	"github.com/berth-storage/berth/test/vm"
)

func TestMain(m *testing.M) {
	if task := os.Getenv(writeVariable); task != "" {
		os.Exit(writer(task))
	}
	vm.Main(m)
}
