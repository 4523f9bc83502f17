//go:build system

package e2e

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// onOtherDirectories is a second pool, called b.
func onOtherDirectories(s *site) storage {
	root := filepath.Join(s.t.TempDir(), "b")
	s.must(os.Mkdir(root, 0o755))
	return storage{
		pool:  "name: b, dir: {root: " + root + "}",
		at:    func(pv *v1.PersistentVolume) string { return filepath.Join(root, pv.Name) },
		empty: func() { s.until("pool b is empty", func() bool { return s.contentsOf(root).empty() }) },
	}
}

func onOtherDatasets(s *site) storage {
	b := onDatasets(s)
	b.pool = strings.Replace(b.pool, "name: a", "name: b", 1)
	return b
}

func fromClaim(name string) func(*v1.PersistentVolumeClaim) {
	return func(c *v1.PersistentVolumeClaim) {
		c.Spec.DataSource = &v1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: name}
	}
}

// Claims of a class of one pool begin with what claims and VolumeSnapshots of another one hold.
func TestCopiesBetweenPools(t *testing.T) {
	for name, c := range map[string]struct {
		from, to func(*site) storage
		hidden   bool // on zfs-fuse nobody sees what is in a snapshot
	}{
		"dir-dir": {onDirectories, onOtherDirectories, false},
		"dir-zfs": {onDirectories, onOtherDatasets, false},
		"zfs-dir": {onDatasets, onOtherDirectories, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, name)
			from, to := c.from(s), c.to(s)
			there := s.parameters("there", nil)
			s.startPools(from.pool+", classes: ["+s.name+"]", to.pool+", classes: ["+there+"]")
			s.snapshots()
			s.claim("data", ofSize("32Mi"))
			data := s.bound("data")
			had := s.fill(from.at(data))
			s.snapshot("first", "data", "")
			s.snapshotReady("first")
			s.claim("copy", ofClass(there), ofSize("32Mi"), fromClaim("data"))
			s.claim("short", ofClass(there), ofSize("48Mi"), annotated("berth.storage/clone-from", "data"))
			copies := map[string]*v1.PersistentVolume{"the copy": s.bound("copy"), "that by annotation": s.bound("short")}
			s.must(os.Remove(filepath.Join(from.at(data), "d0", "f3")))
			s.claim("old", ofClass(there), ofSize("32Mi"), fromSnapshot("first"))
			if c.hidden {
				s.untilEvent(s.name, "old", "ProvisioningFailed", "is not to be seen on this host", "a class of its own pool")
				s.deleteClaim("old") // which would keep the VolumeSnapshot
			} else {
				copies["the restored claim"] = s.bound("old")
			}
			s.claim("smaller", ofClass(there), ofSize("31Mi"), fromClaim("data"))
			s.untilEvent(s.name, "smaller", "ProvisioningFailed", "a copy cannot be smaller")

			s.kubectl("delete", "--timeout="+patience.String(), "volumesnapshot", "first")
			s.deleteClaim("data")
			s.volumeGone(data.Name)
			from.empty()
			for what, pv := range copies {
				if got := s.checksums(to.at(pv)); !maps.Equal(got, had) {
					t.Errorf("%s has %v, want %v", what, got, had)
				}
			}
			s.deleteAllClaims()
			to.empty()
		})
	}
}

