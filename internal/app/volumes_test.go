package app

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

func TestTableOfVolumes(t *testing.T) {
	now := time.Date(2030, 2, 3, 4, 5, 6, 0, time.UTC)
	of := func(name string, age time.Duration, change func(*volume.Report)) volume.Report {
		r := volume.Report{Volume: volume.New(volumetest.Spec(t, name), now.Add(-age))}
		r.State = volume.StateReady
		change(&r)
		return r
	}
	pools := []PoolContents{
		contents(config.Pool{Name: "fast", Dir: &config.Dir{Root: "/srv/fast"}}, inspection{Root: "/srv/fast", Reports: []volume.Report{
			of("pvc-1", 5*time.Minute, func(r *volume.Report) {
				r.Size, r.Inodes, r.Limit, r.Published = 3<<30/2, 1000, dir.LimitXFS, true
				r.Usage = &volume.Usage{Bytes: 12 << 10, Inodes: 3}
			}),
			of("pvc-2", 3*24*time.Hour, func(r *volume.Report) {
				r.Reclaim, r.Limit = volume.ReclaimRetain, dir.LimitBtrfs
				r.Usage = &volume.Usage{Bytes: 1023}
			}),
			of("snap-1", time.Hour, func(r *volume.Report) { r.State, r.SnapshotOf = volume.StateSnapshot, volumetest.Spec(t, "pvc-1").Name }),
		}}),
		contents(config.Pool{Dir: &config.Dir{Root: "/srv/slow"}}, inspection{Root: "/srv/slow",
			Advisory: errors.New("no quotas"), Problems: []error{errors.New("a record is damaged")}, Unknown: []string{"/srv/slow/a", "/srv/slow/b"},
			Reports: []volume.Report{of("pvc-3", 0, func(r *volume.Report) { r.State, r.Inodes = volume.StateCreating, 7 })},
		}),
	}
	const want = `POOL       VOLUME  CLAIM                 SIZE   LIMIT              USED  INODES  STATE              CREATED               AGE  RETAINED  PUBLISHED
fast       pvc-1   default/claim-pvc-1   1.5Gi  xfs project quota  12Ki  3/1000  ready              2030-02-03T04:00:06Z  5m   no        yes
fast       pvc-2   default/claim-pvc-2   1Mi    btrfs qgroup       1023  -       ready              2030-01-31T04:05:06Z  3d   yes       no
fast       snap-1  default/claim-snap-1  1Mi    -                  -     -       snapshot of pvc-1  2030-02-03T03:05:06Z  60m  no        no
/srv/slow  pvc-3   default/claim-pvc-3   1Mi    advisory           -     7       creating           2030-02-03T04:05:06Z  0s   no        no

Pool /srv/slow: sizes of new volumes are advisory: no quotas

Pool /srv/slow: problems:
  a record is damaged

Pool /srv/slow: no record names:
  /srv/slow/a
  /srv/slow/b
`
	var got strings.Builder
	if err := table(pools, now, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0", 1023: "1023", 1024: "1Ki", 1536: "1.5Ki", 1 << 20: "1Mi", 1<<20 - 1: "1024Ki", 10 << 30: "10Gi", 1 << 63: "8Ei", 1<<64 - 1: "16Ei",
	} {
		if got := bytesText(n); got != want {
			t.Errorf("%d bytes are %q, want %q", n, got, want)
		}
	}
}

func TestVolumesInJSON(t *testing.T) {
	root := t.TempDir()
	b := open(t, root) // and it stays open: no lock is needed
	made, err := b.Create(t.Context(), volumetest.Spec(t, "pvc-1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "other"), 0o755); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := Volumes(t.Context(), newConfig(t, root, emptyPool(t)).Pools, FormatJSON, &out); err != nil {
		t.Fatal(err)
	}
	var got struct{ Pools []PoolContents }
	if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if len(got.Pools) != 2 || len(got.Pools[0].Volumes) != 1 || len(got.Pools[1].Volumes) != 0 {
		t.Fatalf("got %s", out.String())
	}
	v := got.Pools[0].Volumes[0]
	want := ListedVolume{
		Name: "pvc-1", Namespace: "default", Claim: "claim-pvc-1", ClaimUID: "uid-pvc-1", State: "ready", Created: made.Created,
		Path: filepath.Join(root, "pvc-1"), ExportPath: "/pool/pvc-1", Size: 1 << 20,
	}
	if diff := cmp.Diff(want, v); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if p := got.Pools[0]; p.Name != "a" || p.Identity != b.Identity() || p.Advisory == "" || !cmp.Equal(p.Unknown, []string{filepath.Join(root, "other")}) {
		t.Errorf("pool is %+v", p)
	}
	if !strings.Contains(out.String(), `"problems": []`) {
		t.Errorf("an empty list is not written as one: %s", out.String())
	}
}

// emptyPool makes a pool that no process has open.
func emptyPool(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := open(t, root).Close(); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestVolumesOfAnUnknownFormat(t *testing.T) {
	if err := Volumes(t.Context(), nil, "yaml", nil); err == nil || !strings.Contains(err.Error(), `"yaml" is neither table nor json`) {
		t.Errorf("got error %v", err)
	}
}
