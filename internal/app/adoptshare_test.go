package app

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/volume"
)

// newShareBefore is a share of nfs-subdir-external-provisioner and the API server of its
// cluster, with a class that says nothing.
func newShareBefore(t *testing.T) *before {
	t.Helper()
	b := newBefore(t)
	b.root = t.TempDir()
	b.classes = []any{map[string]any{"metadata": map[string]string{"name": "nfs-client"}, "provisioner": "example.com/share"}}
	return b
}

// addAt makes a volume at a path of the share.
func (b *before) addAt(id int, at, class string) {
	b.t.Helper()
	if err := os.MkdirAll(filepath.Join(b.root, at), 0o777); err != nil {
		b.t.Fatal(err)
	}
	b.pvs = append(b.pvs, map[string]any{
		"metadata": map[string]any{"name": fmt.Sprintf("pvc-%d", id), "annotations": map[string]string{"pv.kubernetes.io/provisioned-by": "example.com/share"}},
		"spec": map[string]any{
			"storageClassName": class, "persistentVolumeReclaimPolicy": "Delete",
			"capacity": map[string]string{"storage": "1Mi"}, "nfs": map[string]string{"server": "nas", "path": "/vol/share/" + at},
			"claimRef": map[string]string{"namespace": "team", "name": "data", "uid": fmt.Sprint(id)},
		},
	})
}

func (b *before) shareConfig() config.Config {
	c := newConfig(b.t)
	c.Kubernetes.Master = b.url
	c.Pools = []config.Pool{{
		Name: "share", Provisioner: "example.com/share", ExportPath: "/vol/share", Adopt: config.AdoptNFSSubdir,
		Subdir:   &config.Subdir{Server: "nas", Path: "/vol/share", Root: b.root},
		Defaults: config.Defaults{Mode: 0o777, OnDelete: volume.OnDeleteArchive, Existing: volume.ExistingReuse},
	}}
	return c
}

// open opens the share as its cluster does.
func (b *before) open() *dir.Backend {
	b.t.Helper()
	d, err := dir.Open(b.t.Context(), b.root, dir.Options{Cluster: "cluster-1"})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { d.Close() })
	return d
}

func TestAdoptCommandOnAShare(t *testing.T) {
	b := newShareBefore(t)
	b.addAt(1, "team/app", "nfs-client")
	b.addAt(2, "team/same", "gone")
	b.addAt(3, "team/same", "nfs-client")
	const warning = "pvc-2: warning: its StorageClass gone is gone\n    its data stays when its claim is deleted\n"
	const lines = "pvc-1: %[1]s: claim team/data, 1048576 bytes, team/app, on deletion: archive\n" +
		"pvc-2: %[1]s: claim team/data, 1048576 bytes, team/same, shared, on deletion: retain\n" +
		"pvc-3: %[1]s: claim team/data, 1048576 bytes, team/same, shared, on deletion: archive\n" + warning +
		"3 %[1]s, 0 before, 0 left alone, 0 directories without a PersistentVolume\n"
	for _, o := range []struct {
		AdoptOptions
		want string
	}{
		{AdoptOptions{Program: config.AdoptNFSSubdir, DryRun: true}, fmt.Sprintf(lines, "to be adopted")},
		{AdoptOptions{Program: config.AdoptNFSSubdir, Pool: "share"}, fmt.Sprintf(lines, "adopted")},
		{AdoptOptions{Program: config.AdoptNFSSubdir}, "pvc-1: adopted before\npvc-2: adopted before\npvc-3: adopted before\n" +
			"0 adopted, 3 before, 0 left alone, 0 directories without a PersistentVolume\n"},
	} {
		var out bytes.Buffer
		err := Adopt(t.Context(), b.shareConfig(), o.AdoptOptions, &out)
		// First it says that the share is being opened.
		_, got, _ := strings.Cut(out.String(), "is being opened\n")
		if o.DryRun {
			got = out.String()
		}
		if diff := cmp.Diff(o.want, got); diff != "" || err != nil {
			t.Errorf("%+v: error %v (-want +got):\n%s", o.AdoptOptions, err, diff)
		}
		if _, err := os.Stat(filepath.Join(b.root, ".berth")); (err != nil) != o.DryRun {
			t.Errorf("%+v: Berth's folder: %v", o.AdoptOptions, err)
		}
	}
}

