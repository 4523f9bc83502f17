package adopt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

const identity = "0bd4bbcd-0a5d-4b5c-8b21-7a1c1a2c8f5e"

// world is an export folder of nfs-provisioner and the PersistentVolumes of a cluster.
type world struct {
	t      *testing.T
	folder string
	config string // vfs.conf
	pvs    []PV
	o      Options
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, folder: t.TempDir(), config: base}
	w.o = Options{ExportPath: "/export", Cluster: "cluster-1", Taken: map[export.ID]string{}}
	write(t, w.folder, identityFile, identity)
	return w
}

// add makes a volume as nfs-provisioner does: directory, export, PersistentVolume.
func (w *world) add(n int) *PV {
	w.t.Helper()
	name := fmt.Sprintf("pvc-%d", n)
	if err := os.Mkdir(filepath.Join(w.folder, name), 0o777); err != nil {
		w.t.Fatal(err)
	}
	w.config += ganeshaBlock(fmt.Sprint(n), "/export/"+name, "no_root_squash")
	w.pvs = append(w.pvs, newPV(n))
	return &w.pvs[len(w.pvs)-1]
}

func newPV(n int) PV {
	name := fmt.Sprintf("pvc-%d", n)
	return PV{
		Name: name, Path: "/export/" + name, Size: 1 << 20, Reclaim: volume.ReclaimDelete, Identity: identity, ExportID: fmt.Sprint(n),
		Claim:       volume.Claim{Namespace: "team", Name: "data-" + fmt.Sprint(n), UID: fmt.Sprint(n)},
		Created:     time.Date(2020, 2, 3, 4, 5, 6, 7, time.UTC),
		ExportBlock: ganeshaBlock(fmt.Sprint(n), "/export/"+name, "no_root_squash"),
	}
}

func (w *world) state() *State {
	w.t.Helper()
	write(w.t, w.folder, ganeshaFile, w.config)
	return read(w.t, w.folder, "")
}

func (w *world) open() *dir.Backend {
	w.t.Helper()
	b, err := dir.Open(w.t.Context(), w.folder, dir.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { b.Close() })
	return b
}

// plan plans with the folder as it is, without touching it.
func (w *world) plan() (Report, error) {
	w.t.Helper()
	view, err := dir.OpenView(w.folder, "")
	if err != nil {
		w.t.Fatal(err)
	}
	defer view.Close()
	return Plan(w.t.Context(), view, w.state(), w.pvs, w.o)
}

// summary says what becomes of each PersistentVolume and directory.
func summary(r Report) (lines []string) {
	for _, v := range r.Adopt {
		lines = append(lines, v.Name.String()+" adopt")
	}
	for _, v := range r.Already {
		lines = append(lines, v.Name.String()+" already")
	}
	for _, f := range r.Left {
		lines = append(lines, f.PV+" left")
	}
	for _, name := range r.Unclaimed {
		lines = append(lines, name+" unclaimed")
	}
	return lines
}

func wantSummary(t *testing.T, r Report, err error, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, summary(r)); diff != "" || err != nil {
		t.Errorf("error %v (-want +got):\n%s\nleft alone: %v", err, diff, r.Left)
	}
}

