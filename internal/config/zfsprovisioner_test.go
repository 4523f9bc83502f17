package config_test

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/zfsproperty"
)

var zfsHost = config.Host{Name: "node-1", FullName: func() (string, error) { return "node-1.example.com", nil }}

func fromZFS(t *testing.T, variables ...string) config.Config {
	t.Helper()
	c, err := config.FromZFSProvisioner(nil, of(variables...), zfsHost, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestZFSProvisionerDefaults(t *testing.T) {
	t.Chdir(t.TempDir())
	got := fromZFS(t, "ZFS_PARENT_DATASET=storage/kubernetes/pv")
	want := config.Default()
	want.HTTP.Listen, want.Server.Hostname = ":8080", "node-1.example.com"
	want.Pools = []config.Pool{{
		Name: "zfs", Provisioner: "gentics.com/zfs", Adopt: config.AdoptZFSProvisioner, Exporter: config.ExporterZFSShare,
		ZFS: &config.ZFS{
			Dataset: "storage/kubernetes/pv", Sizing: "both", ShareOptions: "rw=@10.0.0.0/8", OnClones: "wait", VolumeType: "nfs",
			ClaimAnnotations: zfsproperty.UsualAnnotations(),
		},
		Defaults: config.Defaults{Mode: 0o755, OnDelete: "delete", Existing: "refuse"},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The unit of systemd of its page.
func TestZFSProvisionerUnit(t *testing.T) {
	c := fromZFS(t, "ZFS_PARENT_DATASET=storage/kubernetes/pv", "ZFS_SHARE_SUBNET=1.2.3.0/25", "ZFS_SERVER_HOSTNAME=1.2.3.4",
		"ZFS_KUBE_CONF=/etc/kubernetes/admin.conf", "ZFS_KUBE_RECLAIM_POLICY=Retain", "ZFS_METRICS_PORT=8081")
	p := c.Pools[0]
	if p.ZFS.ShareOptions != "rw=@1.2.3.0/25" || c.Server.Hostname != "1.2.3.4" || p.ReclaimPolicy != "Retain" ||
		c.Kubernetes.Kubeconfig != "/etc/kubernetes/admin.conf" || c.HTTP.Listen != ":8081" {
		t.Errorf("got %+v", c)
	}
}

func TestZFSProvisionerVariables(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("kube.conf", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const parent = "ZFS_PARENT_DATASET=tank"
	get := func(what func(config.Config) string, variables ...string) string {
		return what(fromZFS(t, append([]string{parent}, variables...)...))
	}
	share := func(c config.Config) string { return c.Pools[0].ZFS.ShareOptions }
	mode := func(c config.Config) string { return fmt.Sprintf("%#o", uint32(c.Pools[0].Defaults.Mode)) }
	name := func(c config.Config) string { return c.Pools[0].Provisioner }
	kind := func(c config.Config) string {
		return strings.TrimSpace(c.Pools[0].Exporter + " " + c.Pools[0].ZFS.VolumeType + " " + c.Pools[0].ZFS.Node)
	}
	for _, c := range []struct{ what, got, want string }{
		{"both ways to share", get(share, "ZFS_SHARE_OPTIONS=rw", "ZFS_SHARE_SUBNET=10.1.0.0/16"), "rw"},
		{"name", get(name, "ZFS_PROVISIONER_NAME=gentics.com/zfs-mirror"), "gentics.com/zfs-mirror"},
		{"instance", get(name, "ZFS_PROVISIONER_INSTANCE=pv.kubernetes.io/zfs"), "pv.kubernetes.io/zfs"},
		{"access modes", get(func(c config.Config) string { return fmt.Sprint(c.Pools[0].ZFS.WidenAccessModes) }, "ZFS_PROVISIONER_INSTANCE=a/b"), "true"},
		{"the successor's way to share", get(share, "ZFS_PROVISIONER_INSTANCE=a/b"), "on"},
		{"another one", get(share, "ZFS_PROVISIONER_INSTANCE=a/b", "ZFS_SHARE_SUBNET=10.1.0.0/16"), "rw=@10.1.0.0/16"},
		{"the successor's mode", get(mode, "ZFS_PROVISIONER_INSTANCE=a/b"), "0775"},
		{"no export", get(kind, "ZFS_ENABLE_EXPORT=false"), "none local node-1"},
		{"no export in a pod", get(kind, "ZFS_ENABLE_EXPORT=false", "NODE_NAME=n2"), "none local n2"},
		{"export", get(kind, "ZFS_ENABLE_EXPORT=true", "ZFS_CREATE_UNIQUE_NAME=true"), "zfsshare nfs"},
		{"unique name", get(name, "ZFS_ENABLE_EXPORT=false", "ZFS_CREATE_UNIQUE_NAME=true"), "gentics.com/zfs-node-1"},
		{"name that is not needed", get(name, "ZFS_CREATE_UNIQUE_NAME=true"), "gentics.com/zfs"},
		{"kube.conf", get(func(c config.Config) string { return c.Kubernetes.Kubeconfig }), "kube.conf"},
		{"kubeconfig", get(func(c config.Config) string { return c.Kubernetes.Kubeconfig }, "ZFS_KUBE_CONFIG_PATH=/k"), "/k"},
		{"metrics", get(func(c config.Config) string { return c.HTTP.Listen }, "ZFS_METRICS_ADDR=10.0.0.1", "ZFS_METRICS_PORT=1"), "10.0.0.1:1"},
		{"debug", get(func(c config.Config) string { return c.Log.Level }, "ZFS_DEBUG=true"), "debug"},
		{"in a pod", get(func(c config.Config) string { return c.Server.Hostname }, "POD_IP=10.2.3.4"), ""},
		{"mode", get(mode, "ZFS_MOD=g+w"), "0775"},
		{"mode in octal", get(mode, "ZFS_PROVISIONER_INSTANCE=a/b", "ZFS_MOD=2770"), "02770"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", c.what, c.got, c.want)
		}
	}
}

func TestZFSProvisionerOverSSH(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "id_rsa"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	host := []string{"ZFS_PARENT_DATASET=tank", "ZFS_SERVER_HOSTNAME=nas"}
	for _, c := range []struct {
		variables []string
		want      *config.SSH
	}{
		{nil, nil},
		{[]string{"ZFS_SSH_USER=zfs", "ZFS_EXEC_LOCAL=true"}, nil},
		{
			[]string{"ZFS_SSH_MOUNT_PATH=" + folder},
			&config.SSH{Host: "nas", Port: 22, User: "root", KeyFile: folder + "/id_rsa", KnownHosts: folder + "/known_hosts"},
		},
		{
			[]string{"ZFS_SSH_USER=zfs", "ZFS_SSH_PORT=2222", "ZFS_SSH_KEY=/k", "ZFS_SSH_KEY_PASSPHRASE=p", "ZFS_SSH_KNOWN_HOSTS=/h"},
			&config.SSH{Host: "nas", Port: 2222, User: "zfs", KeyFile: "/k", Passphrase: "p", KnownHosts: "/h", BecomeRoot: true},
		},
		{
			[]string{"ZFS_SSH_USER=zfs", "ZFS_SSH_KEY=/k", "ZFS_BIN=/sbin/zfs"},
			&config.SSH{Host: "nas", Port: 22, User: "zfs", KeyFile: "/k", KnownHosts: "/home/zfs/.ssh/known_hosts"},
		},
	} {
		got := fromZFS(t, append(host, c.variables...)...).Pools[0].ZFS.SSH
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.variables, diff)
		}
	}
}

func TestZFSProvisionerRefusals(t *testing.T) {
	for what, want := range map[string]string{
		"ZFS_PARENT_DATASET=":                                   "ZFS_PARENT_DATASET is not set",
		"ZFS_PARENT_DATASET=/tank":                              `"/tank" begins or ends with a slash, as no dataset does: say tank`,
		"ZFS_PARENT_DATASET=tank/":                              "say tank",
		"ZFS_KUBE_RECLAIM_POLICY=Recycle":                       `"Recycle" is neither Delete nor Retain`,
		"ZFS_ENABLE_EXPORT=maybe":                               `ZFS_ENABLE_EXPORT: "maybe" is neither true nor false`,
		"ZFS_CREATE_UNIQUE_NAME=maybe":                          "ZFS_CREATE_UNIQUE_NAME",
		"ZFS_DEBUG=maybe":                                       "ZFS_DEBUG",
		"ZFS_EXEC_LOCAL=maybe":                                  "ZFS_EXEC_LOCAL",
		"ZFS_MOD=u=rwx":                                         `ZFS_MOD: "u=rwx" is none of`,
		"ZFS_SSH_USER=zfs":                                      "ZFS_SERVER_HOSTNAME is not set",
		"ZFS_SSH_USER=zfs ZFS_SERVER_HOSTNAME=a ZFS_SSH_PORT=x": `ZFS_SSH_PORT: "x" is not a port`,
		"-log-levl=x":                                           `did you mean "log-level"?`,
		"serve":                                                 `unexpected argument "serve"`,
	} {
		env, args := []string{"ZFS_PARENT_DATASET=tank"}, []string(nil)
		for word := range strings.FieldsSeq(what) {
			if strings.HasPrefix(word, "ZFS_") {
				env = append(env, word)
			} else {
				args = append(args, word)
			}
		}
		if _, err := config.FromZFSProvisioner(args, of(env...), zfsHost, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want one with %q", what, err, want)
		}
	}
	nameless := config.Host{FullName: func() (string, error) { return "", errors.New("no name") }}
	if _, err := config.FromZFSProvisioner(nil, of("ZFS_PARENT_DATASET=tank"), nameless, io.Discard); err == nil || !strings.Contains(err.Error(), "no name: set ZFS_SERVER_HOSTNAME") {
		t.Errorf("a host without a name: got error %v", err)
	}
}

func TestZFSProvisionerFlags(t *testing.T) {
	c, err := config.FromZFSProvisioner([]string{"-workers=7", "--kube-qps=3", "-kube-burst=5", "-log-level=warn", "-standby"},
		of("ZFS_PARENT_DATASET=tank", "ZFS_DEBUG=true"), zfsHost, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if k := c.Kubernetes; k.Workers != 7 || k.QPS != 3 || k.Burst != 5 || c.Log.Level != "warn" || !c.Standby {
		t.Errorf("got %+v", c)
	}
	var usage strings.Builder
	if _, err := config.FromZFSProvisioner([]string{"--help"}, of(), zfsHost, &usage); !errors.Is(err, flag.ErrHelp) || !strings.Contains(usage.String(), "ZFS_PARENT_DATASET") {
		t.Errorf("--help: %v, %q", err, usage.String())
	}
}

const zfsStatefulSet = `apiVersion: apps/v1
kind: StatefulSet
spec:
  template:
    spec:
      containers:
      - name: provisioner
        image: IMAGE
        env:
        - {name: ZFS_PARENT_DATASET, value: kubernetes-mirror/pvc}
        - {name: ZFS_PROVISIONER_NAME, value: gentics.com/zfs-mirror}
        - {name: ZFS_SERVER_HOSTNAME, value: 10.0.0.3}
        - {name: ZFS_KUBE_CONF, value: kube_config_my-cluster.yml}
`

func TestConvertedZFSProvisionerIsTheDropIn(t *testing.T) {
	want := fromZFS(t, "ZFS_PARENT_DATASET=kubernetes-mirror/pvc", "ZFS_PROVISIONER_NAME=gentics.com/zfs-mirror",
		"ZFS_SERVER_HOSTNAME=10.0.0.3", "ZFS_KUBE_CONF=kube_config_my-cluster.yml")
	for _, image := range []string{"mine", "registry.example.com:5000/zfs-provisioner:latest", "ghcr.io/ccremer/kubernetes-zfs-provisioner:v1"} {
		m, err := config.ZFSProvisionerManifest([]byte(strings.Replace(zfsStatefulSet, "IMAGE", image, 1)))
		if err != nil {
			t.Errorf("%s: %v", image, err)
			continue
		}
		text, err := config.ConvertZFSProvisioner(m, of("ZFS_PARENT_DATASET=other"), zfsHost, io.Discard)
		if err != nil {
			t.Errorf("%s: %v", image, err)
			continue
		}
		got, err := config.Parse(text)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: error %v (-drop-in +converted):\n%s\nconverted:\n%s", image, err, diff, text)
		}
	}
	if text, err := config.ConvertZFSProvisioner(config.Manifest{}, of("ZFS_PARENT_DATASET=tank"), zfsHost, io.Discard); err != nil || !strings.Contains(string(text), "dataset: tank\n") {
		t.Errorf("from the environment: error %v\n%s", err, text)
	}
	secret := of("ZFS_PARENT_DATASET=tank", "ZFS_SERVER_HOSTNAME=nas", "ZFS_SSH_KEY=/k", "ZFS_SSH_KEY_PASSPHRASE=p")
	if text, err := config.ConvertZFSProvisioner(config.Manifest{}, secret, zfsHost, io.Discard); err != nil || !strings.Contains(string(text), "# A secret stands in this file") {
		t.Errorf("with a passphrase: error %v\n%s", err, text)
	}
	unknown := strings.Replace(zfsStatefulSet, "value: 10.0.0.3", "valueFrom: {configMapKeyRef: {name: zfs, key: host}}", 1)
	m, err := config.ZFSProvisionerManifest([]byte(unknown))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := config.ConvertZFSProvisioner(m, of(), zfsHost, io.Discard); err == nil || !strings.Contains(err.Error(), "what ZFS_SERVER_HOSTNAME is, the manifest does not say") {
		t.Errorf("got error %v\n%s", err, text)
	}
}

// docs/zfs.md tells of each variable that is read, and of each flag.
func TestEveryVariableOfZFSProvisionerIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/zfs.md")
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	all := of("ZFS_PARENT_DATASET=tank", "ZFS_SSH_USER=u", "ZFS_SERVER_HOSTNAME=nas")
	for _, export := range []string{"true", "false"} {
		env := func(name string) string {
			if strings.HasPrefix(name, "ZFS_") && !slices.Contains(asked, name) {
				asked = append(asked, name)
			}
			if name == "ZFS_ENABLE_EXPORT" {
				return export
			}
			return all(name)
		}
		if _, err := config.FromZFSProvisioner(nil, env, zfsHost, io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	if len(asked) < 20 {
		t.Errorf("only %q are read", asked)
	}
	for _, name := range asked {
		if !strings.Contains(string(page), "| `"+name+"`") {
			t.Errorf("docs/zfs.md does not tell of %s", name)
		}
	}
	var usage strings.Builder
	if _, err := config.FromZFSProvisioner([]string{"-help"}, of(), zfsHost, &usage); err == nil {
		t.Fatal("-help is no error to the caller")
	}
	for line := range strings.Lines(usage.String()) {
		if name, found := strings.CutPrefix(line, "  -"); found {
			if name = strings.Fields(name)[0]; !strings.Contains(string(page), "`-"+name+"`") {
				t.Errorf("docs/zfs.md does not tell of -%s", name)
			}
		}
	}
}
