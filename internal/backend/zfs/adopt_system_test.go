//go:build system

package zfs_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/backend/zfs"
	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
	"github.com/berth-storage/berth/test/zfsfuse"
)

const (
	uuid1 = "6b2f9c1e-0a4d-4b7e-9d55-3c8a0f1e2d01"
	uuid2 = "6b2f9c1e-0a4d-4b7e-9d55-3c8a0f1e2d02"
	mega  = 1 << 20
)

// foreign is a volume of another program, as it is to be recorded.
func foreign(t *testing.T, name, path string) volume.Volume {
	t.Helper()
	v := volume.New(volumetest.Spec(t, name), time.Now())
	v.Published, v.Origin, v.Size, v.Sizing = true, "another", 8*mega, volume.SizingQuota
	v.Path = relPath(t, path)
	return v
}

func relPath(t *testing.T, path string) volume.RelPath {
	t.Helper()
	p, err := volume.ParseRelPath(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func adopt(t *testing.T, b *zfs.Backend, v volume.Volume) volume.Volume {
	t.Helper()
	v, err := b.Adopt(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func property(t *testing.T, name, dataset string) string {
	t.Helper()
	return zfsRun(t, "get", "-Hp", "-o", "value", name, dataset)
}

func TestAdoptedDatasetIsAVolume(t *testing.T) {
	for _, local := range []bool{true, false} {
		dataset := parent(t)
		b := open(t, zfs.Options{Dataset: dataset, Local: local})
		at := filepath.Join(b.Root(), "pvc-1")
		zfsRun(t, "create", "-o", "refquota=8388608", "-o", "refreservation=1048576", "-o", "user:note=a b", dataset+"/pvc-1")
		if err := errors.Join(os.Chmod(at, os.ModeSetgid|0o775), os.Chown(at, 7, 8), os.WriteFile(filepath.Join(at, "file"), []byte("data"), 0o644)); err != nil {
			t.Fatal(err)
		}
		found, err := b.Look(t.Context(), relPath(t, "pvc-1"))
		if err != nil {
			t.Fatal(err)
		}
		want := volume.Found{Dir: at, Properties: map[string]string{
			"refquota": "8388608", "refreservation": "1048576", "quota": "0", "reservation": "0", "user:note": "a b",
		}}
		if local {
			want.Owner = volume.Owner{UID: 7, GID: 8, Mode: 0o775}
		}
		found.Owner.Mode &= 0o777 // a change of the owner takes away set-id bits
		if diff := cmp.Diff(want, found); diff != "" {
			t.Errorf("found (-want +got):\n%s", diff)
		}
		v := adopt(t, b, foreign(t, "pvc-1", "pvc-1"))
		if v.Limit != zfs.Limit || v.State != volume.StateReady || v.Dir != at || v.Rev != 1 {
			t.Errorf("adopted as %+v", v)
		}
		got, err := b.Get(t.Context(), v.Name)
		if diff := cmp.Diff(v, got, cmp.AllowUnexported(volume.Name{}, volume.RelPath{})); diff != "" || err != nil {
			t.Errorf("the record, %v (-adopted +read):\n%s", err, diff)
		}
		if text, err := os.ReadFile(filepath.Join(at, "file")); err != nil || string(text) != "data" {
			t.Errorf("its file reads %q, %v", text, err)
		}
		if _, err := b.Adopt(t.Context(), foreign(t, "pvc-1", "pvc-1")); !errors.Is(err, volume.ErrExists) {
			t.Errorf("adopted again: error %v", err)
		}
		if _, err := b.Adopt(t.Context(), foreign(t, "pvc-2", "pvc-1")); !errors.Is(err, volume.ErrExists) {
			t.Errorf("adopted under another name: error %v", err)
		}
		v.Size = 16 * mega
		if _, err := b.Update(t.Context(), v); err != nil || property(t, "refquota", dataset+"/pvc-1") != "16777216" {
			t.Errorf("grown: refquota %s, %v", property(t, "refquota", dataset+"/pvc-1"), err)
		}
		if err := errors.Join(b.Discard(t.Context(), v.Name), b.Purge(t.Context(), v.Name)); err != nil {
			t.Error(err)
		}
		if names, err := b.Folders(t.Context()); err != nil || len(names) > 0 {
			t.Errorf("left are %v, %v", names, err)
		}
	}
}

// Whatever the pool's own share is, clients go on to mount what they had mounted before.
func TestAdoptedDatasetsAreSharedAsBefore(t *testing.T) {
	dataset := parent(t)
	b := open(t, zfs.Options{Dataset: dataset, Local: true, Share: "rw"})
	var want []export.Export
	for name, share := range map[string]string{"pvc-1": "ro", "pvc-2": "off"} {
		zfsRun(t, "create", dataset+"/"+name)
		_, _ = zfsfuse.Run("zfs", "set", "sharenfs="+share, dataset+"/"+name) // zfs-fuse has nobody to share by, and says so
		v := foreign(t, name, name)
		v.Share = share
		want = append(want, adopt(t, b, v).AsExport(export.Clients{}))
	}
	if err := b.Sharer().Sync(t.Context(), want); err != nil {
		t.Error(err)
	}
	for name, share := range map[string]string{"pvc-1": "ro", "pvc-2": "off"} {
		if got := property(t, "sharenfs", dataset+"/"+name); got != share {
			t.Errorf("sharenfs of %s is %s, and was %s", name, got, share)
		}
	}
}

// openshift-pvmanager calls datasets otherwise than PersistentVolumes, and limits them by
// quota. A clone of its stands on a snapshot that nobody would ever destroy.
func TestAdoptedDatasetsOfAnotherName(t *testing.T) {
	dataset := parent(t)
	o := zfs.Options{Dataset: dataset, Local: true}
	b := open(t, o)
	snapshot := dataset + "/" + uuid1 + "@pvmanager-copy-20200102030405006"
	zfsRun(t, "create", "-o", "quota=8388608", "-o", "pvmanager:pvref=source", dataset+"/"+uuid1)
	zfsRun(t, "snapshot", snapshot)
	zfsRun(t, "clone", "-o", "quota=8388608", "-o", "pvmanager:pvref=copy", snapshot, dataset+"/"+uuid2)

	source, clone := foreign(t, "source", uuid1), foreign(t, "copy", uuid2)
	clone.ClonedFrom = source.Name
	found, err := b.Look(t.Context(), clone.Path)
	if err != nil || found.Properties["pvmanager:pvref"] != "copy" || found.Properties["origin"] != snapshot {
		t.Errorf("found %+v, %v", found, err)
	}
	source, clone = adopt(t, b, source), adopt(t, b, clone)
	if source.Limit != "quota" || source.Dir != filepath.Join(b.Root(), uuid1) {
		t.Errorf("adopted as %+v", source)
	}
	if got := property(t, "defer_destroy", snapshot); got != "on" {
		t.Errorf("defer_destroy of the snapshot is %s", got)
	}
	b.Close()
	b = open(t, o) // which has to find them again
	for _, want := range []volume.Volume{source, clone} {
		got, err := b.Get(t.Context(), want.Name)
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(volume.Name{}, volume.RelPath{})); diff != "" || err != nil {
			t.Errorf("the record, %v (-adopted +read):\n%s", err, diff)
		}
	}
	source.Size = 32 * mega
	if _, err := b.Update(t.Context(), source); err != nil || property(t, "quota", dataset+"/"+uuid1) != "33554432" || property(t, "refquota", dataset+"/"+uuid1) != "33554432" {
		t.Errorf("grown: %v, quota %s", err, property(t, "quota", dataset+"/"+uuid1))
	}
	if err := b.Discard(t.Context(), source.Name); err != nil {
		t.Fatal(err)
	}
	if err := b.Purge(t.Context(), source.Name); !errors.Is(err, volume.ErrCloned) {
		t.Errorf("purged before its clone: error %v", err)
	}
	for _, n := range []volume.Name{clone.Name, source.Name} {
		if n == clone.Name {
			if err := b.Discard(t.Context(), n); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Purge(t.Context(), n); err != nil {
			t.Errorf("purging %s: %v", n, err)
		}
	}
	if left := zfsRun(t, "list", "-Hr", "-o", "name", "-t", "filesystem,snapshot", dataset); left != dataset+"\n"+dataset+"/.berth" {
		t.Errorf("left are %q", left)
	}
}

func TestWhatCannotBeAdopted(t *testing.T) {
	dataset := parent(t)
	b := open(t, zfs.Options{Dataset: dataset, Local: true})
	zfsRun(t, "create", dataset+"/unmounted")
	zfsRun(t, "unmount", dataset+"/unmounted")
	zfsRun(t, "create", "-o", "mountpoint=legacy", dataset+"/legacy")
	zfsRun(t, "create", "-o", "canmount=off", dataset+"/folder")
	for path, want := range map[string]error{
		"unmounted": volume.ErrForeign, "legacy": volume.ErrForeign, "folder": volume.ErrForeign, "nothing": volume.ErrNotFound, "folder/deep": volume.ErrForeign,
	} {
		if found, err := b.Look(t.Context(), relPath(t, path)); !errors.Is(err, want) {
			t.Errorf("%s: found %+v, error %v, want %v", path, found, err, want)
		}
		if v, err := b.Adopt(t.Context(), foreign(t, "pvc-1", path)); !errors.Is(err, want) {
			t.Errorf("%s: adopted as %+v, error %v, want %v", path, v, err, want)
		}
	}
	if names, err := b.Folders(t.Context()); err != nil || strings.Join(names, " ") != "folder legacy unmounted" {
		t.Errorf("the datasets are %v, %v", names, err)
	}
	for v, err := range b.List(t.Context()) {
		t.Errorf("there is a volume %+v, %v", v, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Look(ctx, relPath(t, "nothing")); errors.Is(err, volume.ErrNotFound) || err == nil {
		t.Errorf("with nobody asked: error %v", err)
	}
}

// A view makes nothing, also not the pool.
func TestLookingAtDatasetsToAdopt(t *testing.T) {
	dataset := parent(t)
	zfsRun(t, "create", dataset+"/pvc-1")
	view, err := zfs.OpenView(t.Context(), zfs.Options{Dataset: dataset, Runner: here, Local: true})
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	names, err := view.Folders(t.Context())
	if err != nil || len(names) != 1 {
		t.Errorf("the datasets are %v, %v", names, err)
	}
	if _, err := view.Look(t.Context(), relPath(t, "pvc-1")); err != nil {
		t.Error(err)
	}
	for v, err := range view.List(t.Context()) {
		t.Errorf("there is a volume %+v, %v", v, err)
	}
	if _, err := view.Adoption(t.Context()); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("the account: error %v", err)
	}
	if all := zfsRun(t, "list", "-Hr", "-o", "name", dataset); all != dataset+"\n"+dataset+"/pvc-1" {
		t.Errorf("there are %q", all)
	}
}

func TestTheAccountOfAnAdoption(t *testing.T) {
	o := zfs.Options{Dataset: parent(t), Local: true}
	b := open(t, o)
	if _, err := b.Adoption(t.Context()); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("before: error %v", err)
	}
	want := zfs.Adoption{From: "another", Finished: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Adopted: 2, Left: 1}
	if err := b.SetAdoption(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	b.Close()
	b = open(t, o)
	if got, err := b.Adoption(t.Context()); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	zfsRun(t, "set", "berth:adoption={", o.Dataset+"/.berth")
	if _, err := b.Adoption(t.Context()); err == nil || errors.Is(err, volume.ErrNotFound) {
		t.Errorf("one that cannot be read: error %v", err)
	}
}

// cut loses the connection at one command: before it was run, or after.
type cut struct {
	at    int
	after bool
	ran   int
}

var errCut = errors.New("the connection was lost")

func (c *cut) Output(ctx context.Context, argv []string) ([]byte, error) {
	c.ran++
	if c.ran == c.at && !c.after {
		return nil, errCut
	}
	out, err := here.Output(ctx, argv)
	if c.ran == c.at {
		return nil, errCut
	}
	return out, err
}

// Whenever an adoption is cut off, the next one adopts, or has it already.
func TestAdoptionThatIsCutOff(t *testing.T) {
	for at := 1; ; at++ {
		done := false
		for _, after := range []bool{false, true} {
			dataset := parent(t)
			zfsRun(t, "create", dataset+"/"+uuid1)
			zfsRun(t, "snapshot", dataset+"/"+uuid1+"@pvmanager-copy-1")
			zfsRun(t, "clone", dataset+"/"+uuid1+"@pvmanager-copy-1", dataset+"/"+uuid2)
			runner := &cut{after: after}
			b := open(t, zfs.Options{Dataset: dataset, Runner: runner})
			runner.ran, runner.at = 0, at
			v := foreign(t, "copy", uuid2)
			v.ClonedFrom = foreign(t, "source", uuid1).Name
			_, err := b.Adopt(t.Context(), v)
			if done = err == nil; done {
				break
			}
			if !errors.Is(err, volume.ErrUnknown) {
				t.Errorf("cut off at command %d (after it: %t): error %v, want %v", at, after, err, volume.ErrUnknown)
			}
			if _, err := b.Adopt(t.Context(), v); err != nil && !errors.Is(err, volume.ErrExists) {
				t.Errorf("after it was cut off at command %d (after it: %t): %v", at, after, err)
			}
			if got, err := b.Get(t.Context(), v.Name); err != nil || got.Path != v.Path || property(t, "defer_destroy", dataset+"/"+uuid1+"@pvmanager-copy-1") != "on" {
				t.Errorf("then there is %+v, %v", got, err)
			}
		}
		if done {
			if at < 4 {
				t.Errorf("it was cut off at %d commands only", at-1)
			}
			return
		}
	}
}

// Volumes are shared as their parent is, if the pool is to do that.
func TestSharedAsTheParent(t *testing.T) {
	dataset := parent(t)
	o := zfs.Options{Dataset: dataset, Local: true, Share: zfs.ShareInherit, Runner: here}
	if _, err := zfs.Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "zfs set sharenfs=on "+dataset) {
		t.Errorf("with a parent that is not shared: error %v", err)
	}
	// zfs-fuse has nobody to share by, says so, and has set the property.
	if out, err := zfsfuse.Run("zfs", "set", "sharenfs=ro", dataset); err == nil || property(t, "sharenfs", dataset) != "ro" {
		t.Fatalf("sharenfs is %s: %s, %v", property(t, "sharenfs", dataset), out, err)
	}
	b := open(t, o)
	_, _ = b.Create(t.Context(), volumetest.Spec(t, "pvc-1")) // it is not shared
	if got := zfsRun(t, "get", "-H", "-o", "value,source", "sharenfs", dataset+"/pvc-1"); got != "ro\tlocal" {
		t.Errorf("sharenfs of a volume is %q", got)
	}
}
