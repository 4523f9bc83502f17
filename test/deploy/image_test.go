//go:build system

package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
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
	if size > 200<<20 {
		t.Errorf("the image has %d MB of files: something came in that is not needed", size>>20)
	}
}
