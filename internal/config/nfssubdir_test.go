package config_test

import (
	"errors"
	"flag"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/volume"
)

// of gives the variables written as in NAME=value.
func of(variables ...string) func(string) string {
	return func(name string) string {
		for _, v := range slices.Backward(variables) {
			if value, found := strings.CutPrefix(v, name+"="); found {
				return value
			}
		}
		return ""
	}
}

var article = []string{"PROVISIONER_NAME=k8s-sigs.io/nfs-subdir-external-provisioner", "NFS_SERVER=192.168.11.54", "NFS_PATH=/mnt/inspurfs"}

func TestNFSSubdirDefaults(t *testing.T) {
	got, err := config.FromNFSSubdir(nil, of(article...), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.Standby, want.HTTP.Listen = true, ""
	want.Pools = []config.Pool{{
		Name: "share", Provisioner: "k8s-sigs.io/nfs-subdir-external-provisioner", Adopt: config.AdoptNFSSubdir,
		Subdir:     &config.Subdir{Server: "192.168.11.54", Path: "/mnt/inspurfs", Root: "/persistentvolumes"},
		ExportPath: "/mnt/inspurfs",
		Defaults:   config.Defaults{Mode: 0o777, OnDelete: volume.OnDeleteArchive, Existing: volume.ExistingReuse},
		Archives:   config.Archives{Beside: true},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNFSSubdirEnvironmentAndFlags(t *testing.T) {
	c, err := config.FromNFSSubdir(
		[]string{"-root=/mnt/x/", "--cluster", "west", "-http-listen=:9421", "-log-level=debug", "-workers=7", "-kube-qps=3", "-kube-burst=5", "-v=5", "-logtostderr", "-stderrthreshold=INFO"},
		of(append(article, "NFS_PATH=/mnt//nfs/", "KUBECONFIG=/root/.kube/config", "ENABLE_LEADER_ELECTION=false")...), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Subdir{Server: "192.168.11.54", Path: "/mnt/nfs", Root: "/mnt/x", Cluster: "west"}
	if diff := cmp.Diff(want, c.Pools[0].Subdir); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	k := c.Kubernetes
	if c.Standby || k.Kubeconfig != "/root/.kube/config" || k.Workers != 7 || k.QPS != 3 || k.Burst != 5 || c.HTTP.Listen != ":9421" || c.Log.Level != "debug" {
		t.Errorf("got %+v", c)
	}
	if time.Duration(k.ScavengeAfter) == 0 || k.FailedRetryThreshold != 0 {
		t.Errorf("kubernetes is %+v", k)
	}
}

func TestNFSSubdirRefusals(t *testing.T) {
	for what, want := range map[string]string{
		"PROVISIONER_NAME=":            "the environment variables PROVISIONER_NAME are not set",
		"NFS_SERVER= NFS_PATH=":        "the environment variables NFS_SERVER, NFS_PATH are not set",
		"ENABLE_LEADER_ELECTION=maybe": `ENABLE_LEADER_ELECTION: "maybe" is neither true nor false`,
		"NFS_PATH=export":              `subdir.path: "export" is not a clean absolute path`,
		"NFS_SERVER=nas:/export":       `subdir.server: "nas:/export" is neither`,
		"PROVISIONER_NAME=a/b/c":       "is not a name like",
		"-cluter=x":                    `did you mean "cluster"?`,
		"-root=relative":               "subdir.root",
		"serve":                        `unexpected argument "serve"`,
	} {
		env, args := slices.Clone(article), []string(nil)
		for word := range strings.FieldsSeq(what) {
			if word[0] >= 'A' && word[0] <= 'Z' {
				env = append(env, word)
			} else {
				args = append(args, word)
			}
		}
		if _, err := config.FromNFSSubdir(args, of(env...), io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want one with %q", what, err, want)
		}
	}
	var usage strings.Builder
	if _, err := config.FromNFSSubdir([]string{"--help"}, of(), &usage); !errors.Is(err, flag.ErrHelp) || !strings.Contains(usage.String(), "NFS_SERVER") {
		t.Errorf("--help: %v, %q", err, usage.String())
	}
}

const articleDeployment = `apiVersion: apps/v1
kind: Deployment
spec:
  template:
    spec:
      containers:
      - name: nfs-client-provisioner
        image: IMAGE
        env:
        - {name: PROVISIONER_NAME, value: k8s-sigs.io/nfs-subdir-external-provisioner}
        - {name: NFS_SERVER, value: 192.168.11.54}
        - {name: NFS_PATH, value: /mnt/inspurfs}
`

func TestConvertedNFSSubdirIsTheDropIn(t *testing.T) {
	want, err := config.FromNFSSubdir(nil, of(article...), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range []string{
		"nfs-subdir-external-provisioner:latest", "registry.example.com:5000/nfs-subdir-external-provisioner@sha256:00",
		"quay.io/external_storage/nfs-client-provisioner:v3.1.0", "mine",
	} {
		m, err := config.NFSSubdirManifest([]byte(strings.Replace(articleDeployment, "IMAGE", image, 1)))
		if err != nil {
			t.Errorf("%s: %v", image, err)
			continue
		}
		text, err := config.ConvertNFSSubdir(m, of("NFS_SERVER=other"), io.Discard)
		if err != nil {
			t.Errorf("%s: %v", image, err)
			continue
		}
		got, err := config.Parse(text)
		got.Standby = strings.Contains(string(text), "berth serve --config FILE --standby\n")
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: error %v (-drop-in +converted):\n%s\nconverted:\n%s", image, err, diff, text)
		}
	}
	if text, err := config.ConvertNFSSubdir(config.Manifest{}, of(article...), io.Discard); err != nil || !strings.Contains(string(text), "server: 192.168.11.54\n") {
		t.Errorf("from the environment: error %v\n%s", err, text)
	}
}

func TestManifestsOfNFSSubdirThatAreRefused(t *testing.T) {
	unknown := strings.Replace(articleDeployment, "value: 192.168.11.54", "valueFrom: {configMapKeyRef: {name: nfs, key: server}}", 1)
	m, err := config.NFSSubdirManifest([]byte(unknown))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := config.ConvertNFSSubdir(m, of(article...), io.Discard); err == nil || !strings.Contains(err.Error(), "what NFS_SERVER is, the manifest does not say") {
		t.Errorf("got error %v\n%s", err, text)
	}
	if m, err := config.NFSSubdirManifest([]byte("kind: Pod\nspec: {containers: [{image: nfs-provisioner, args: [-provisioner=x]}]}")); err == nil {
		t.Errorf("found %+v", m)
	}
	lacks := strings.Replace(articleDeployment, "NFS_PATH", "PATH", 1)
	lacks = strings.Replace(lacks, "IMAGE", "nfs-subdir-external-provisioner", 1)
	if m, err = config.NFSSubdirManifest([]byte(lacks)); err != nil {
		t.Fatal(err)
	}
	if text, err := config.ConvertNFSSubdir(m, of(article...), io.Discard); err == nil || !strings.Contains(err.Error(), "NFS_PATH are not set") {
		t.Errorf("got error %v\n%s", err, text)
	}
}

func TestEveryFlagOfNFSSubdirIsDocumented(t *testing.T) {
	var usage strings.Builder
	if _, err := config.FromNFSSubdir([]string{"-help"}, of(), &usage); err == nil {
		t.Fatal("-help is no error to the caller")
	}
	page, err := os.ReadFile("../../docs/nfs-subdir.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(usage.String()) {
		if name, found := strings.CutPrefix(line, "  -"); found {
			if name = strings.Fields(name)[0]; !strings.Contains(string(page), "`-"+name+"`") {
				t.Errorf("docs/nfs-subdir.md does not tell of -%s", name)
			}
		}
	}
	for _, name := range []string{"PROVISIONER_NAME", "NFS_SERVER", "NFS_PATH", "KUBECONFIG", "ENABLE_LEADER_ELECTION"} {
		if !strings.Contains(string(page), "| `"+name+"` |") {
			t.Errorf("docs/nfs-subdir.md does not tell of %s", name)
		}
	}
}
