//go:build system

package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-storage/berth/test/image"
)

func TestImage(t *testing.T) {
	i := shared.image
	// Manifests for nfs-provisioner give arguments only.
	if !slices.Equal(i.Config.Entrypoint, []string{"/nfs-provisioner"}) {
		t.Errorf("entry point %q", i.Config.Entrypoint)
	}
	for _, label := range []string{"title", "licenses", "version"} {
		if i.Config.Labels["org.opencontainers.image."+label] == "" {
			t.Errorf("no label %s in %v", label, i.Config.Labels)
		}
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"/nfs-provisioner", "-help"}, "-provisioner name"},
		{[]string{"berth", "version"}, i.Config.Labels["org.opencontainers.image.version"]},
		{[]string{"ganesha.nfsd", "-v"}, "NFS-Ganesha Release = V4"},
		{[]string{"rpcbind", "--help"}, "usage: rpcbind"},
		{[]string{"rpc.statd", "--version"}, "rpc.statd version"},
		{[]string{"dbus-daemon", "--version"}, "D-Bus Message Bus Daemon"},
	} {
		output, err := exec.CommandContext(t.Context(), "chroot", append([]string{i.Rootfs}, c.args...)...).CombinedOutput()
		if !strings.Contains(string(output), c.want) {
			t.Errorf("%q prints %q, %v; want %q", c.args, output, err, c.want)
		}
	}
	if info, err := os.Stat(i.Archive); err != nil || info.Size() < 10<<20 {
		t.Errorf("the archive: %v, %v", info, err)
	}
	checkSize(t, i, 200)
}

// The small images have the program and nothing else.
func TestSmallImages(t *testing.T) {
	for _, c := range []struct {
		image         image.Image
		command, help string
	}{
		{shared.subdir, "nfs-subdir-external-provisioner", "NFS_SERVER"},
		{shared.zfs, "zfs-provisioner", "ZFS_PARENT_DATASET"},
	} {
		i := c.image
		if !slices.Equal(i.Config.Entrypoint, []string{"/usr/bin/berth", c.command}) {
			t.Errorf("entry point %q", i.Config.Entrypoint)
		}
		entries, err := os.ReadDir(i.Rootfs)
		if err != nil || len(entries) != 1 || entries[0].Name() != "usr" {
			t.Errorf("there are %v in its root, %v", entries, err)
		}
		for want, args := range map[string][]string{
			c.help: append(slices.Clone(i.Config.Entrypoint), "-help"),
			i.Config.Labels["org.opencontainers.image.version"]: {"/usr/bin/berth", "version"},
		} {
			output, err := exec.CommandContext(t.Context(), "chroot", append([]string{i.Rootfs}, args...)...).CombinedOutput()
			if !strings.Contains(string(output), want) || want == "" {
				t.Errorf("%q prints %q, %v; want %q", args, output, err, want)
			}
		}
		checkSize(t, i, 80)
	}
}

// checkSize says how many MB of files an image has, which may be so many at the most.
func checkSize(t *testing.T, i image.Image, most int64) {
	t.Helper()
	size := int64(0)
	err := filepath.WalkDir(i.Rootfs, func(_ string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		size += info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the image has %d MB of files", size>>20)
	if size > most<<20 {
		t.Errorf("the image has %d MB of files: something came in that is not needed", size>>20)
	}
}
