package config_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/zfsproperty"
)

// storage is a storage.yml with one provider, in which some text is replaced.
func storage(replace ...string) []byte {
	const text = `---
defaultStorageClass: basic
storageProviders:
  - storageClass: basic
    managementProvider: zfscli
    configuration:
      ssh:
        hostname: nas.example.com
        identity: pvmanager
        privateKeyFile: /etc/pvmanager/id_rsa
        token: some phrase
      nfs:
        hostname: 10.27.100.5
        exportRoot: /exports/openshift/persistentvolumes/basic
      zfs:
        rootPath: zpool/openshift_basic
`
	return []byte(strings.NewReplacer(replace...).Replace(text))
}

func convertPVManager(t *testing.T, m config.PVManager) (config.Config, string) {
	t.Helper()
	text, err := config.ConvertPVManager(m)
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return c, string(text)
}

func TestConvertPVManager(t *testing.T) {
	c, text := convertPVManager(t, config.PVManager{Storage: storage()})
	want := config.Pool{
		Name: "basic", Provisioner: "pvmanager.wimsey.us", Classes: []string{"basic"}, Adopt: "openshift-pvmanager", Exporter: "zfsshare", ReclaimPolicy: "Delete",
		PVNameFormat: "{sc}-{pvmanager.wimsey.us/pvc-namespace}-{pvmanager.wimsey.us/pvc-name}-{PVMANAGER-PV-TAG}",
		ZFS: &config.ZFS{
			Dataset: "zpool/openshift_basic", Server: "10.27.100.5", Sizing: volume.SizingQuota, ShareOptions: "inherit", OnClones: "wait", VolumeType: "nfs",
			ClaimAnnotations: zfsproperty.UsualAnnotations(),
			SSH: &config.SSH{
				Host: "nas.example.com", Port: 22, User: "pvmanager", KeyFile: "/etc/pvmanager/id_rsa", Passphrase: "some phrase", KnownHosts: "/etc/berth/ssh/known_hosts",
			},
		},
		Defaults: config.Defaults{Mode: 0o755, OnDelete: "delete", Existing: "refuse"},
	}
	if diff := cmp.Diff([]config.Pool{want}, c.Pools); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if c.HTTP.Listen != ":9421" {
		t.Errorf("the probes of its pod find nothing at %s", c.HTTP.Listen)
	}
	for _, note := range []string{
		"ssh-keyscan -p 22 nas.example.com", "zpool/openshift_basic has to be mounted at /exports/openshift/persistentvolumes/basic", "annotate storageclass basic", "A secret stands in this file",
	} {
		if !strings.Contains(text, note) {
			t.Errorf("no note says %q:\n%s", note, text)
		}
	}
}

