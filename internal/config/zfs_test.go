package config_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/zfsproperty"
)

func TestMinimalDatasetsGetDefaults(t *testing.T) {
	got := parse(t, "pools: [{name: tank, provisioner: x/y, zfs: {dataset: tank/k8s}}]").Pools[0]
	want := config.Pool{
		Name: "tank", Provisioner: "x/y", Exporter: config.ExporterZFSShare,
		ZFS: &config.ZFS{
			Dataset: "tank/k8s", Sizing: "both", ShareOptions: "on", OnClones: config.OnClonesWait, VolumeType: "nfs",
			ClaimAnnotations: zfsproperty.UsualAnnotations(),
		},
		Defaults: config.Defaults{Mode: 0o777, OnDelete: "delete", Existing: "refuse"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDatasetsByOtherExporters(t *testing.T) {
	c := parse(t, `pools:
- {name: a, provisioner: x/y, zfs: {dataset: tank/a}, exporter: ganesha}
- {name: b, provisioner: x/y, zfs: {dataset: tank/b}, exporter: kernel, clients: [10.0.0.0/8]}
- {name: c, provisioner: x/y, zfs: {dataset: tank/c, claimAnnotations: []}, exporter: none}
- {name: d, provisioner: x/y, zfs: {dataset: tank/a, ssh: {host: nas, user: u, password: p, knownHosts: /h}}}
- {name: e, provisioner: x/y, zfs: {dataset: tank/a, ssh: {host: nas2, user: u, password: p, knownHosts: /h}, server: 10.0.0.1}}`)
	for i, want := range []struct{ path, share, volumeType, server string }{
		{"/a", "", "nfs", ""}, {"", "", "nfs", ""}, {"", "", "hostPath", ""}, {"", "on", "nfs", "nas"}, {"", "on", "nfs", "10.0.0.1"},
	} {
		p := c.Pools[i]
		if p.ExportPath != want.path || p.ZFS.ShareOptions != want.share || p.ZFS.VolumeType != want.volumeType || p.ZFS.Server != want.server {
			t.Errorf("pool %s: got %+v, %+v, want %+v", p.Name, p, p.ZFS, want)
		}
	}
	if got := c.Pools[2].ZFS.ClaimAnnotations; len(got) > 0 {
		t.Errorf("no annotation was allowed, and %q are", got)
	}
	if c.Pools[3].ZFS.SSH.Port != 22 {
		t.Errorf("ssh.port is %d", c.Pools[3].ZFS.SSH.Port)
	}
	wantRoundTrip(t, c)
}

// A key of several lines, and maps, are written so that they are read again.
func TestFormatOfKeysAndMaps(t *testing.T) {
	c := parse(t, "pools: [{name: a, provisioner: x/y, zfs: {dataset: tank, properties: {atime: 'off', 'com.sun:auto-snapshot': 'false', recordsize: '16384'}, "+
		"ssh: {host: nas, user: u, key: \"-----BEGIN\\nab\\\"c\\n-----END\\n\", passphrase: \"it's: #1\", knownHosts: /h}}}]")
	wantRoundTrip(t, c)
}
