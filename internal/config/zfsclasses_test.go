package config_test

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/config"
)

// successorDeployment is that of kubernetes-zfs-provisioner's successor, which has no parent dataset.
const successorDeployment = `
kind: Deployment
spec:
  template:
    spec:
      containers:
      - name: kubernetes-zfs-provisioner
        image: ghcr.io/ccremer/kubernetes-zfs-provisioner:v1
        env:
        - {name: ZFS_PROVISIONER_INSTANCE, value: pv.kubernetes.io/zfs}
        - {name: ZFS_SSH_MOUNT_PATH, value: /home/zfs/.ssh}
        - {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
`

func classOf(provisioner, parameters string) string {
	return "---\nkind: StorageClass\nmetadata: {name: any}\nprovisioner: " + provisioner + "\nparameters: " + parameters + "\n"
}

// Each parent dataset that the successor's classes name becomes a pool, once.
func TestConvertedClassesAreZFSPools(t *testing.T) {
	const zfs = "pv.kubernetes.io/zfs"
	list := "---\nkind: List\nitems:\n- kind: StorageClass\n  provisioner: " + zfs + "\n  parameters: {parentDataset: tank/kubernetes, hostname: other.example.com}\n"
	text := successorDeployment + classOf(zfs, "{parentDataset: tank/kubernetes, hostname: nas.example.com}") +
		classOf(zfs, "{parentdataset: tank/kubernetes, hostname: nas.example.com, type: auto}") + // the same
		classOf(zfs, "{parentDataset: SSD/Fast_1, hostname: nas.example.com}") + list +
		classOf("example.com/other", "{parentDataset: tank/other, hostname: nas.example.com}") + classOf(zfs, "{hostname: nas.example.com}")
	m, err := config.ZFSProvisionerManifest([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	converted, err := config.ConvertZFSProvisioner(m, of(), zfsHost, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	c := parse(t, string(converted))
	var got []string
	for _, p := range c.Pools {
		got = append(got, fmt.Sprint(p.Name, " ", p.Provisioner, " ", p.Adopt, " ", p.ZFS.Dataset, " ", p.ZFS.Server, " ", p.ZFS.SSH.Host, " ", p.ZFS.SSH.KnownHosts))
	}
	if diff := cmp.Diff([]string{
		"tank-kubernetes pv.kubernetes.io/zfs zfs-provisioner tank/kubernetes nas.example.com nas.example.com /home/zfs/.ssh/known_hosts",
		"ssd-fast-1 pv.kubernetes.io/zfs zfs-provisioner SSD/Fast_1 nas.example.com nas.example.com /home/zfs/.ssh/known_hosts",
		"tank-kubernetes-2 pv.kubernetes.io/zfs zfs-provisioner tank/kubernetes other.example.com other.example.com /home/zfs/.ssh/known_hosts",
	}, got); diff != "" {
		t.Errorf("(-want +got):\n%s\nconverted:\n%s", diff, converted)
	}
	if c.Server.Hostname != "" {
		t.Errorf("the server of all pools is %s", c.Server.Hostname)
	}
}

// What the environment names comes first, and a place that cannot be says which it is.
func TestPlacesOfZFSProvisioner(t *testing.T) {
	m := config.Manifest{Classes: []config.Class{{Provisioner: "gentics.com/zfs", Parameters: map[string]string{"parentDataset": "tank/two"}}}}
	text, err := config.ConvertZFSProvisioner(m, of("ZFS_PARENT_DATASET=tank/one", "ZFS_SERVER_HOSTNAME=nas"), zfsHost, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if c := parse(t, string(text)); len(c.Pools) != 2 || c.Pools[0].ZFS.Dataset != "tank/one" || c.Pools[1].ZFS.Dataset != "tank/two" || c.Pools[1].ZFS.Server != "nas" {
		t.Errorf("converted to\n%s", text)
	}
	for parent, want := range map[string]string{"/tank": "parent dataset /tank: ", "tank/one/below": "lie in each other"} {
		m.Classes[0].Parameters["parentDataset"] = parent
		if text, err := config.ConvertZFSProvisioner(m, of("ZFS_PARENT_DATASET=tank/one"), zfsHost, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parentDataset %s: got error %v, want one with %q; converted:\n%s", parent, err, want, text)
		}
	}
}
