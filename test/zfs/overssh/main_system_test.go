//go:build system

package overssh

import (
	"log/slog"
	"testing"

	"github.com/berth-storage/berth/test/vm"
)

func TestMain(m *testing.M) { vm.MainWith(m, vm.Options{ZFS: true, Memory: 1536}) }

func logger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}
