package kube

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/zfsproperty"
)

func TestAnnotationsOfClaims(t *testing.T) {
	pool, volumes := newZFSPool("zfs")
	pool.ZFS.ClaimAnnotations = zfsproperty.Annotations()
	class := classWith(map[string]string{"atime": "off", "exec": "off", "reserveSpace": "false"})
	claim := annotated(
		"berth.storage/blocksize", "16K", "pvmanager.wimsey.us/checksum", "sha256", "pvmanager.wimsey.us/compression", "LZ4",
		"pvmanager.wimsey.us/atime", "on", "berth.storage/setuid", "off", "pvmanager.wimsey.us/logbias", "throughput", "berth.storage/snapdir", "visible",
		"pvmanager.wimsey.us/sync", "always", "pvmanager.wimsey.us/casesensitive", "mixed",
		"berth.storage/sync", "always", // twice, but the same
		"pvmanager.wimsey.us/volume-mode", "Filesystem", "pvmanager.wimsey.us/mount-protocol", "NFS",
		"pvmanager.wimsey.us/volume-uuid", "x", "berth.storage/instance", "zfs-instance", "example.com/compression", "whatever",
	)
	provision(t, claim, class, pool)
	want := volume.Settings{Sizing: volume.SizingQuota, Properties: map[string]string{
		"recordsize": "16384", "checksum": "sha256", "compression": "lz4", "atime": "on", "exec": "off", "setuid": "off", "logbias": "throughput",
		"snapdir": "visible", "sync": "always", "casesensitivity": "mixed",
	}}
	if diff := cmp.Diff(want, volumes.created[0].Settings); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
}

// Nothing is made of these claims, and the error, which becomes the event, tells what would do.
func TestAnnotationsThatAreRefused(t *testing.T) {
	zfs, _ := newZFSPool("zfs")
	local, _ := newPool("local")
	for _, c := range []struct {
		pool              *Pool
		annotation, value string
		kind              error
		want              string
	}{
		{zfs, "berth.storage/compression", "lz4", volume.ErrInvalid, "berth.storage/compression: pool zfs does not let claims use it; what they may use: blocksize, checksum, atime"},
		{zfs, "pvmanager.wimsey.us/compression", "lz4", volume.ErrInvalid, "pvmanager.wimsey.us/compression: pool zfs does not let claims use it"},
		{zfs, "berth.storage/reclaim-policy", "Retain", volume.ErrInvalid, "does not let claims use it"},
		{zfs, "pvmanager.wimsey.us/checksum", "md5", volume.ErrInvalid, `annotation pvmanager.wimsey.us/checksum: "md5" is not a value of checksum: on, off, fletcher2, fletcher4, sha256`},
		{zfs, "berth.storage/blocksize", "1000", volume.ErrInvalid, "a power of two from 512 to 1M"},
		{zfs, "berth.storage/exec", "off sharenfs=on", volume.ErrInvalid, "on, off"},
		{zfs, "berth.storage/snapdirs", "visible", volume.ErrInvalid, `annotation berth.storage/snapdirs is unknown, did you mean "snapdir"?`},
		{zfs, "pvmanager.wimsey.us/Sync", "always", volume.ErrInvalid, `did you mean "sync"?`},
		{zfs, "pvmanager.wimsey.us/volume-mode", "Block", volume.ErrUnsupported, `"Block" cannot be had, only Filesystem`},
		{zfs, "pvmanager.wimsey.us/mount-protocol", "iscsi", volume.ErrUnsupported, `"iscsi" cannot be had, only nfs`},
		{local, "berth.storage/sync", "always", volume.ErrUnsupported, "the volumes of pool local are not ZFS datasets; remove it"},
		{local, "pvmanager.wimsey.us/reclaim-policy", "Retain", volume.ErrUnsupported, "the volumes of pool local are not ZFS datasets"},
	} {
		claim := annotated(c.annotation, c.value)
		pv, _, err := newProvisioner(newClient(claim), c.pool).Provision(t.Context(), options(claim, newClass()))
		if pv != nil || !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 1000 {
			t.Errorf("%s=%s: got %v, error %v; want %v with %q", c.annotation, c.value, pv, err, c.kind, c.want)
		}
		if made := c.pool.Volumes.(*fakeVolumes).created; len(made) > 0 {
			t.Errorf("%s=%s: made %+v", c.annotation, c.value, made)
		}
	}
	claim := annotated("berth.storage/sync", "always", "pvmanager.wimsey.us/sync", "disabled")
	if _, err := wishes(claim); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "annotations berth.storage/sync and pvmanager.wimsey.us/sync say different things") {
		t.Errorf("two that contradict: got error %v", err)
	}
}

// Whatever a tenant writes: what reaches the pool are values that a command can be given.
func FuzzAnnotations(f *testing.F) {
	for _, p := range zfsproperty.All() {
		f.Add(p.Name, "on")
	}
	f.Add("clone-from", "../x")
	f.Add("reclaim-policy", "Recycle")
	f.Fuzz(func(t *testing.T, name, value string) {
		pool, _ := newZFSPool("zfs")
		pool.ZFS.ClaimAnnotations = zfsproperty.Annotations()
		wished, err := wishes(annotated("pvmanager.wimsey.us/"+name, value))
		if err == nil {
			p := parameters{pool: pool}
			if err = p.apply(wished); err == nil {
				for property, v := range p.settings.Properties {
					if strings.Trim(v, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || v == "" {
						t.Errorf("%q=%q sets %s to %q", name, value, property, v)
					}
				}
			}
		}
		if err != nil && !errors.Is(err, volume.ErrInvalid) && !errors.Is(err, volume.ErrUnsupported) {
			t.Errorf("%q=%q: got error %v", name, value, err)
		}
	})
}
