package ganesha

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHasCapability(t *testing.T) {
	for status, want := range map[string]bool{
		"Name:\tganesha.nfsd\nCapPrm:\t000001ffffffffff\nCapEff:\t000001fffeffffff\nCapBnd:\t000001ffffffffff\n": false,
		"Name:\tganesha.nfsd\nCapPrm:\t0000000000000000\nCapEff:\t0000000001000000\n":                            true,
	} {
		if got, err := hasCapability(status, unix.CAP_SYS_RESOURCE); err != nil || got != want {
			t.Errorf("got %t, %v of %q", got, err, status)
		}
	}
	if _, err := hasCapability("Name:\tx\n", 0); err == nil {
		t.Error("a text without capabilities tells of them")
	}
	if _, err := writesBeyondLimits(os.Getpid()); err != nil {
		t.Error(err)
	}
}