func TestAdoptCommandOnAShareThatIsServed(t *testing.T) {
	b := newShareBefore(t)
	b.open()
	var out bytes.Buffer
	if err := Adopt(t.Context(), b.shareConfig(), AdoptOptions{Program: config.AdoptNFSSubdir}, &out); err == nil || !strings.Contains(err.Error(), "is in use by process") {
		t.Errorf("got error %v, printed %s", err, out.String())
	}
}

// The user ends it while it waits for a share that is not there.
func TestAdoptCommandEndsWhileItWaits(t *testing.T) {
	b := newShareBefore(t)
	c := b.shareConfig()
	c.Pools[0].Subdir.Root = filepath.Join(b.root, "missing")
	ctx, cancel := context.WithCancel(t.Context())
	out := &stopWhenAllLogged{cancel: cancel, texts: []string{"missing does not exist"}}
	if err := Adopt(ctx, c, AdoptOptions{Program: config.AdoptNFSSubdir}, out); err == nil {
		t.Error("it says that all is adopted")
	}
}

func TestAdoptCommandWantsAPoolOfItsKind(t *testing.T) {
	dirs := newConfig(t, t.TempDir())
	shares := newShareBefore(t).shareConfig()
	for _, c := range []struct {
		config  config.Config
		program string
	}{{dirs, config.AdoptNFSSubdir}, {shares, config.AdoptNFSProvisioner}, {dirs, config.AdoptPVManager}} {
		var out bytes.Buffer
		if err := Adopt(t.Context(), c.config, AdoptOptions{Program: c.program}, &out); err == nil || !strings.Contains(err.Error(), "no pool is of the kind") {
			t.Errorf("got error %v", err)
		}
	}
	shares.Pools[0].Subdir.Root = ""
	var out bytes.Buffer
	if err := Adopt(t.Context(), shares, AdoptOptions{Program: config.AdoptNFSSubdir, DryRun: true}, &out); err == nil || !strings.Contains(err.Error(), "subdir.root does not say") {
		t.Errorf("got error %v", err)
	}
}

// The first start waits for the API server, adopts, and later ones do not.
func TestFirstStartAdoptsOnAShare(t *testing.T) {
	b := newShareBefore(t)
	b.away, b.refuse = 1, "/apis/storage.k8s.io/v1/storageclasses"
	b.addAt(1, "team/app", "nfs-client")
	b.addAt(2, "team/gone", "gone")
	b.addAt(3, "team/app/inside", "nfs-client")
	serve := func(texts ...string) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		out := &stopWhenAllLogged{cancel: cancel, texts: texts}
		if err := Serve(ctx, b.shareConfig(), out); err != nil {
			t.Errorf("got error %v", err)
		}
	}
	serve("waiting for the API server, to know which cluster this is", "cannot adopt volumes yet; claims are not served before", "persistentVolume=pvc-1 err=", "nobody knows what is to become of the data of a volume",
		`msg="adopted volumes of nfs-subdir-external-provisioner" component=adoption pool=share volumes=2 before=0 leftAlone=1`)
	backend := b.open()
	name, err := volume.ParseName("pvc-3")
	if err != nil {
		t.Fatal(err)
	}
	v, err := backend.Get(t.Context(), name)
	if err != nil || v.OnDelete != volume.OnDeleteArchive || v.Path.String() != "team/app/inside" || v.Cluster != "cluster-1" {
		t.Errorf("record %+v, %v", v, err)
	}
	account, err := backend.Adoption()
	if err != nil || account.From != config.AdoptNFSSubdir || account.Adopted != 2 || account.Left != 1 {
		t.Errorf("account %+v, %v", account, err)
	}
	if err := backend.Close(); err != nil {
		t.Fatal(err)
	}

	b.addAt(4, "later", "nfs-client")
	serve("waiting for the API server; NFS") // by the front end, which comes after that
	if _, err := os.Stat(filepath.Join(b.root, ".berth/clusters/cluster-1/volumes/pvc-4.json")); err == nil {
		t.Error("the second start adopted")
	}
}
