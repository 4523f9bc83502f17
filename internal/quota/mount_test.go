package quota

import (
	"errors"
	"os"
	"strings"
	"testing"
)

func TestMountOfTheDirectory(t *testing.T) {
	d, err := os.Open("/proc/self")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if got := mountOf(d); got.point != "/proc" {
		t.Errorf("/proc/self is on %+v", got)
	}
}

func TestRemedy(t *testing.T) {
	for _, c := range []struct {
		kind string
		m    mount
		want []string
	}{
		{"xfs", mount{"/srv", "/dev/sdb1"}, []string{"/srv (xfs, /dev/sdb1) is mounted without the option prjquota", "umount /srv && mount -o prjquota /dev/sdb1 /srv", "/etc/fstab"}},
		{"xfs", mount{"/", "/dev/sda1"}, []string{"rootflags=prjquota"}},
		{"ext4", mount{"/srv", "/dev/sdb1"}, []string{"tune2fs -O project,quota /dev/sdb1 && mount -o prjquota /dev/sdb1 /srv"}},
		{"ext4", mount{"/", "/dev/sda1"}, []string{"this is the root file system", "tune2fs -O project,quota /dev/sda1", "rootflags=prjquota"}},
		{"xfs", mount{}, []string{"umount MOUNTPOINT && mount -o prjquota DEVICE MOUNTPOINT"}},
	} {
		for _, want := range c.want {
			if got := c.m.remedy(c.kind); !strings.Contains(got, want) {
				t.Errorf("of %s at %+v: %q lacks %q", c.kind, c.m, got, want)
			}
		}
	}
}

func TestOpenOfAnotherFileSystem(t *testing.T) {
	d, err := os.Open("/proc")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	_, err = Open(d)
	if _, ok := errors.AsType[*UnavailableError](err); !ok || !strings.Contains(err.Error(), "xfs, ext4 and btrfs") {
		t.Errorf("got error %v", err)
	}
}
