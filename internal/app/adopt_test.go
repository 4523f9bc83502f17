package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
)

const oldIdentity = "0bd4bbcd-0a5d-4b5c-8b21-7a1c1a2c8f5e"

// before is an export folder of nfs-provisioner and the API server of its cluster.
type before struct {
	t    *testing.T
	root string
	pvs  []any
	// Those of nfs-subdir-external-provisioner.
	classes []any
	away    int    // how many requests are not answered
	refuse  string // a path of which one request is not answered
	mu      sync.Mutex
	seen    []string
	url     string
}

func newBefore(t *testing.T) *before {
	t.Helper()
	b := &before{t: t, root: t.TempDir()}
	b.write("nfs-provisioner.identity", oldIdentity)
	b.write("vfs.conf", "NFS_Core_Param\n{\n\tMNT_Port = 20048;\n\tfsid_device = true;\n}\n")
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	b.url = server.URL
	return b
}

func (b *before) write(name, text string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.root, name), []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// add makes a volume with a PersistentVolume, of which edit may change annotations.
func (b *before) add(id int, edit func(annotations map[string]string)) {
	b.t.Helper()
	name := fmt.Sprintf("pvc-%d", id)
	dir := filepath.Join(b.root, name)
	if err := os.Mkdir(dir, 0o777); err != nil {
		b.t.Fatal(err)
	}
	annotations := map[string]string{
		"pv.kubernetes.io/provisioned-by": "example.com/nfs", "Provisioner_Id": oldIdentity, "Export_Id": fmt.Sprint(id),
		"EXPORT_block": fmt.Sprintf("\n%s *(rw,insecure,no_root_squash,fsid=%d)\n", dir, id),
	}
	if edit != nil {
		edit(annotations)
	}
	b.pvs = append(b.pvs, map[string]any{
		"metadata": map[string]any{"name": name, "annotations": annotations},
		"spec": map[string]any{
			"capacity": map[string]string{"storage": "1Mi"}, "nfs": map[string]string{"server": "nfs", "path": dir},
			"claimRef":                      map[string]string{"namespace": "team", "name": "data", "uid": fmt.Sprint(id)},
			"persistentVolumeReclaimPolicy": "Delete",
		},
	})
}

// ServeHTTP is the API server.
func (b *before) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = append(b.seen, r.URL.Path)
	refused := b.refuse == r.URL.Path
	if refused {
		b.refuse = ""
	}
	if len(b.seen) <= b.away || refused {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	var answer map[string]any
	switch r.URL.Path {
	case "/api/v1/persistentvolumes":
		answer = map[string]any{"kind": "PersistentVolumeList", "apiVersion": "v1", "items": b.pvs}
	case "/apis/storage.k8s.io/v1/storageclasses":
		answer = map[string]any{"kind": "StorageClassList", "apiVersion": "storage.k8s.io/v1", "items": b.classes}
	case "/api/v1/namespaces/kube-system":
		answer = map[string]any{"kind": "Namespace", "apiVersion": "v1", "metadata": map[string]string{"name": "kube-system", "uid": "cluster-1"}}
	default:
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		b.t.Error(err)
	}
}

func (b *before) config() config.Config {
	c := newConfig(b.t, b.root)
	c.Kubernetes.Master = b.url
	c.Pools[0].ExportPath, c.Pools[0].Adopt = b.root, config.AdoptNFSProvisioner
	return c
}

// app is one whose pools are open.
func (b *before) app(c config.Config) *app {
	b.t.Helper()
	a := &app{config: c, log: slog.New(slog.DiscardHandler)}
	var err error
	if a.client, err = newClient(c.Kubernetes); err != nil {
		b.t.Fatal(err)
	}
	e := &exporter{}
	if e.ids, err = export.OpenIDs(filepath.Join(b.t.TempDir(), "ids")); err != nil {
		b.t.Fatal(err)
	}
	for _, p := range c.Pools {
		d := open(b.t, p.Dir.Root)
		a.pools = append(a.pools, &pool{config: p, root: p.Dir.Root, backend: d, dir: d, exporter: e})
	}
	return a
}