func TestAdopting(t *testing.T) {
	w := newWorld(t)
	w.add(1)
	kept := w.add(7)
	kept.Reclaim, kept.Size = volume.ReclaimRetain, 3<<20
	if err := os.Chmod(filepath.Join(w.folder, "pvc-7"), os.ModeSetgid|0o071); err != nil {
		t.Fatal(err)
	}
	w.config = strings.Replace(w.config, "Squash = no_root_squash", "Squash = root_id_squash", 1)
	w.pvs[0].ExportBlock = ganeshaBlock("1", "/export/pvc-1", "root_id_squash")
	b := w.open()
	r, err := Run(t.Context(), b, w.state(), w.pvs, w.o)
	wantSummary(t, r, err, "pvc-1 adopt", "pvc-7 adopt")
	if r.LastID != 7 {
		t.Errorf("the last id is %d, want 7", r.LastID)
	}
	uid, gid := uint32(os.Getuid()), uint32(os.Getgid())
	for _, want := range []volume.Volume{
		{
			Size: 1 << 20, Reclaim: volume.ReclaimDelete, Claim: volume.Claim{Namespace: "team", Name: "data-1", UID: "1"},
			Owner:  volume.Owner{UID: uid, GID: gid, Mode: 0o755},
			Export: volume.ExportRef{ID: 1, FSID: export.NumberFSID(1), Path: "/export/pvc-1", Squash: export.SquashRoot},
		},
		{
			Size: 3 << 20, Reclaim: volume.ReclaimRetain, Claim: volume.Claim{Namespace: "team", Name: "data-7", UID: "7"},
			Owner:  volume.Owner{UID: uid, GID: gid, Mode: 0o2071},
			Export: volume.ExportRef{ID: 7, FSID: export.NumberFSID(7), Path: "/export/pvc-7", Squash: export.SquashNone},
		},
	} {
		name, err := volume.ParseName(filepath.Base(want.Export.Path))
		if err != nil {
			t.Fatal(err)
		}
		want.Name, want.Path, want.Dir, want.Cluster = name, name.RelPath(), filepath.Join(w.folder, name.String()), "cluster-1"
		want.State, want.Published, want.Rev, want.Origin = volume.StateReady, true, 1, "nfs-provisioner"
		want.Created = time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)
		got, err := b.Get(t.Context(), name)
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(volume.Name{}, volume.RelPath{})); diff != "" {
			t.Errorf("record of %s (-want +got):\n%s", name, diff)
		}
	}
	// Once more changes nothing.
	r, err = Run(t.Context(), b, w.state(), w.pvs, w.o)
	wantSummary(t, r, err, "pvc-1 already", "pvc-7 already")
}

func TestPlanningTouchesNothing(t *testing.T) {
	w := newWorld(t)
	w.add(1)
	r, err := w.plan()
	wantSummary(t, r, err, "pvc-1 adopt")
	entries, err := os.ReadDir(w.folder)
	if err != nil || len(entries) != 3 { // the volume and nfs-provisioner's two files
		t.Errorf("in the folder are %v, %v", entries, err)
	}
	b := w.open()
	if _, err = Run(t.Context(), b, w.state(), w.pvs, w.o); err != nil {
		t.Fatal(err)
	}
	// Beside a Berth that works there, too.
	r, err = w.plan()
	wantSummary(t, r, err, "pvc-1 already")
}

// A run may be cut off anywhere; the next one goes on.
func TestAdoptingGoesOn(t *testing.T) {
	w := newWorld(t)
	for n := range 3 {
		w.add(n + 1)
	}
	b := w.open()
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Run(ctx, cutOff{b, cancel}, w.state(), w.pvs, w.o)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v", err)
	}
	r, err := Run(t.Context(), b, w.state(), w.pvs, w.o)
	wantSummary(t, r, err, "pvc-2 adopt", "pvc-3 adopt", "pvc-1 already")
}

// cutOff is a pool whose user is gone after the first volume.
type cutOff struct {
	*dir.Backend
	cancel func()
}

func (c cutOff) Adopt(ctx context.Context, v volume.Volume) (volume.Volume, error) {
	defer c.cancel()
	return c.Backend.Adopt(ctx, v)
}

