//go:build system

package vm

import (
	"strings"
	"testing"
)

// A dataset that ZFS shares is limited to its refquota for clients too, and after a power
// cut everything is there again.
func TestZFS(t *testing.T) {
	g, err := Start(t.Context(), Options{ZFS: true})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Stop()
	if got := run(t, g, "cat", "/sys/module/zfs/version"); !strings.HasPrefix(got, "2.3.") {
		t.Errorf("the module is OpenZFS %s", got)
	}
	if err := NewPool(t.Context(), g, "tank", 512<<20); err != nil {
		t.Fatal(err)
	}
	if err := StartNFSD(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	run(t, g, "zfs", "create", "-o", "refquota=5M", "-o", "sharenfs=rw=@127.0.0.0/8,no_root_squash", "tank/data")
	mount := func() { run(t, g, "mount", "-t", "nfs", "-o", "vers=4.2", "127.0.0.1:/tank/data", "/mnt") }
	mount()
	run(t, g, "sh", "-ec", "echo kept >/mnt/file; sync -f /mnt/file")
	_, err = g.Run(t.Context(), "dd", "if=/dev/urandom", "of=/mnt/large", "bs=1M", "count=10", "conv=fsync")
	if err == nil || !strings.Contains(err.Error(), "quota exceeded") {
		t.Errorf("10 MiB into a refquota of 5 MiB: %v", err)
	}

	if err := g.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := StartNFSD(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	if err := ImportPools(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	mount()
	if got := run(t, g, "cat", "/mnt/file"); got != "kept\n" {
		t.Errorf("after a reboot the file has %q", got)
	}
	run(t, g, "umount", "/mnt")
}
