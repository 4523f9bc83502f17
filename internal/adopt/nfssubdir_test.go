package adopt

import (
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
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

const nas = "10.0.0.1"

// share is a share on which nfs-subdir-external-provisioner has made directories, and
// the PersistentVolumes of a cluster.
type share struct {
	t    *testing.T
	root string
	pvs  []PV
	from Share
	o    Options
}

func newShare(t *testing.T) *share {
	return &share{t: t, root: t.TempDir(), from: Share{Server: nas}, o: Options{ExportPath: "/share", Cluster: "cluster-1"}}
}

// add makes a volume as the program does: directory and PersistentVolume.
func (s *share) add(n int, at string) *PV {
	s.t.Helper()
	must(s.t, os.MkdirAll(filepath.Join(s.root, at), 0o777))
	s.pvs = append(s.pvs, PV{
		Name: fmt.Sprintf("pvc-%d", n), Server: nas, Path: "/share/" + at, Size: 1 << 20, Reclaim: volume.ReclaimDelete,
		Claim: volume.Claim{Namespace: "team", Name: fmt.Sprintf("data-%d", n), UID: fmt.Sprint(n)},
		Class: "nfs-client", OnDelete: volume.OnDeleteDelete,
		Created: time.Date(2020, 2, 3, 4, 5, 6, 7, time.UTC),
	})
	return &s.pvs[len(s.pvs)-1]
}

func (s *share) open() *dir.Backend {
	s.t.Helper()
	b, err := dir.Open(s.t.Context(), s.root, dir.Options{})
	must(s.t, err)
	s.t.Cleanup(func() { b.Close() })
	return b
}

// plan plans with the share as it is, without touching it.
func (s *share) plan() (Report, error) {
	s.t.Helper()
	view, err := dir.OpenView(s.root, "")
	must(s.t, err)
	defer view.Close()
	return Plan(s.t.Context(), view, s.from, s.pvs, s.o)
}

func TestAdoptingFromAShare(t *testing.T) {
	s := newShare(t)
	s.add(1, "team-data-1-pvc-1")
	archived := s.add(2, "team/app/data")
	archived.OnDelete, archived.Reclaim, archived.Size = volume.OnDeleteArchive, volume.ReclaimRetain, 3<<20
	unclear := s.add(3, "other/data")
	unclear.OnDelete, unclear.OnDeleteErr = "", errors.New("its class is gone")
	must(t, os.Chmod(filepath.Join(s.root, "team/app/data"), os.ModeSetgid|0o775))
	b := s.open()
	r, err := Run(t.Context(), b, s.from, s.pvs, s.o)
	wantSummary(t, r, err, "pvc-1 adopt", "pvc-2 adopt", "pvc-3 adopt")
	if len(r.Kept) != 1 || r.Kept[0].PV != "pvc-3" || !strings.Contains(r.Kept[0].String(), "its class is gone") {
		t.Errorf("kept are %v", r.Kept)
	}
	for i, want := range []volume.Volume{
		{Reclaim: volume.ReclaimDelete},
		{Reclaim: volume.ReclaimRetain, OnDelete: volume.OnDeleteArchive},
		{Reclaim: volume.ReclaimDelete, OnDelete: volume.OnDeleteRetain},
	} {
		pv := s.pvs[i]
		want.Name = parseName(t, pv.Name)
		if want.Path, err = volume.ParseRelPath(strings.TrimPrefix(pv.Path, "/share/")); err != nil {
			t.Fatal(err)
		}
		want.Owner = volume.Owner{UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Mode: 0o755}
		if i == 1 {
			want.Owner.Mode = 0o2775
		}
		want.Size, want.Claim, want.Cluster = pv.Size, pv.Claim, "cluster-1"
		want.Export.Path, want.Dir = pv.Path, want.Path.Below(s.root)
		want.State, want.Published, want.Rev, want.Origin = volume.StateReady, true, 1, "nfs-subdir-external-provisioner"
		want.Created = time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)
		got, err := b.Get(t.Context(), want.Name)
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(volume.Name{}, volume.RelPath{})); diff != "" {
			t.Errorf("record of %s (-want +got):\n%s", pv.Name, diff)
		}
	}
	// Once more changes nothing, also when the class has changed, and somebody mounts one of
	// them by a PersistentVolume of his own.
	s.from.Others = []PV{{Name: "by-hand", Server: nas, Path: "/share/team/app/data"}}
	for i := range s.pvs {
		s.pvs[i].OnDelete, s.pvs[i].OnDeleteErr = volume.OnDeleteDelete, nil
	}
	r, err = Run(t.Context(), b, s.from, s.pvs, s.o)
	wantSummary(t, r, err, "pvc-1 already", "pvc-2 already", "pvc-3 already")
	if v, err := b.Get(t.Context(), parseName(t, "pvc-2")); err != nil || v.OnDelete != volume.OnDeleteArchive {
		t.Errorf("an adopted volume has changed: %+v, %v", v, err)
	}
}

func parseName(t *testing.T, s string) volume.Name {
	t.Helper()
	n, err := volume.ParseName(s)
	must(t, err)
	return n
}

