package mountinfo

import (
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	const text = `22 1 254:0 / / rw,relatime - ext4 /dev/root rw
41 22 8:17 /sub /srv/with\040space\134 rw,noatime shared:5 - xfs /dev/sd\040b1 rw,prjquota
4 22 0:5 / /short rw
50 22 0:300 / /srv/with\040space\134 rw - nfs4 nas:/vol rw,local_lock=all
51 22 x:y / /odd rw - tmpfs none rw
`
	below := Mount{"41", unix.Mkdev(8, 17), `/srv/with space\`, "xfs", "/dev/sd b1", []string{"rw", "prjquota"}}
	above := Mount{"50", unix.Mkdev(0, 300), `/srv/with space\`, "nfs4", "nas:/vol", []string{"rw", "local_lock=all"}}
	want := []Mount{
		{"22", unix.Mkdev(254, 0), "/", "ext4", "/dev/root", []string{"rw"}}, below, above,
		{"51", 0, "/odd", "tmpfs", "none", []string{"rw"}},
	}
	mounts := Parse(text)
	if !reflect.DeepEqual(mounts, want) {
		t.Errorf("got %+v, want %+v", mounts, want)
	}
	if m, found := At(mounts, below.Point); !found || m.ID != above.ID {
		t.Errorf("what hides the other is %+v, %t", m, found)
	}
	if m, found := At(mounts, "/srv"); found {
		t.Errorf("at a directory where nothing is mounted: %+v", m)
	}
}

func TestRead(t *testing.T) {
	mounts, err := Read()
	if err != nil {
		t.Fatal(err)
	}
	var root unix.Stat_t
	if err := unix.Stat("/proc", &root); err != nil {
		t.Fatal(err)
	}
	if m, found := At(mounts, "/proc"); !found || m.Type != "proc" || m.Device != root.Dev {
		t.Errorf("at /proc is %+v, %t, want device %d", m, found, root.Dev)
	}
}