func TestConvertPVManagerValues(t *testing.T) {
	for name, c := range map[string]struct {
		replace []string
		want    func(p *config.Pool)
	}{
		"password": {[]string{"        privateKeyFile: /etc/pvmanager/id_rsa\n", ""}, func(p *config.Pool) {
			p.ZFS.SSH.KeyFile, p.ZFS.SSH.Passphrase, p.ZFS.SSH.Password = "", "", "some phrase"
		}},
		"inline key":      {[]string{"privateKeyFile: /etc/pvmanager/id_rsa", "privateKey: \"a\\nb\\n\""}, func(p *config.Pool) { p.ZFS.SSH.KeyFile, p.ZFS.SSH.Key = "", "a\nb\n" }},
		"relative key":    {[]string{"/etc/pvmanager/id_rsa", ".ssh/id_rsa"}, func(p *config.Pool) { p.ZFS.SSH.KeyFile = "/etc/berth/ssh/id_rsa" }},
		"no token":        {[]string{"        token: some phrase\n", ""}, func(p *config.Pool) { p.ZFS.SSH.Passphrase = "" }},
		"empty token":     {[]string{"token: some phrase", "token:"}, func(p *config.Pool) { p.ZFS.SSH.Passphrase = "" }},
		"port":            {[]string{"identity:", "port: 2222\n        identity:"}, func(p *config.Pool) { p.ZFS.SSH.Port = 2222 }},
		"root":            {[]string{"identity:", "becomeRoot: true\n        identity:"}, func(p *config.Pool) { p.ZFS.SSH.BecomeRoot = true }},
		"root, as before": {[]string{"rootPath:", "becomeRoot: true\n        rootPath:"}, func(p *config.Pool) { p.ZFS.SSH.BecomeRoot = true }},
		"as before":       {[]string{"managementProvider: zfscli\n    configuration:", "managementProvider: NFS\n    pvNamePrefix: basic-\n    configuration:\n      identity: {privateKey: }\n      provider: zfs"}, func(*config.Pool) {}},
		"slash":           {[]string{"openshift_basic\n", "openshift_basic/\n"}, func(*config.Pool) {}},
		"IGNORE":          {[]string{"rootPath:", "quotaMode: IGNORE\n        rootPath:"}, func(p *config.Pool) { p.ZFS.Sizing = "ignore" }},
		"reservation":     {[]string{"rootPath:", "quotaMode: reservation\n        rootPath:"}, func(p *config.Pool) { p.ZFS.Sizing = "reservation" }},
		"RESERVE":         {[]string{"rootPath:", "quotaMode: RESERVE\n        rootPath:"}, func(p *config.Pool) { p.ZFS.Sizing = "reservation" }},
		"both":            {[]string{"rootPath:", "quotaMode: both\n        rootPath:"}, func(p *config.Pool) { p.ZFS.Sizing = "both" }},
		"bare mode":       {[]string{"rootPath:", "unixMode: 0777 # for all\n        rootPath:"}, func(p *config.Pool) { p.Defaults.Mode = 0o777 }},
		"quoted mode":     {[]string{"rootPath:", "unixMode: \"775\"\n        rootPath:"}, func(p *config.Pool) { p.Defaults.Mode = 0o775 }},
		"retain":          {[]string{"managementProvider:", "reclaimPolicy: Retain\n    managementProvider:"}, func(p *config.Pool) { p.ReclaimPolicy = "Retain" }},
		"names": {[]string{"managementProvider:", "pvNameFormat: \"{pvmanager.wimsey.us/pvc-name}-{PVMANAGER-PV-TAG}\"\n    managementProvider:"}, func(p *config.Pool) {
			p.PVNameFormat = "{pvmanager.wimsey.us/pvc-name}-{PVMANAGER-PV-TAG}"
		}},
		"names of the class":   {[]string{"managementProvider:", "pvNameFormat: \"{storage-class}-{PVMANAGER-PV-TAG}\"\n    managementProvider:"}, func(p *config.Pool) { p.PVNameFormat = "{sc}-{PVMANAGER-PV-TAG}" }},
		"names that cannot be": {[]string{"managementProvider:", "pvNameFormat: basic-{pvmanager.wimsey.us/pvc-name}\n    managementProvider:"}, func(p *config.Pool) { p.PVNameFormat = "" }},
		"class with dots":      {[]string{"storageClass: basic", "storageClass: fast.example"}, func(p *config.Pool) { p.Name, p.Classes = "fast-example", []string{"fast.example"} }},
		"nothing blocked":      {[]string{"defaultStorageClass: basic", "blockedAnnotations: []"}, func(p *config.Pool) { p.ZFS.ClaimAnnotations = zfsproperty.Annotations() }},
		"blocked for all and for one": {
			[]string{"defaultStorageClass: basic", "blockedAnnotations: [blocksize, compression, exec, setuid, logbias, snapdir, sync]", "managementProvider:", "blockedAnnotations: [reclaim-policy, checksum]\n    managementProvider:"},
			func(p *config.Pool) { p.ZFS.ClaimAnnotations = []string{"atime", "casesensitive", "clone-from"} },
		},
	} {
		t.Run(name, func(t *testing.T) {
			want, _ := convertPVManager(t, config.PVManager{Storage: storage()})
			c.want(&want.Pools[0])
			got, text := convertPVManager(t, config.PVManager{Storage: storage(c.replace...)})
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s\n%s", diff, text)
			}
		})
	}
}

// provider is the text of the only one.
func provider() string {
	_, text, _ := strings.Cut(string(storage()), "storageProviders:\n")
	return text
}