// A copy that Berth was killed in the middle of begins again, one whose claim is deleted ends, and what it is of
// stays as long as it is needed. Other namespaces get nothing.
func TestCopiesBetweenPoolsThatAreCutOff(t *testing.T) {
	s, stranger := newSite(t, "cutoff"), newSite(t, "stranger")
	from, to := onDirectories(s), onOtherDirectories(s)
	there := s.parameters("there", nil)
	pools := []string{from.pool + ", classes: [" + s.name + "]", to.pool + ", classes: [" + there + "]"}
	b := s.startPools(pools...)
	s.claim("data", ofSize("32Mi"))
	data := s.bound("data")
	had := s.fill(from.at(data))
	last := filepath.Join(from.at(data), "d1", "f19")
	wanted := func(name string) {
		t.Helper()
		s.claim(name, ofClass(there), ofSize("32Mi"), fromClaim("data"))
	}
	// alone checks that pool b has the volumes of these and nothing else.
	root := filepath.Dir(to.at(data))
	alone := func(what string, pvs ...*v1.PersistentVolume) {
		t.Helper()
		var names []string
		for _, pv := range pvs {
			names = append(names, pv.Name)
		}
		slices.Sort(names)
		s.until(what, func() bool {
			have := s.contentsOf(root)
			return slices.Equal(have.volumes, names) && slices.Equal(have.records, names) && len(have.discarded)+len(have.trash) == 0
		})
	}

	g := s.shut(last)
	wanted("copy")
	g.reached()
	s.untilEvent(s.name, "copy", "ProvisioningFailed", "is being made", "files with")
	s.must(killAll(b))
	g.open()
	begun := s.contentsOf(root)
	if len(begun.volumes) != 1 || len(begun.records) != 1 {
		t.Fatalf("in the middle of the copy pool b has %v", begun)
	}
	text, err := os.ReadFile(filepath.Join(root, ".berth", "volumes", begun.records[0]+".json"))
	if err != nil || !strings.Contains(string(text), `"creating"`) {
		t.Errorf("in the middle of the copy its record is %s; %v", text, err)
	}
	s.must(os.Remove(filepath.Join(from.at(data), "d0", "f3")))
	delete(had, "/d0/f3")
	b = s.startPools(pools...)
	copied := s.bound("copy")
	if got := s.checksums(to.at(copied)); !maps.Equal(got, had) {
		t.Errorf("begun again, the copy has %v, want %v", got, had)
	}

	g = s.shut(last)
	wanted("unwanted")
	g.reached()
	s.deleteClaim("unwanted")
	s.until("the copy is told to end", func() bool { return strings.Contains(b.Log(), "ending a copy that is not wanted any more") })
	g.open()
	alone("nothing is left of the canceled copy", copied)

	for what, name := range map[string]string{"does not exist": "data", "is not bound to a volume yet": "names"} {
		if name == "names" { // with the name of somebody else's volume it never is
			stranger.claim(name, ofClass(s.name), ofSize("32Mi"), func(c *v1.PersistentVolumeClaim) { c.Spec.VolumeName = data.Name })
		}
		stranger.claim("of-"+name, ofClass(there), ofSize("32Mi"), fromClaim(name))
		stranger.untilEvent(stranger.name, "of-"+name, "ProvisioningFailed", what)
	}
	alone("strangers get nothing", copied)

	g = s.shut(last)
	wanted("late")
	g.reached()
	s.deleteClaim("data")
	s.untilEvent(v1.NamespaceDefault, data.Name, "VolumeFailedDelete", "is being copied")
	g.open()
	late := s.bound("late")
	s.volumeGone(data.Name)
	from.empty()
	if got := s.checksums(to.at(late)); !maps.Equal(got, had) {
		t.Errorf("what was deleted while it was copied gave %v, want %v", got, had)
	}
	alone("the copies are there", copied, late)
	s.deleteAllClaims()
	stranger.deleteAllClaims()
	to.empty()
}

// What cannot be copied is refused, and the event says what to do.
func TestWhatIsNotCopiedBetweenPools(t *testing.T) {
	s := newSite(t, "notcopied")
	parent := s.parentDataset("")
	s.zfs("create", parent)
	s.farHost(parent)
	disk, share := s.parameters("disk", nil), s.parameters("share", nil)
	s.startPools("name: far, exporter: none, classes: ["+s.name+"], "+s.options.Storage, "name: disk, classes: ["+disk+"], dir: {root: "+s.options.Root+"}",
		"name: share, classes: ["+share+"], subdir: {server: "+shareServer+", path: "+sharePath+", root: "+t.TempDir()+"}")
	for name, class := range map[string]string{"far": s.name, "near": disk, "shared": share} {
		s.claim(name, ofClass(class), ofSize("8Mi"))
		s.bound(name)
	}
	s.claim("fromfar", ofClass(disk), ofSize("8Mi"), fromClaim("far"))
	s.untilEvent(s.name, "fromfar", "ProvisioningFailed", "from which nothing is copied", "use a class of that pool")
	s.claim("fromshare", ofClass(disk), ofSize("8Mi"), fromClaim("shared"))
	s.untilEvent(s.name, "fromshare", "ProvisioningFailed", "of pool share nothing can be copied", "use a class of that pool")
	s.claim("tofar", ofSize("8Mi"), fromClaim("near"))
	s.untilEvent(s.name, "tofar", "ProvisioningFailed", "to which nothing is copied", "use a class of pool disk")
	if have, far := s.contents(), s.volumesBelow(parent); len(have.volumes) != 1 || len(have.records) != 1 || len(far) != 1 {
		t.Errorf("the pools have %v and %v", have, far)
	}
	// A share can be given what others have.
	s.claim("toshare", ofClass(share), ofSize("8Mi"), fromClaim("near"))
	s.bound("toshare")
	s.deleteAllClaims()
	s.untilEmpty()
	s.untilNoDatasets(parent)
}
