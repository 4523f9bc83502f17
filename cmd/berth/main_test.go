package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-storage/berth/internal/app"
	"github.com/berth-storage/berth/internal/backend/dir"
)

// berth runs the program and gives what it prints.
func berth(t *testing.T, args ...string) (out, logs string, err error) {
	t.Helper()
	var o, l strings.Builder
	err = run(t.Context(), args, &o, &l)
	return o.String(), l.String(), err
}

// newPool makes an empty pool and gives its root.
func newPool(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "pool")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	b, err := dir.Open(t.Context(), root, dir.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	return root
}

const subdirDeployment = `kind: Deployment
spec:
  template:
    spec:
      containers:
      - image: nfs-subdir-external-provisioner:latest
        env:
        - {name: PROVISIONER_NAME, value: k8s-sigs.io/nfs-subdir-external-provisioner}
        - {name: NFS_SERVER, value: 192.168.11.54}
        - {name: NFS_PATH, value: /mnt/inspurfs}
`

const zfsStatefulSet = `kind: StatefulSet
spec:
  template:
    spec:
      containers:
      - image: zfs-provisioner:latest
        env:
        - {name: ZFS_PARENT_DATASET, value: kubernetes-mirror/pvc}
        - {name: ZFS_SERVER_HOSTNAME, value: 192.168.11.54}
`