func TestAdoptCommand(t *testing.T) {
	b := newBefore(t)
	b.add(1, nil)
	for _, o := range []struct {
		AdoptOptions
		want string
	}{
		{AdoptOptions{Program: config.AdoptNFSProvisioner, DryRun: true}, "pvc-1: to be adopted: claim team/data, 1048576 bytes, export 1\n1 to be adopted, 0 before, 0 left alone, 0 directories without a PersistentVolume\n"},
		{AdoptOptions{Program: config.AdoptNFSProvisioner, Pool: "a"}, "pvc-1: adopted: claim team/data, 1048576 bytes, export 1\n1 adopted, 0 before, 0 left alone, 0 directories without a PersistentVolume\n"},
		{AdoptOptions{Program: config.AdoptNFSProvisioner}, "pvc-1: adopted before\n0 adopted, 1 before, 0 left alone, 0 directories without a PersistentVolume\n"},
	} {
		var out bytes.Buffer
		err := Adopt(t.Context(), b.config(), o.AdoptOptions, &out)
		if diff := cmp.Diff(o.want, out.String()); diff != "" || err != nil {
			t.Errorf("%+v: error %v (-want +got):\n%s", o.AdoptOptions, err, diff)
		}
		if _, err := os.Stat(filepath.Join(b.root, ".berth")); (err != nil) != o.DryRun {
			t.Errorf("%+v: Berth's folder: %v", o.AdoptOptions, err)
		}
	}
}

func TestAdoptCommandTellsWhatIsLeftAlone(t *testing.T) {
	b := newBefore(t)
	b.add(1, func(annotations map[string]string) { annotations["Export_Id"] = "0" })
	b.add(2, nil)
	b.add(3, func(annotations map[string]string) { annotations["Provisioner_Id"] = "other" }) // which is no failure
	if err := os.Mkdir(filepath.Join(b.root, "stray"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.write("projects", "nonsense")
	var out bytes.Buffer
	err := Adopt(t.Context(), b.config(), AdoptOptions{Program: config.AdoptNFSProvisioner}, &out)
	if err == nil || err.Error() != "1 PersistentVolumes are left alone; see above" {
		t.Errorf("got error %v", err)
	}
	for _, want := range []string{
		"warning: ", "pvc-2: adopted: ", "pvc-1: left alone: annotation Export_Id: ", "pvc-3: left alone: another server made it",
		"directory stray: left alone: no PersistentVolume names it", "1 adopted, 0 before, 2 left alone, 1 directories",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not said in:\n%s", want, out.String())
		}
	}
}

func TestAdoptCommandChoosesThePool(t *testing.T) {
	c := newConfig(t, t.TempDir(), t.TempDir())
	for name, want := range map[string]string{"": "say which pool: a, b", "c": `there is no pool "c"`} {
		if err := Adopt(t.Context(), c, AdoptOptions{Program: config.AdoptNFSProvisioner, Pool: name}, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("pool %q: got error %v, want one with %q", name, err, want)
		}
	}
	b := newBefore(t)
	open(t, b.root)
	if err := Adopt(t.Context(), b.config(), AdoptOptions{Program: config.AdoptNFSProvisioner}, io.Discard); err == nil || !strings.Contains(err.Error(), "is in use by process") {
		t.Errorf("a pool that is being served: got error %v", err)
	}
}

// The first start waits for the API server, adopts, and later ones do not.
func TestFirstStartAdopts(t *testing.T) {
	b := newBefore(t)
	b.away = 1
	b.add(1, nil)
	b.add(40, func(annotations map[string]string) { annotations["EXPORT_block"] = "}" })
	a := b.app(b.config())
	if err := a.adopt(t.Context()); err != nil {
		t.Fatal(err)
	}
	name, err := volume.ParseName("pvc-1")
	if err != nil {
		t.Fatal(err)
	}
	v, err := a.pools[0].backend.Get(t.Context(), name)
	if err != nil || v.Cluster != "cluster-1" || v.Export.ID != 1 {
		t.Errorf("record %+v, %v", v, err)
	}
	account, err := a.pools[0].dir.Adoption()
	if err != nil || account.Identity != oldIdentity || account.Adopted != 1 || account.Left != 1 || account.LastID != 40 || !account.DeviceFSIDs {
		t.Errorf("account %+v, %v", account, err)
	}
	// A new volume must not get the id of what is left alone.
	if id, err := a.pools[0].exporter.ids.Take(); id != 41 || err != nil {
		t.Errorf("a new volume gets the export id %d, %v; want 41", id, err)
	}

	asked := len(b.seen)
	if err := a.adopt(t.Context()); err != nil || len(b.seen) != asked {
		t.Errorf("the second start: %v, requests %v", err, b.seen[asked:])
	}
}

func TestFirstStartEndsWhileItWaits(t *testing.T) {
	b := newBefore(t)
	b.away = 1000
	ctx, cancel := context.WithCancel(t.Context())
	a := b.app(b.config())
	a.log = slog.New(slog.NewTextHandler(cancelling{cancel}, nil))
	if err := a.adopt(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want %v", err, context.Canceled)
	}
	if account, err := a.pools[0].dir.Adoption(); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("it counts as done: %+v, %v", account, err)
	}
}