func TestPlanningOnAShareTouchesNothing(t *testing.T) {
	s := newShare(t)
	s.add(1, "a")
	r, err := s.plan()
	wantSummary(t, r, err, "pvc-1 adopt")
	if entries, err := os.ReadDir(s.root); err != nil || len(entries) != 1 {
		t.Errorf("on the share are %v, %v", entries, err)
	}
}

// A share may be the whole tree that its server exports.
func TestAdoptingFromTheRootOfAServer(t *testing.T) {
	s := newShare(t)
	s.o.ExportPath = "/"
	s.add(1, "a/b").Path = "/a/b"
	s.add(2, "c").Path = "/"
	r, err := s.plan()
	wantSummary(t, r, err, "pvc-1 adopt", "pvc-2 left", "c unclaimed")
}

// Whatever a PersistentVolume says, nothing but a directory of the share's is adopted,
// and nothing but that PersistentVolume is left alone.
func TestPersistentVolumesOfAShareThatAreNotWhatTheySeem(t *testing.T) {
	outside := t.TempDir()
	replace := func(s *share, with func(path string) error) {
		must(s.t, os.RemoveAll(filepath.Join(s.root, "a")))
		must(s.t, with(filepath.Join(s.root, "a")))
	}
	for what, spoil := range map[string]func(s *share, pv *PV){
		"another server":      func(_ *share, pv *PV) { pv.Server = "10.0.0.2" },
		"no server":           func(_ *share, pv *PV) { pv.Server = "" },
		"not by NFS":          func(_ *share, pv *PV) { pv.Server, pv.Path = "", "" },
		"the share":           func(_ *share, pv *PV) { pv.Path = "/share" },
		"the share and slash": func(_ *share, pv *PV) { pv.Path = "/share/" },
		"above the share":     func(_ *share, pv *PV) { pv.Path = "/" },
		"beside the share":    func(_ *share, pv *PV) { pv.Path = "/shared/a" },
		"elsewhere":           func(_ *share, pv *PV) { pv.Path = "/etc" },
		"relative":            func(_ *share, pv *PV) { pv.Path = "share/a" },
		"..":                  func(_ *share, pv *PV) { pv.Path = "/share/../share/a" },
		".. out of the share": func(_ *share, pv *PV) { pv.Path = "/share/../etc" },
		".. at the end":       func(_ *share, pv *PV) { pv.Path = "/share/a/x/.." },
		".":                   func(_ *share, pv *PV) { pv.Path = "/share/./a" },
		"two slashes":         func(_ *share, pv *PV) { pv.Path = "/share//a" },
		"a slash at the end":  func(_ *share, pv *PV) { pv.Path = "/share/a/" },
		"hidden":              func(_ *share, pv *PV) { pv.Path = "/share/.a" },
		"Berth's own":         func(_ *share, pv *PV) { pv.Path = "/share/.berth/volumes" },
		"a backslash":         func(_ *share, pv *PV) { pv.Path = `/share/a\b` },
		"a line break":        func(_ *share, pv *PV) { pv.Path = "/share/a\nb" },
		"too long":            func(_ *share, pv *PV) { pv.Path = "/share/a" + strings.Repeat("/a", 600) },
		"longer than paths":   func(_ *share, pv *PV) { pv.Path = "/share/a" + strings.Repeat("/a", 60_000) },
		"missing":             func(_ *share, pv *PV) { pv.Path = "/share/missing" },
		"in a missing one":    func(_ *share, pv *PV) { pv.Path = "/share/missing/a" },
		"no name":             func(_ *share, pv *PV) { pv.Name = ".." },
		"no claim":            func(_ *share, pv *PV) { pv.Claim = volume.Claim{} },
		"no size":             func(_ *share, pv *PV) { pv.Size = 0 },
		"a file":              func(s *share, _ *PV) { replace(s, func(p string) error { return os.WriteFile(p, nil, 0o600) }) },
		"a link out":          func(s *share, _ *PV) { replace(s, func(p string) error { return os.Symlink(outside, p) }) },
		"a link to another":   func(s *share, _ *PV) { replace(s, func(p string) error { return os.Symlink("b", p) }) },
		"behind a link": func(s *share, pv *PV) {
			replace(s, func(p string) error { return os.Symlink("b", p) })
			pv.Path = "/share/a/inside"
		},
		"an administrator's, too": func(s *share, pv *PV) {
			s.from.Others = append(s.from.Others, PV{Name: "by-hand", Server: nas, Path: pv.Path})
		},
		"an administrator's lies in it": func(s *share, pv *PV) {
			s.from.Others = append(s.from.Others, PV{Name: "by-hand", Server: "10.0.0.1", Path: pv.Path + "/../a/x"})
		},
		"it lies in an administrator's": func(s *share, pv *PV) {
			s.from.Others = append(s.from.Others, PV{Name: "by-hand", Server: nas, Path: "/share/projects"})
			must(s.t, os.MkdirAll(filepath.Join(s.root, "projects/x"), 0o700))
			pv.Path = "/share/projects/x"
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := newShare(t)
			s.add(1, "a")
			s.add(2, "b")
			must(t, os.Mkdir(filepath.Join(s.root, "b/inside"), 0o700))
			spoil(s, &s.pvs[0])
			b := s.open()
			r, err := Run(t.Context(), b, s.from, s.pvs, s.o)
			got := slices.DeleteFunc(summary(r), func(line string) bool { return strings.HasSuffix(line, "unclaimed") })
			if diff := cmp.Diff([]string{"pvc-2 adopt", s.pvs[0].Name + " left"}, got); diff != "" || err != nil {
				t.Errorf("error %v (-want +got):\n%s\nleft alone: %v", err, diff, r.Left)
			}
			for _, f := range r.Left {
				if f.Do == "" || strings.Contains(f.String(), "%!") || len(f.String()) > 2000 {
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

// The class with a path from an annotation gave the folder of its whole namespace to a
// claim without one, and what lies in it to others.
func TestVolumesInsideOneAnother(t *testing.T) {
	const whole, inner, foreign = "pvc-1 left", "pvc-2 adopt", "pvc-3 left"
	s := newShare(t)
	s.add(1, "team")
	s.add(2, "team/app")
	s.add(3, "team/trick").Claim.Namespace = "other" // than that of the one around it
	s.add(4, "team-2")                               // which only begins like it
	s.add(5, "team/app-2/x")
	r, err := s.plan()
	wantSummary(t, r, err, inner, "pvc-4 adopt", "pvc-5 adopt", whole, foreign)
	// Three deep.
	s.add(6, "team/app/deep")
	r, err = s.plan()
	wantSummary(t, r, err, "pvc-4 adopt", "pvc-5 adopt", "pvc-6 adopt", whole, "pvc-2 left", foreign)
}

// A view of the whole share, by hand or of version 4.0.2 with an empty path, says nothing
// about the volumes on it.
func TestAViewOfTheWholeShare(t *testing.T) {
	s := newShare(t)
	s.add(1, "a")
	s.add(2, "b").Path = "/share"
	s.from.Others = []PV{{Name: "by-hand", Server: nas, Path: "/share/"}, {Name: "above", Server: nas, Path: "/"}, {Name: "another", Server: "nas", Path: "/share/a"}, {Name: "disk"}}
	r, err := s.plan()
	wantSummary(t, r, err, "pvc-1 adopt", "pvc-2 left", "b unclaimed")
}

func TestTwoWithOneDirectory(t *testing.T) {
	s := newShare(t)
	s.add(1, "team/same")
	s.add(2, "team/same").Claim.Namespace = "other"
	s.add(3, "team/alone")
	b := s.open()
	r, err := Run(t.Context(), b, s.from, s.pvs, s.o)
	wantSummary(t, r, err, "pvc-1 adopt", "pvc-2 adopt", "pvc-3 adopt")
	for i, want := range []bool{true, true, false} {
		if v, err := b.Get(t.Context(), parseName(t, s.pvs[i].Name)); err != nil || v.Shared != want {
			t.Errorf("%s is shared: %t, %v; want %t", v.Name, v.Shared, err, want)
		}
	}
}

// The data goes with the last record of it, so that none may be missing.
func TestOneOfTwoWithOneDirectoryCannotBeAdopted(t *testing.T) {
	s := newShare(t)
	s.add(1, "same").OnDeleteErr = errors.New("its class is gone")
	s.add(2, "same").Claim = volume.Claim{}
	s.add(3, "other").OnDeleteErr = errors.New("its class is gone")
	r, err := s.plan()
	wantSummary(t, r, err, "pvc-3 adopt", "pvc-2 left", "pvc-1 left")
	if len(r.Kept) != 1 || r.Kept[0].PV != "pvc-3" {
		t.Errorf("kept are %v", r.Kept)
	}
}

func TestBerthsOwnVolumesAreInTheWayOnAShare(t *testing.T) {
	s := newShare(t)
	b := s.open()
	own := volumetest.Spec(t, "pvc-own")
	if _, err := b.Create(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	same := volumetest.Spec(t, "pvc-2")
	if _, err := b.Create(t.Context(), same); err != nil {
		t.Fatal(err)
	}
	s.add(1, own.Path.String())
	s.add(2, "b")
	s.add(3, own.Path.String()+"/inside")
	s.add(4, "c")
	r, err := s.plan()
	wantSummary(t, r, err, "pvc-4 adopt", "pvc-1 left", "pvc-2 left", "pvc-3 left")
}

func TestTenThousandOnAShare(t *testing.T) {
	s := newShare(t)
	const n = 10_000
	for i := range n {
		s.pvs = append(s.pvs, PV{
			Name: fmt.Sprintf("pvc-%05d", i), Server: nas, Path: fmt.Sprintf("/share/team-%d/%s%d", i%100, strings.Repeat("a/", 20), i),
			Size: 1, Claim: volume.Claim{Namespace: "team", Name: "data", UID: fmt.Sprint(i)},
		})
	}
	r, err := s.plan() // their directories are missing: this is about the time
	if err != nil || len(r.Left) != n || r.Left[0].PV != "pvc-00000" {
		t.Errorf("%d are left alone, want %d; error %v", len(r.Left), n, err)
	}
}
