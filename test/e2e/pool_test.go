//go:build system

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/test/nfs4"
)

// exportPath is where clients see the volumes of a pool of the harness.
const exportPath = "/local"

// contents is what lies in a pool's root, by name.
type contents struct {
	volumes   []string // whatever is in the root and not Berth's own
	records   []string
	discarded []string // records of volumes that are being purged
	trash     []string
	snapshots []string
}

func (s *site) contents() contents {
	s.t.Helper()
	return s.contentsOf(s.options.Root)
}

func (s *site) contentsOf(root string) contents {
	s.t.Helper()
	own := filepath.Join(root, ".berth")
	c := contents{
		volumes: slices.DeleteFunc(s.list(root), func(name string) bool { return name == ".berth" }),
		trash:   s.list(filepath.Join(own, "trash")), snapshots: s.list(filepath.Join(own, "snapshots")),
	}
	for _, file := range s.list(filepath.Join(own, "volumes")) {
		if name, ok := strings.CutSuffix(file, ".json"); ok { // others are being written
			c.records = append(c.records, name)
			continue
		}
		for _, suffix := range []string{".discarded", ".trashed"} {
			if name, ok := strings.CutSuffix(file, suffix); ok {
				c.discarded = append(c.discarded, name)
			}
		}
	}
	return c
}

func (c contents) String() string {
	return fmt.Sprintf("%d volumes %v, %d records %v, %d records of discarded volumes %v, %d in the trash %v, snapshots %v",
		len(c.volumes), c.volumes, len(c.records), c.records, len(c.discarded), c.discarded, len(c.trash), c.trash, c.snapshots)
}

func (c contents) empty() bool {
	return len(c.volumes)+len(c.records)+len(c.discarded)+len(c.trash)+len(c.snapshots) == 0
}

// list gives the names in a folder, sorted. A folder that is not there is empty.
func (s *site) list(folder string) []string {
	s.t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (s *site) countRecords() int { return len(s.contents().records) }

func (s *site) record(name string) string {
	return filepath.Join(s.options.Root, ".berth", "volumes", name+".json")
}

// exports are the names that a client sees below the pool's export path, sorted.
func (s *site) exports(c *nfs4.Client) []string {
	s.t.Helper()
	entries, err := c.ReadDir(s.t.Context(), exportPath)
	// Without any export there is no export path either.
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name)
	}
	slices.Sort(names)
	return names
}

// untilNothingIsLeft waits until there is no PersistentVolume, no directory, no
// record and nothing in the trash, and then looks for exports.
func (s *site) untilNothingIsLeft(c *nfs4.Client) {
	s.t.Helper()
	s.untilCount("all PersistentVolumes are gone", 0, s.countVolumes)
	s.untilEmpty()
	if left := s.exports(c); len(left) > 0 {
		s.t.Errorf("still exported: %v", left)
	}
}

func (s *site) untilEmpty() {
	s.t.Helper()
	s.until("the pool is empty", func() bool { return s.contents().empty() })
}

// untilPurged waits until nothing is left of a volume.
func (s *site) untilPurged(volume string) {
	s.t.Helper()
	s.until("volume "+volume+" is purged", func() bool {
		have := s.contents()
		return !slices.Contains(slices.Concat(have.volumes, have.records, have.discarded, have.trash), volume)
	})
}

// checkOneToOne fails the test unless the site has n claims, each Bound to a
// PersistentVolume of its own, and exactly one directory, record and export of each.
func (s *site) checkOneToOne(c *nfs4.Client, n int) {
	s.t.Helper()
	volumes := s.listVolumes()
	claims, err := s.client.CoreV1().PersistentVolumeClaims(s.name).List(s.t.Context(), metav1.ListOptions{})
	s.must(err)
	if len(claims.Items) != n || len(volumes) != n {
		s.t.Errorf("there are %d claims and %d PersistentVolumes, want %d of each", len(claims.Items), len(volumes), n)
	}
	for _, claim := range claims.Items {
		pv, found := volumes[claim.Spec.VolumeName]
		if claim.Status.Phase != v1.ClaimBound || !found || pv.Spec.ClaimRef.UID != claim.UID {
			s.t.Errorf("claim %s is %s and names the PersistentVolume %q, which is not its own", claim.Name, claim.Status.Phase, claim.Spec.VolumeName)
		}
	}
	names, have := slices.Sorted(maps.Keys(volumes)), s.contents()
	for what, got := range map[string][]string{"directories": have.volumes, "records": have.records, "exports": s.exports(c)} {
		if !slices.Equal(got, names) {
			s.t.Errorf("the PersistentVolumes are %v, but the %s are %v", names, what, got)
		}
	}
	if len(have.discarded)+len(have.trash) > 0 {
		s.t.Errorf("something is being deleted: %v", have)
	}
}
