package config_test

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/config"
)

const minimal = `
pools:
- name: local
  provisioner: example.com/nfs
  dir: {root: /srv/berth}
`

func TestMinimalFileGetsDefaults(t *testing.T) {
	got, err := config.Parse([]byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.Pools = []config.Pool{{
		Name: "local", Provisioner: "example.com/nfs", Dir: &config.Dir{Root: "/srv/berth", Quota: config.QuotaAuto}, Exporter: config.ExporterGanesha,
		ExportPath: "/local", Defaults: config.Defaults{Mode: 0o777, OnDelete: "delete", Existing: "refuse"},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got.Ganesha.NFSv3 {
		t.Error("NFSv3 is on in a new pool")
	}
}

func TestMinimalShareGetsDefaults(t *testing.T) {
	got, err := config.Parse([]byte("pools: [{name: nas, provisioner: x/y, subdir: {server: 10.0.0.1, path: /}}]"))
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.Pools = []config.Pool{{
		Name: "nas", Provisioner: "x/y", Subdir: &config.Subdir{Server: "10.0.0.1", Path: "/"}, ExportPath: "/",
		Defaults: config.Defaults{Mode: 0o770, OnDelete: "delete", Existing: "refuse"},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestServersOfShares(t *testing.T) {
	for server, valid := range map[string]bool{
		"nas": true, "nas.example.com.": true, "NAS_1": true, "10.0.0.1": true, "fd00::1": true, "[fd00::1]": true,
		"": false, "-nas": false, "nas,": false, "nas:/share": false, "nas nas": false, "na/s": false, "[nas]": false,
	} {
		_, err := config.Parse([]byte(fmt.Sprintf("pools: [{name: nas, provisioner: x/y, subdir: {server: %q, path: /share}}]", server)))
		if (err == nil) != valid {
			t.Errorf("%q: got error %v", server, err)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]config.Size{
		"0": 0, "1000": 1000, `"1000"`: 1000, "1k": 1000, "1Ki": 1024, "10Gi": 10 << 30, "7Ei": 7 << 60, "9223372036854775807": math.MaxInt64,
		"8Ei": -1, "-1": -1, "1.5Gi": -1, "1GiB": -1, "Gi": -1, "1 Gi": -1, "1kk": -1, "1ki": -1, "true": -1, "[1]": -1,
	} {
		c, err := config.Parse([]byte("pools: [{name: a, provisioner: x/y, dir: {root: /srv/a}, archives: {maxSize: " + text + "}}]"))
		switch {
		case want < 0 && err == nil:
			t.Errorf("%s is read as %d", text, c.Pools[0].Archives.MaxSize)
		case want < 0:
		case err != nil || c.Pools[0].Archives.MaxSize != want:
			t.Errorf("%s: got %d, error %v, want %d", text, c.Pools[0].Archives.MaxSize, err, want)
		default:
			wantRoundTrip(t, c)
		}
	}
}

func TestQuota(t *testing.T) {
	for text, want := range map[string]config.Quota{
		"": config.QuotaAuto, "auto": config.QuotaAuto, "required": config.QuotaRequired,
		"off": config.QuotaOff, `"off"`: config.QuotaOff, // without quotes it is YAML's word for false
	} {
		c, err := config.Parse([]byte("pools: [{name: a, provisioner: x/y, dir: {root: /srv/a, quota: " + text + "}}]"))
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if got := c.Pools[0].Dir.Quota; got != want {
			t.Errorf("%q is read as %q, want %q", text, got, want)
		}
	}
}

// The samples that the documentation shows are files, read here.
func TestSamples(t *testing.T) {
	for _, file := range glob(t, "../../docs/samples/*.yaml") {
		if _, err := config.Load(file); err != nil {
			t.Errorf("%v", err)
		}
	}
}

func TestInvalidSamples(t *testing.T) {
	for _, file := range glob(t, "testdata/invalid/*.yaml") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(text), "\n")
		want, ok := strings.CutPrefix(first, "# error: ")
		if !ok {
			t.Fatalf("%s does not begin with \"# error: \"", file)
		}
		if _, err := config.Load(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want one with %q", filepath.Base(file), err, want)
		}
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no file matches %s (%v)", pattern, err)
	}
	return files
}

func TestNFSProvisionerDefaults(t *testing.T) {
	c, err := config.FromNFSProvisioner(nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	p := c.Pools[0]
	if p.Provisioner != "example.com/nfs" || p.Dir.Root != "/export" || p.ExportPath != "/export" ||
		p.Defaults.Mode != 0o777 || p.Defaults.RootSquash || p.Dir.Quota != config.QuotaOff {
		t.Errorf("pool is %+v", p)
	}
	if !c.Ganesha.NFSv3 || time.Duration(c.Ganesha.GracePeriod) != 90*time.Second || c.Ganesha.Port != 2049 {
		t.Errorf("ganesha is %+v", c.Ganesha)
	}
	if c.Kubernetes.FailedRetryThreshold != 10 {
		t.Errorf("kubernetes is %+v", c.Kubernetes)
	}
}

func TestNFSProvisionerFlags(t *testing.T) {
	for _, dash := range []string{"-", "--"} {
		var args []string
		for _, a := range []string{
			"provisioner=acme.io/x", "master=http://127.0.0.1:8080", "kubeconfig=/k", "run-server=true", "use-ganesha=true",
			"grace-period=0", "root-squash", "failed-retry-threshold=3", "server-hostname=nfs.acme.io",
			"export-subnet=10.0.0.0/8,192.168.7.0/24", "max-exports=50", "leader-elect=true", "gid-range=5000-5999", "enable-xfs-quota",
		} {
			args = append(args, dash+a)
		}
		c, err := config.FromNFSProvisioner(args, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if c.Pools[0].Provisioner != "acme.io/x" || !c.Pools[0].Defaults.RootSquash || c.Ganesha.GracePeriod != 0 ||
			c.Kubernetes.Master != "http://127.0.0.1:8080" || c.Kubernetes.Kubeconfig != "/k" ||
			c.Kubernetes.FailedRetryThreshold != 3 || c.Server.Hostname != "nfs.acme.io" ||
			!slices.Equal(c.Pools[0].Clients, []string{"10.0.0.0/8", "192.168.7.0/24"}) || c.Pools[0].MaxVolumes != 50 || c.Pools[0].GIDRange != "5000-5999" ||
			c.Pools[0].Dir.Quota != config.QuotaRequired {
			t.Errorf("%sflags gave %+v", dash, c)
		}
	}
}

// "On the host": the server is the host's own, either of the two.
func TestNFSProvisionerOnTheHost(t *testing.T) {
	for _, c := range []struct {
		useGanesha, exporter string
		external             bool
	}{{"true", config.ExporterGanesha, true}, {"false", config.ExporterKernel, true}} {
		args := []string{"-run-server=false", "-use-ganesha=" + c.useGanesha, "-export-root=/srv/x", "-export-subnet=10.0.0.0/8", "-nfs-listen=10.0.0.1", "-nfs-port=3049"}
		got, err := config.FromNFSProvisioner(args, io.Discard)
		if err != nil {
			t.Errorf("%s: %v", args, err)
			continue
		}
		p := got.Pools[0]
		if p.Exporter != c.exporter || p.ExportPath != "/srv/x" || !got.Ganesha.External || got.Kernel.Address != "10.0.0.1:3049" || got.Ganesha.Address() != "10.0.0.1:3049" {
			t.Errorf("%s gave pool %+v, ganesha %+v, kernel %+v", args, p, got.Ganesha, got.Kernel)
		}
	}
}

func TestKernelPoolsAreExportedByTheirPaths(t *testing.T) {
	c, err := config.Parse([]byte("pools: [{name: a, provisioner: x/y, dir: {root: /srv/a}, exporter: kernel}]"))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Pools[0].ExportPath; got != "/srv/a" {
		t.Errorf("exportPath is %s, want that of the root", got)
	}
}

func TestNFSProvisionerRefusals(t *testing.T) {
	for args, want := range map[string]string{
		"-use-ganesha=false":                                           "-run-server needs -use-ganesha",
		"-run-server=false -grace-period=10":                           "-grace-period can only be set if",
		"-grace-period=181":                                            "0 to 180",
		"-grace-period=-1":                                             "0 to 180",
		"-run-server=false -use-ganesha=false -grace-period=10":        "-grace-period can only be set if",
		"-run-server=false -use-ganesha=false -enable-xfs-quota=maybe": "invalid boolean value",
		"-failed-retry-threshold=-1":                                   "below 0",
		"-max-exports=0":                                               "no volume at all",
		"-export-subnet=10.1.0.0/8":                                    "10.0.0.0/8 is meant",
		"-export-subnet=":                                              "neither an IP address",
		"-gid-range=5":                                                 "not a range",
		"-provisioner=a/b/c":                                           "is not a name like",
		"-provisoner=x":                                                `did you mean "provisioner"?`,
		"serve":                                                        `unexpected argument "serve"`,
		"-log-level=loud":                                              "none of debug",
		"-export-root=relative":                                        "clean absolute path",
		"-nfs-port=0":                                                  "not a port",
		"-nfs-listen=localhost -root-squash=1":                         "not an IP address",
	} {
		_, err := config.FromNFSProvisioner(strings.Fields(args), io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want one with %q", args, err, want)
		}
	}
	var usage strings.Builder
	if _, err := config.FromNFSProvisioner([]string{"--help"}, &usage); !errors.Is(err, flag.ErrHelp) || !strings.Contains(usage.String(), "-root-squash") {
		t.Errorf("--help: %v, %q", err, usage.String())
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(minimal))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := config.Parse(text)
		if err == nil && c.Validate() != nil {
			t.Errorf("accepted what is not valid: %+v", c)
		}
	})
}

// The list that the first version of nfs-provisioner took is one of Berth's.
func TestStaticDirectoriesOfNFSProvisioner(t *testing.T) {
	c, err := config.Parse([]byte(`pools: [{name: a, provisioner: x/y, dir: {root: /srv/a}, static: [{"path":"/home","capacity":"1Mi"},{"path":"/srv/My_Data.d","capacity":"10Gi","readOnly":true}]}]`))
	if err != nil {
		t.Fatal(err)
	}
	want := []config.Static{
		{Path: "/home", ExportPath: "/home", Capacity: "1Mi", Name: "home", AccessModes: []string{"ReadWriteMany"}},
		{Path: "/srv/My_Data.d", ExportPath: "/srv/My_Data.d", Capacity: "10Gi", Name: "srv-my-data-d", AccessModes: []string{"ReadOnlyMany"}, ReadOnly: true},
	}
	if diff := cmp.Diff(want, c.Pools[0].Static); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