func TestRun(t *testing.T) {
	const sample, manifest = "../../docs/samples/minimal.yaml", "../../test/deploy/testdata/nfs-provisioner/provisioner.yaml"
	absent := filepath.Join(t.TempDir(), "absent.yaml")
	invalid := filepath.Join(t.TempDir(), "invalid.yaml")
	if err := os.WriteFile(invalid, []byte("polls: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	subdirManifest := filepath.Join(t.TempDir(), "deployment.yaml")
	if err := os.WriteFile(subdirManifest, []byte(subdirDeployment), 0o600); err != nil {
		t.Fatal(err)
	}
	zfsManifest := filepath.Join(t.TempDir(), "statefulset.yaml")
	if err := os.WriteFile(zfsManifest, []byte(zfsStatefulSet), 0o600); err != nil {
		t.Fatal(err)
	}
	pool := newPool(t)
	for _, c := range []struct {
		args string
		out  string // what it prints; in full if it ends in a newline and is not indented
		err  string // in its error; "" for none
	}{
		{"berth version", app.Version + "\n", ""},
		{"berth version 1", "", "unknown command"},
		{"berth", "Usage:", ""},
		{"berth --help", "nfs-provisioner", ""},
		{"berth sevre", "", `unknown command "sevre"`},
		{"berth --cofnig x", "", "unknown flag: --cofnig"},

		{"berth config check " + sample, sample + " is valid\n", ""},
		{"berth config check " + invalid, "", invalid + `: unknown key "polls", did you mean "pools"?`},
		{"berth config check " + absent, "", "no such file"},
		{"berth config check", "", "accepts 1 arg"},
		{"berth config chek " + sample, "", `unknown command "chek"`},
		{"berth config", "Usage:", ""},
		{"berth config convert", "nfs-provisioner", ""},
		{"berth config convert nfs-subdir", "", `unknown command "nfs-subdir"`},
		{"berth config convert nfs-subdir-external-provisioner --manifest " + subdirManifest, "    server: 192.168.11.54\n", ""},
		{"berth config convert nfs-subdir-external-provisioner --manifest " + manifest, "", "no Pod, Deployment, StatefulSet or DaemonSet in it runs nfs-subdir"},
		{"berth config convert nfs-subdir-external-provisioner --manifest " + subdirManifest + " -- -v=4", "", "give either --manifest or"},
		{"berth config convert nfs-subdir-external-provisioner", "", "the environment variables PROVISIONER_NAME, NFS_SERVER, NFS_PATH are not set"},
		{"berth config convert nfs-client-provisioner -- -help", "-kube-qps", ""},
		{"berth config convert openshift-pvmanager --storage ../../test/deploy/testdata/pvmanager/configmap.yaml", "    dataset: zpool/openshift_basic\n", ""},
		{"berth config convert openshift-pvmanager", "", "--storage says where"},
		{"berth config convert openshift-pvmanager --storage " + manifest, "", "storage.yml: "},
		{"berth config convert openshift-pvmanager --storage ../../test/deploy/testdata/pvmanager/configmap.yaml --properties none", "", "none: no such file"},
		{"berth config convert nfs-provisioner -- -provisioner=a.b/c -root-squash", "    rootSquash: true\n", ""},
		{"berth config convert nfs-provisioner -- -help", "-root-squash", ""},
		{"berth config convert nfs-provisioner -- -grace-period=500", "", "-grace-period=500"},
		{"berth config convert nfs-provisioner --manifest " + manifest, "  provisioner: example.com/nfs\n", ""},
		{"berth config convert nfs-provisioner --manifest " + sample, "", "manifest: no Pod"},
		{"berth config convert nfs-provisioner --manifest " + manifest + " -- -root-squash", "", "give either --manifest or"},
		{"berth config convert nfs-provisioner --manifest " + absent, "", "no such file"},

		{"berth config convert zfs-provisioner --manifest " + zfsManifest, "    dataset: kubernetes-mirror/pvc\n", ""},
		{"berth config convert zfs-provisioner", "", "the environment variable ZFS_PARENT_DATASET is not set"},
		{"berth config convert zfs-provisioner -- -help", "-kube-qps", ""},
		{"berth config convert zfs-provisioner --manifest " + manifest, "", "no Pod, Deployment, StatefulSet or DaemonSet in it runs zfs-provisioner"},

		{"berth adopt", "nfs-provisioner", ""},
		{"berth adopt nfs-provisoner", "", "unknown command"},
		{"berth adopt nfs-provisioner --config " + sample + " -- -root-squash", "", "give either --config or"},
		{"berth adopt nfs-provisioner --config " + invalid, "", `did you mean "pools"?`},
		{"berth adopt nfs-provisioner -- -help", "-root-squash", ""},
		{"berth adopt nfs-provisioner -- -export-root=" + absent + " -master=http://127.0.0.1:1", "", absent},

		{"berth adopt", "nfs-subdir-external-provisioner", ""},
		{"berth adopt nfs-subdir-external-provisioner --config " + sample + " -- -root=/srv", "", "give either --config or"},
		{"berth adopt nfs-subdir-external-provisioner --config " + sample, "", "no pool is of the kind"},
		{"berth adopt nfs-client-provisioner --config " + invalid, "", `did you mean "pools"?`},
		{"berth adopt nfs-subdir-external-provisioner -- -help", "NFS_SERVER", ""},
		{"berth adopt nfs-subdir-external-provisioner", "", "PROVISIONER_NAME, NFS_SERVER, NFS_PATH are not set"},

		{"berth volumes --root " + pool, "POOL  VOLUME", ""},
		{"berth volumes --root " + pool + " -o json", `"pools": [`, ""},
		{"berth volumes --root " + absent, "", "no such file"},
		{"berth volumes --root " + filepath.Dir(pool), "", "is the root of no pool"},
		{"berth volumes --root " + pool + " -o yaml", "", `"yaml" is neither table nor json`},
		{"berth volumes --root " + pool + " --config " + sample, "", "[config root] were all set"},
		{"berth volumes --config " + absent, "", "configuration: open " + absent},

		{"berth volumes --cluster west", "", "give --root with --cluster"},
		{"berth volumes --root " + pool + " --cluster west", "", "is the root of no pool"},
		{"berth archives", "purge", ""},
		{"berth archives lsit", "", `unknown command "lsit"`},
		{"berth archives list --root " + pool, "POOL  VOLUME", ""},
		{"berth archives list --root " + pool + " -o json", `"archives": []`, ""},
		{"berth archives list --config " + absent, "", "no such file"},
		{"berth archives purge --root " + pool, "", "say which archives"},
		{"berth archives purge --root " + pool + " --older-than 1h", "", ""},
		{"berth archives purge --root " + pool + " pvc-1", "", `no volume "pvc-1" is archived or retained`},
		{"berth archives purge --root " + pool + " --older-than 30d", "", "invalid argument"},
		{"berth restore --root " + pool + " pvc-1", "", `required flag(s) "class" not set`},
		{"berth restore --root " + pool + " --class x", "", "accepts 1 arg"},
		{"berth restore --root " + pool + " --class x pvc-1", "", `no volume "pvc-1" is archived or retained`},

		{"berth serve --config " + absent, "", "configuration: open " + absent},
		{"berth serve --config=" + invalid, "", `did you mean "pools"?`},
		{"berth serve --confg " + sample, "", "unknown flag: --confg"},
		{"berth serve " + sample, "", "unknown command"},

		{"berth nfs-provisioner -help", "-root-squash", ""},
		{"berth nfs-provisioner --help", "-root-squash", ""},
		{"berth nfs-provisioner -h", "-root-squash", ""},
		{"berth nfs-provisioner -provisoner=x", "", `did you mean "provisioner"?`},
		{"berth nfs-provisioner -use-ganesha=false", "", "-run-server needs -use-ganesha"},
		{"berth nfs-provisioner -export-root=" + absent + " -master=http://127.0.0.1:1", "", "pool root " + absent + " does not exist"},

		{"berth nfs-subdir-external-provisioner -help", "NFS_SERVER", ""},
		{"berth nfs-subdir-external-provisioner -v=4", "", "PROVISIONER_NAME, NFS_SERVER, NFS_PATH are not set"},
		{"berth nfs-client-provisioner -verbose", "", "unknown flag -verbose"},

		{"berth zfs-provisioner -help", "ZFS_PARENT_DATASET", ""},
		{"berth zfs-provisioner", "", "the environment variable ZFS_PARENT_DATASET is not set"},
		{"berth zfs-provisioner -verbose", "", "unknown flag -verbose"},

		// By the names of the programs that it takes the place of.
		{"/nfs-provisioner -help", "-root-squash", ""},
		{"nfs-provisioner -provisoner=x", "", `did you mean "provisioner"?`},
		{"/nfs-subdir-external-provisioner", "", "PROVISIONER_NAME, NFS_SERVER, NFS_PATH are not set"},
		{"/nfs-client-provisioner -kube-qsp=1", "", `did you mean "kube-qps"?`},
		{"/usr/local/bin/zfs-provisioner", "", "the environment variable ZFS_PARENT_DATASET is not set"},
		{"/usr/bin/nfs-provisioner version", "", `unexpected argument "version"`},
	} {
		t.Run(c.args, func(t *testing.T) {
			out, logs, err := berth(t, strings.Fields(c.args)...)
			switch {
			case c.err == "" && err != nil:
				t.Errorf("got error %v", err)
			case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
				t.Errorf("got error %v, want one with %q", err, c.err)
			case strings.HasSuffix(c.out, "\n") && !strings.HasPrefix(c.out, " ") && out != c.out, !strings.Contains(out, c.out), c.out == "" && out != "":
				t.Errorf("printed %q, want %q", out, c.out)
			}
			// main prints the error, once.
			if logs != "" {
				t.Errorf("printed to the log: %q", logs)
			}
		})
	}
}
