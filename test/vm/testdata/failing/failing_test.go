//go:build system

// Package failing has a test that fails, in a guest.
package failing

import (
	"testing"

	"github.com/berth-storage/berth/test/vm"
)

func TestMain(m *testing.M) { vm.Main(m) }

func TestGood(*testing.T) {}

func TestBad(t *testing.T) { t.Error("this fails on purpose") }
