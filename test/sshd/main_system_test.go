//go:build system

package sshd

import (
	"fmt"
	"os"
	"testing"

	"github.com/berth-storage/berth/test/harness"
)

func TestMain(m *testing.M) {
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func prepare() error {
	if err := harness.OwnMounts(); err != nil {
		return err
	}
	return OwnAccounts()
}