// cancelling is a log whose first line ends the program.
type cancelling struct{ cancel func() }

func (c cancelling) Write(line []byte) (int, error) {
	c.cancel()
	return len(line), nil
}

func TestNothingIsAdoptedUnasked(t *testing.T) {
	b := newBefore(t)
	b.add(1, nil)
	c := b.config()
	c.Pools[0].Adopt = ""
	a := b.app(c)
	var log bytes.Buffer
	a.log = slog.New(slog.NewTextHandler(&log, nil))
	if err := a.adopt(t.Context()); err != nil || len(b.seen) > 0 {
		t.Errorf("error %v, requests %v", err, b.seen)
	}
	if !strings.Contains(log.String(), "berth adopt nfs-provisioner") {
		t.Errorf("the log does not say what to do: %s", log.String())
	}
}

func TestExportIDsOfOtherPoolsAreTaken(t *testing.T) {
	b := newBefore(t)
	b.add(1, nil)
	other := newBefore(t)
	other.add(1, nil)
	c := b.config()
	c.Pools = append(c.Pools, other.config().Pools[0])
	c.Pools[1].Name, c.Pools[1].Provisioner = "b", "example.com/other"
	other.pvs[0].(map[string]any)["metadata"].(map[string]any)["annotations"].(map[string]string)["pv.kubernetes.io/provisioned-by"] = "example.com/other"
	other.pvs[0].(map[string]any)["metadata"].(map[string]any)["name"] = "pvc-1"
	b.pvs = append(b.pvs, other.pvs...)
	a := b.app(c)
	if err := a.adopt(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{1, 0} {
		if account, err := a.pools[i].dir.Adoption(); err != nil || account.Adopted != want {
			t.Errorf("pool %d: %+v, %v; want %d volumes", i, account, err, want)
		}
	}
}

func TestHandlesAreMadeAsBefore(t *testing.T) {
	for _, c := range []struct {
		name       string
		configured *bool
		adopt      string
		account    bool // vfs.conf is gone since it was adopted
		want       bool
	}{
		{"as vfs.conf says", nil, config.AdoptNFSProvisioner, false, true},
		{"as the account says", nil, config.AdoptNFSProvisioner, true, true},
		{"as the account says, by configuration file", nil, "", true, true},
		{"not adopted", nil, "", false, false},
		{"configured", new(false), config.AdoptNFSProvisioner, true, false},
		{"configured otherwise", new(true), "", false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBefore(t)
			cfg := b.config()
			cfg.Pools[0].Adopt, cfg.Ganesha.DeviceBasedFSIDs = config.AdoptNFSProvisioner, c.configured
			a := b.app(cfg)
			if c.account {
				if err := errors.Join(a.adopt(t.Context()), os.Remove(filepath.Join(b.root, "vfs.conf"))); err != nil {
					t.Fatal(err)
				}
			}
			a.pools[0].config.Adopt = c.adopt
			if got, err := a.deviceFSIDs(); got != c.want || err != nil {
				t.Errorf("by device number: %t, %v; want %t", got, err, c.want)
			}
		})
	}
}