// Whatever a PersistentVolume says, nothing but its own directory is adopted, and
// nothing but that PersistentVolume is left alone.
func TestPersistentVolumesThatAreNotWhatTheySeem(t *testing.T) {
	outside := t.TempDir()
	for what, spoil := range map[string]func(w *world, pv *PV){
		"path ../":                 func(_ *world, pv *PV) { pv.Path = "/export/../etc" },
		"path .":                   func(_ *world, pv *PV) { pv.Path = "/export/." },
		"the root":                 func(_ *world, pv *PV) { pv.Path = "/export" },
		"the root of all":          func(_ *world, pv *PV) { pv.Path = "/" },
		"path elsewhere":           func(_ *world, pv *PV) { pv.Path = "/etc" },
		"relative path":            func(_ *world, pv *PV) { pv.Path = "export/pvc-1" },
		"path below":               func(_ *world, pv *PV) { pv.Path = "/export/pvc-1/sub" },
		"path with a slash more":   func(_ *world, pv *PV) { pv.Path = "/export//pvc-1" },
		"path of another":          func(_ *world, pv *PV) { pv.Path = "/export/pvc-2" },
		"path of Berth's":          func(_ *world, pv *PV) { pv.Path = "/export/.berth" },
		"Berth's own folder":       func(_ *world, pv *PV) { pv.Name, pv.Path = ".berth", "/export/.berth" },
		"a name of two elements":   func(_ *world, pv *PV) { pv.Name, pv.Path = "pvc-1/..", "/export" },
		"not by NFS":               func(_ *world, pv *PV) { pv.Path = "" },
		"a block with braces":      func(_ *world, pv *PV) { pv.ExportBlock += "EXPORT { Export_Id = 9; Path = /etc; }" },
		"a block of another path":  func(_ *world, pv *PV) { pv.ExportBlock = newPV(2).ExportBlock },
		"a block of another id":    func(_ *world, pv *PV) { pv.ExportBlock = strings.ReplaceAll(pv.ExportBlock, "1;", "3;") },
		"a block that is no block": func(_ *world, pv *PV) { pv.ExportBlock = "%include /etc/shadow" },
		"a line of another path":   func(_ *world, pv *PV) { pv.ExportBlock = "/etc *(rw,insecure,no_root_squash,fsid=1)" },
		"no export anywhere":       func(w *world, pv *PV) { pv.ExportBlock, w.config = "", base },
		"Export_Id 0":              func(_ *world, pv *PV) { pv.ExportID = "0" },
		"Export_Id 152":            func(_ *world, pv *PV) { pv.ExportID = "152" },
		"Export_Id 70000":          func(_ *world, pv *PV) { pv.ExportID = "70000" },
		"Export_Id -1":             func(_ *world, pv *PV) { pv.ExportID = "-1" },
		"Export_Id 01":             func(_ *world, pv *PV) { pv.ExportID = "01" },
		"Export_Id text":           func(_ *world, pv *PV) { pv.ExportID = "1; Path = /" },
		"Export_Id missing":        func(_ *world, pv *PV) { pv.ExportID = "" },
		"Export_Id of another":     func(_ *world, pv *PV) { pv.ExportID, pv.ExportBlock = "2", "" },
		"Export_Id of no other":    func(_ *world, pv *PV) { pv.ExportID, pv.ExportBlock = "99", "" },
		"no identity":              func(_ *world, pv *PV) { pv.Identity = "" },
		"another's identity":       func(_ *world, pv *PV) { pv.Identity = "11111111-2222-4333-8444-555555555555" },
		"no claim":                 func(_ *world, pv *PV) { pv.Claim = volume.Claim{} },
		"no size":                  func(_ *world, pv *PV) { pv.Size = 0 },
		"an export changed by hand": func(w *world, _ *PV) {
			w.config = strings.Replace(w.config, "Access_Type = RW;\n\tSquash", "Access_Type = RO;\n\tSquash", 1)
		},
		"its id is another pool's": func(w *world, _ *PV) { w.o.Taken[1] = "fast/pvc-0" },
		"no directory":             func(w *world, _ *PV) { must(w.t, os.Remove(filepath.Join(w.folder, "pvc-1"))) },
		"a link out of the folder": func(w *world, _ *PV) {
			must(w.t, os.Remove(filepath.Join(w.folder, "pvc-1")))
			must(w.t, os.Symlink(outside, filepath.Join(w.folder, "pvc-1")))
		},
		"a link to another volume": func(w *world, _ *PV) {
			must(w.t, os.Remove(filepath.Join(w.folder, "pvc-1")))
			must(w.t, os.Symlink("pvc-2", filepath.Join(w.folder, "pvc-1")))
		},
		"a file": func(w *world, _ *PV) {
			must(w.t, os.Remove(filepath.Join(w.folder, "pvc-1")))
			write(w.t, w.folder, "pvc-1", "")
		},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			w.add(1)
			w.add(2)
			spoil(w, &w.pvs[0])
			name := w.pvs[0].Name
			b := w.open()
			r, err := Run(t.Context(), b, w.state(), w.pvs, w.o)
			want := []string{"pvc-2 adopt", name + " left"}
			if name != "pvc-1" {
				want = append(want, "pvc-1 unclaimed")
			}
			wantSummary(t, r, err, want...)
			for _, f := range r.Left {
				if f.Do == "" || strings.Contains(f.String(), "%!") {
					t.Errorf("what to do is not said: %s", f)
				}
			}
			for v, err := range b.List(t.Context()) {
				if err != nil || v.Name.String() != "pvc-2" {
					t.Errorf("there is a record of %s, %v", v.Name, err)
				}
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTwoWithOneExportID(t *testing.T) {
	w := newWorld(t)
	w.add(1)
	w.add(2)
	second := newPV(2)
	second.ExportID, second.ExportBlock = "1", ganeshaBlock("1", "/export/pvc-2", "no_root_squash")
	w.pvs[1] = second
	// vfs.conf knows only of the first one.
	w.config = base + ganeshaBlock("1", "/export/pvc-1", "no_root_squash")
	r, err := w.plan()
	wantSummary(t, r, err, "pvc-1 adopt", "pvc-2 left")
	// Of neither.
	w.config = base
	r, err = w.plan()
	wantSummary(t, r, err, "pvc-1 left", "pvc-2 left")
}

// A lost vfs.conf is no reason to lose the volumes.
func TestAdoptingByAnnotationsAlone(t *testing.T) {
	w := newWorld(t)
	w.add(1)
	kernel := w.add(2)
	kernel.ExportBlock = "\n/export/pvc-2 *(rw,insecure,root_squash,fsid=2)\n"
	w.config = base
	r, err := w.plan()
	wantSummary(t, r, err, "pvc-1 adopt", "pvc-2 adopt")
	if got := r.Adopt[1].Export.Squash; got != export.SquashRoot {
		t.Errorf("squash %s, want root", got)
	}
}

// The first version had no identities.
func TestAdoptingFromTheFirstVersion(t *testing.T) {
	w := newWorld(t)
	must(t, os.Remove(filepath.Join(w.folder, identityFile)))
	w.add(1)
	w.add(2)
	w.add(3)
	for i := range w.pvs {
		w.pvs[i].Identity = ""
	}
	w.pvs[1].Identity = identity                                           // of another server, a later version
	w.config = base + ganeshaBlock("1", "/export/pvc-1", "no_root_squash") // the third is another server's
	r, err := w.plan()
	wantSummary(t, r, err, "pvc-1 adopt", "pvc-2 left", "pvc-3 left")
	for _, f := range r.Left {
		if !f.Other() {
			t.Errorf("%s is not told to be another server's: %s", f.PV, f)
		}
	}
}

func TestBerthsOwnVolumesAreInTheWay(t *testing.T) {
	w := newWorld(t)
	b := w.open()
	own := volumetest.Spec(t, "pvc-own")
	own.Export.ID = 1 // which pvc-1 has too
	if _, err := b.Create(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	same := volumetest.Spec(t, "pvc-2")
	same.Export.ID = 99
	if _, err := b.Create(t.Context(), same); err != nil {
		t.Fatal(err)
	}
	w.add(1)
	w.pvs = append(w.pvs, newPV(2))
	w.add(3)
	r, err := w.plan()
	wantSummary(t, r, err, "pvc-3 adopt", "pvc-1 left", "pvc-2 left")
}

func TestWhatNobodyNames(t *testing.T) {
	w := newWorld(t)
	w.add(1)
	for _, name := range []string{"pvc-released", "lost+found", "music", "v4recov"} {
		must(t, os.Mkdir(filepath.Join(w.folder, name), 0o700))
	}
	must(t, os.Symlink("music", filepath.Join(w.folder, "link")))
	w.config += ganeshaBlock("500", "/export/pvc-released", "no_root_squash")
	b := w.open()
	r, err := Run(t.Context(), b, w.state(), w.pvs, w.o)
	wantSummary(t, r, err, "pvc-1 adopt", "music unclaimed", "pvc-released unclaimed")
	if r.LastID != 500 {
		t.Errorf("the last id is %d: that of a directory that is left alone would be given out", r.LastID)
	}
}

func TestADamagedRecordStopsAdopting(t *testing.T) {
	w := newWorld(t)
	w.add(1)
	w.open()
	write(t, filepath.Join(w.folder, ".berth", "volumes"), "pvc-9.json", "{")
	if r, err := w.plan(); err == nil {
		t.Errorf("planned %v", summary(r))
	}
}

func TestTenThousand(t *testing.T) {
	w := newWorld(t)
	const n = 10_000
	for i := range n {
		if i+1 != reservedID {
			w.pvs = append(w.pvs, newPV(i+1))
		}
	}
	slices.Reverse(w.pvs)
	r, err := w.plan() // their directories are missing: this is about the time
	if err != nil || len(r.Left) != n-1 || r.Left[0].PV != "pvc-1" {
		t.Errorf("%d are left alone, want %d; error %v", len(r.Left), n-1, err)
	}
}