// Several providers of one class are tried in the order of the file, by pools in that order.
func TestConvertSeveralProviders(t *testing.T) {
	second := strings.NewReplacer("zpool/openshift_basic", "other/openshift", "nas.example.com", "nas2.example.com", "10.27.100.5", "10.27.100.6").Replace(provider())
	// One that differs from the first by its class only.
	third := strings.Replace(provider(), "storageClass: basic", "storageClass: ssd", 1)
	c, _ := convertPVManager(t, config.PVManager{Storage: append(storage(), second+third...)})
	if len(c.Pools) != 2 || c.Pools[0].Name != "basic" || c.Pools[1].Name != "basic-2" || c.Pools[1].ZFS.Server != "10.27.100.6" {
		t.Fatalf("the pools are %+v", c.Pools)
	}
	for i, want := range [][]string{{"basic", "ssd"}, {"basic"}} {
		if diff := cmp.Diff(want, c.Pools[i].Classes); diff != "" {
			t.Errorf("classes of pool %d (-want +got):\n%s", i, diff)
		}
	}
	// Two pools cannot have one parent.
	third = strings.Replace(third, "managementProvider:", "reclaimPolicy: Retain\n    managementProvider:", 1)
	if text, err := config.ConvertPVManager(config.PVManager{Storage: append(storage(), third...)}); err == nil || !strings.Contains(err.Error(), "lie in each other") {
		t.Errorf("error %v, converted to:\n%s", err, text)
	}
}

func TestConvertPVManagerFromItsConfigMap(t *testing.T) {
	indented := regexp.MustCompile(`(?m)^`).ReplaceAllString(string(storage()), "    ")
	text := "---\nkind: Namespace\nmetadata: {name: ops}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: pvmanager-config\ndata:\n  storage.yml: |\n" + indented +
		"\n  application.properties: |\n    kubernetes.service.validatessl=false\n"
	want, _ := convertPVManager(t, config.PVManager{Storage: storage()})
	got, printed := convertPVManager(t, config.PVManager{Storage: []byte(text)})
	if diff := cmp.Diff(want, got); diff != "" || !strings.Contains(printed, "always checks who the API server is") {
		t.Errorf("(-want +got):\n%s\n%s", diff, printed)
	}
	if _, err := config.ConvertPVManager(config.PVManager{Storage: []byte("kind: ConfigMap\ndata: {a: b}")}); err == nil || !strings.Contains(err.Error(), "has no storage.yml") {
		t.Errorf("of another ConfigMap: error %v", err)
	}
}

func TestConvertPVManagerRefuses(t *testing.T) {
	for want, replace := range map[string][]string{
		"there are no storageProviders":             {provider(), "", "storageProviders:", "storageProviders: []"},
		"storageClass is missing":                   {"storageClass: basic", "storageClass:"},
		"does not speak the API of FreeNAS":         {"managementProvider: zfscli", "managementProvider: freenas"},
		"managementProvider: \"NFS\" is not zfscli": {"managementProvider: zfscli", "managementProvider: NFS"},
		"with Recycle openshift-pvmanager deletes":  {"managementProvider:", "reclaimPolicy: Recycle\n    managementProvider:"},
		"zfs.quotaMode: \"most\"":                   {"rootPath:", "quotaMode: most\n        rootPath:"},
		"zfs.unixMode: \"99\"":                      {"rootPath:", "unixMode: 99\n        rootPath:"},
		"unknown field":                             {"rootPath:", "rootpaht: a\n        rootPath:"},
		"zfs.dataset":                               {"zpool/openshift_basic", ""},
		"zfs.ssh.host":                              {"hostname: nas.example.com", "hostname: -oProxyCommand=x"},
	} {
		if text, err := config.ConvertPVManager(config.PVManager{Storage: storage(replace...)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q; converted to:\n%s", err, want, text)
		}
	}
}

func TestApplicationProperties(t *testing.T) {
	_, text := convertPVManager(t, config.PVManager{Storage: storage(), Properties: []byte(`
# The cluster.
spring.application.name=pvmanager
kubernetes.service.scheme=https
kubernetes.service.host=openshift.default.svc.cluster.local
kubernetes.service.username=
kubernetes.service.validatessl = false
kubernetes.pollsleepms=500
storage.configuration=config/storage.yml
distributed.mode.disabled=true
colour=blue
`)})
	for note, times := range map[string]int{
		"# kubernetes.service.*: in a pod": 1, "# validatessl=false": 1, "# distributed.mode.*": 1, "# colour: is unknown here": 1, "username": 0, "pollsleepms": 0, "spring": 0, "storage.configuration": 0,
	} {
		if n := strings.Count(text, note); n != times {
			t.Errorf("%q is there %d times, want %d:\n%s", note, n, times, text)
		}
	}
}
