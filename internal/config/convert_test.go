package config_test

import (
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/config"
)

func wantRoundTrip(t *testing.T, c config.Config) string {
	t.Helper()
	text, err := config.Format(c)
	if err != nil {
		t.Fatal(err)
	}
	got, err := config.Parse(text)
	if err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	if diff := cmp.Diff(c, got); diff != "" {
		t.Errorf("after it was written and read (-want +got):\n%s\nwritten:\n%s", diff, text)
	}
	return string(text)
}

func TestFormattedSamplesSayTheSame(t *testing.T) {
	samples, err := filepath.Glob("../../docs/samples/*.yaml")
	if err != nil || len(samples) == 0 {
		t.Fatalf("samples %v, %v", samples, err)
	}
	for _, file := range samples {
		c, err := config.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		wantRoundTrip(t, c)
	}
}

func TestFormatLeavesOutDefaults(t *testing.T) {
	text := wantRoundTrip(t, parse(t, "pools:\n- {name: a, provisioner: example.com/nfs, dir: {root: /srv/a}}\n- {name: b, provisioner: example.com/nfs, dir: {root: /srv/b}, clients: ['*']}"))
	const want = `pools:
- name: a
  provisioner: example.com/nfs
  dir:
    root: /srv/a
- name: b
  provisioner: example.com/nfs
  dir:
    root: /srv/b
  clients: ['*']
`
	if diff := cmp.Diff(want, text); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFormatQuotesWhatNeedsIt(t *testing.T) {
	c := parse(t, "pools:\n- {name: a, provisioner: example.com/nfs, dir: {root: /srv/a}}")
	for _, root := range []string{"/srv/a: b", "/srv/#a", "/srv/'a'", "/srv/a ", "/srv/ä", "/srv/{a}", "/srv/a,b]"} {
		c.Pools[0].Dir.Root = root
		wantRoundTrip(t, c)
	}
}

func parse(t *testing.T, text string) config.Config {
	t.Helper()
	c, err := config.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What convert prints is what the drop-in does, whatever its flags.
func TestConvertedFlagsAreTheDropIns(t *testing.T) {
	for _, args := range [][]string{
		nil,
		{"-provisioner=example.org/other"},
		{"-master=http://127.0.0.1:8080"},
		{"-kubeconfig=/root/.kube/config"},
		{"-run-server=true", "-use-ganesha=true", "-leader-elect"},
		{"-run-server=false"}, {"-run-server=false", "-use-ganesha=false"},
		{"-grace-period=0"}, {"-grace-period=180"}, {"--grace-period", "30"},
		{"-root-squash"},
		{"-enable-xfs-quota"},
		{"-failed-retry-threshold=0"},
		{"-export-subnet=10.0.0.0/8"}, {"-export-subnet=10.0.0.0/8,192.168.1.7"},
		{"-max-exports=7"}, {"-max-exports=-3"},
		{"-device-based-fsids"}, {"-device-based-fsids=false"},
		{"-server-hostname=nfs.example.com"},
		{"-export-root=/srv/nfs"}, {"-export-root=/srv/nfs", "-export-path=/export"}, {"-export-path=/other/"}, {"-gid-range=5000-5999"}, {"-run-dir=/run/other"}, {"-nfs-listen=10.0.0.1"}, {"-nfs-port=3049"},
		{"-http-listen=:9421"}, {"-workers=7"}, {"-kube-qps=0.5", "-kube-burst=3"}, {"-log-level=debug"}, {"-standby"},
	} {
		want, err := config.FromNFSProvisioner(args, io.Discard)
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		text, err := config.ConvertNFSProvisioner(config.Manifest{Args: args}, io.Discard)
		if err != nil {
			t.Errorf("%v: %v", args, err)
			continue
		}
		got, err := config.Parse(text)
		got.Standby = strings.Contains(string(text), "berth serve --config FILE --standby\n")
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%v: error %v (-drop-in +converted):\n%s\nconverted:\n%s", args, err, diff, text)
		}
	}
}

func TestConvertRefusesWhatTheDropInRefuses(t *testing.T) {
	if text, err := config.ConvertNFSProvisioner(config.Manifest{Args: []string{"-grace-period=500"}}, io.Discard); err == nil {
		t.Errorf("converted to:\n%s", text)
	}
	var usage strings.Builder
	if _, err := config.ConvertNFSProvisioner(config.Manifest{Args: []string{"-help"}}, &usage); !errors.Is(err, flag.ErrHelp) || usage.Len() == 0 {
		t.Errorf("-help: error %v, usage %q", err, usage.String())
	}
}

func TestConvertTellsOfTheEnvironment(t *testing.T) {
	m := config.Manifest{Env: []config.Variable{{Name: "POD_IP"}, {Name: "MY_SERVICE_NAME"}, {Name: "HOME"}}}
	text, err := config.ConvertNFSProvisioner(m, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	const want = "# Berth needs the environment variable POD_IP too.\n# Berth needs the environment variable MY_SERVICE_NAME too, as SERVICE_NAME.\npools:\n"
	if !strings.Contains(string(text), want) {
		t.Errorf("got\n%s\nwant in it\n%s", text, want)
	}
}

func TestManifests(t *testing.T) {
	const pod = `
    containers:
    - name: proxy
      image: example.com/proxy
    - name: nfs-provisioner
      image: quay.io/kubernetes_incubator/nfs-provisioner:v1.0.3
      args: ["-provisioner=$(NAME)", "-grace-period=$$(NAME)$(OTHER)"]
      env:
      - {name: NAME, value: example.org/first}
      - {name: NAME, value: example.org/nfs}
      - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
`
	want := config.Manifest{
		Args: []string{"-provisioner=example.org/nfs", "-grace-period=$(NAME)$(OTHER)"},
		Env:  []config.Variable{{Name: "NAME", Value: "example.org/first"}, {Name: "NAME", Value: "example.org/nfs"}, {Name: "POD_IP", Unknown: true}},
	}
	for what, text := range map[string]string{
		"Deployment": "kind: Service\nspec: {ports: [{port: 2049}]}\n---\nkind: Deployment\nspec:\n  template:\n   spec:" + pod,
		"DaemonSet":  "---\nkind: DaemonSet\nspec:\n  template:\n   spec:" + pod + "\n---\n",
		"Pod":        "kind: Pod\nspec:" + strings.ReplaceAll(pod, "\n  ", "\n"),
		"a List":     "kind: List\nitems:\n- kind: Service\n- kind: Pod\n  spec:" + pod,
	} {
		got, err := config.NFSProvisionerManifest([]byte(text))
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: error %v (-want +got):\n%s", what, err, diff)
		}
	}
}

func TestContainersOfNFSProvisioner(t *testing.T) {
	for spec, want := range map[string]string{
		`{image: "registry.k8s.io/sig-storage/nfs-provisioner:v4.0.8", args: [a]}`:                             "a",
		`{image: nfs-server-provisioner, args: [b]}`:                                                           "b",
		`{image: my/own, args: [--provisioner=c]}`:                                                             "--provisioner=c",
		`{image: my/own, command: [/nfs-provisioner, d], args: [e]}`:                                           "d e",
		`{image: nfs-provisioner, args: [$(X)], env: [{name: X, valueFrom: {fieldRef: {fieldPath: spec.y}}}]}`: "error: container : argument $(X): what X is, the manifest does not say",
		`{image: nfs-provisioner, command: [sh, -c, exec /nfs-provisioner]}`:                                   "error: container : its command is sh",
		`{image: my/nfs-subdir-external-provisioner, args: [x]}`:                                               "error: no Pod",
		`{image: "my/nfs-provisioner@sha256:00", args: [f]}`:                                                   "f",
		`{image: my/own, command: [/nfs-provisioner], args: [a]}, {image: nfs-provisioner}`:                    "error: 2 containers",
		``:     "error: no Pod",
		`1, 2`: "error: error unmarshaling",
	} {
		m, err := config.NFSProvisionerManifest([]byte("kind: Pod\nspec: {containers: [" + spec + "]}"))
		got := strings.Join(m.Args, " ")
		if err != nil {
			got = "error: " + strings.TrimPrefix(err.Error(), "manifest: ")
		}
		if got != want && (!strings.HasPrefix(want, "error: ") || !strings.HasPrefix(got, want)) {
			t.Errorf("%s: got %q, want %q", spec, got, want)
		}
	}
}

// The manifest that nfs-provisioner itself comes with.
func TestManifestOfNFSProvisioner(t *testing.T) {
	text, err := os.ReadFile("../../test/deploy/testdata/nfs-provisioner/provisioner.yaml")
	if err != nil {
		t.Fatal(err)
	}
	m, err := config.NFSProvisionerManifest(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := config.ConvertNFSProvisioner(m, io.Discard); err != nil || len(m.Args) == 0 || len(m.Env) == 0 {
		t.Errorf("%+v: %v", m, err)
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte("kind: Pod\nspec: {containers: [{image: nfs-provisioner, args: [$(X)$$(Y)], env: [{name: X, value: y}]}]}"))
	f.Add([]byte("kind: List\nitems: [{kind: Pod}]\n---\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if m, err := config.NFSProvisionerManifest(text); err != nil && len(m.Args) > 0 {
			t.Errorf("error %v, and %+v", err, m)
		}
	})
}

// What the page on moving shows is what is printed.
func TestConvertedExampleOfThePage(t *testing.T) {
	page, err := os.ReadFile("../../docs/migrate-nfs-provisioner.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(page), "```yaml\n")
	want, _, found := strings.Cut(after, "```\n")
	if !found {
		t.Fatal("there is no example on the page")
	}
	text, err := config.ConvertNFSProvisioner(config.Manifest{Args: []string{"-provisioner=example.com/nfs", "-grace-period=0"}}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	_, got, _ := strings.Cut(string(text), "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-page +printed):\n%s", diff)
	}
}
