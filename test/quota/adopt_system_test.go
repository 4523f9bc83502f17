//go:build system

package quota

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/adopt"
	"github.com/berth-storage/berth/internal/quota"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/test/harness"
)

// legacyVolume makes a volume as nfs-provisioner with -enable-xfs-quota does.
func legacyVolume(t *testing.T, before *harness.Predecessor, id int, bytes int64) adopt.PV {
	t.Helper()
	name := fmt.Sprint("pvc-", id)
	block, err := before.Add(name, id, "no_root_squash")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(before.Root, name)
	run(t, "xfs_quota", "-x", "-f", "-c", fmt.Sprintf("project -s -p %s %d", dir, id), "-c", fmt.Sprintf("limit -p bhard=%d %d", bytes, id), before.Root)
	return adopt.PV{
		Name: name, Path: dir, Size: bytes, Claim: volume.Claim{Namespace: "team", Name: name, UID: fmt.Sprint(id)}, Reclaim: volume.ReclaimDelete,
		Created: time.Now(), ExportID: fmt.Sprint(id), ExportBlock: block, Identity: before.Identity,
	}
}

// The limits of volumes that nfs-provisioner made stay, can be changed, and go with them.
func TestAdoptedVolumesKeepTheirLimits(t *testing.T) {
	onProjects(t, func(t *testing.T, root string) {
		before := &harness.Predecessor{Root: root, Identity: "0bd4bbcd-0a5d-4b5c-8b21-7a1c1a2c8f5e"}
		var pvs []adopt.PV
		var notes strings.Builder
		for id := range 4 {
			pv := legacyVolume(t, before, id+1, 8<<20)
			fmt.Fprintf(&notes, "\n%d:%s:%d\n", id+1, pv.Path, 8<<20)
			pvs = append(pvs, pv)
		}
		// The notes on the second are lost; of the third the limit was lifted; the fourth
		// has another project since.
		text := strings.Replace(notes.String(), "\n2:"+pvs[1].Path+":8388608\n", "", 1)
		if err := errors.Join(before.Write(), os.WriteFile(filepath.Join(root, "projects"), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		fs := limitsOf(t, root)
		if err := fs.SetLimit(3, quota.Amount{}); err != nil {
			t.Fatal(err)
		}
		tag(t, pvs[3].Path, 77)

		p := open(t, root, required)
		state, err := adopt.ReadNFSProvisioner(root, "")
		if err != nil {
			t.Fatal(err)
		}
		r, err := adopt.Run(t.Context(), p, state, pvs, adopt.Options{ExportPath: root})
		if err != nil || len(r.Adopt) != 4 {
			t.Fatalf("adopted %v, left alone %v, %v", r.Adopt, r.Left, err)
		}
		for i, want := range []uint64{1, 0, 0, 0} {
			if v := r.Adopt[i]; v.QuotaID != want || (v.Limit != volume.LimitNone) != (want != 0) {
				t.Errorf("%s has project %d, limit %q; want project %d", v.Name, v.QuotaID, v.Limit, want)
			}
		}

		v := r.Adopt[0]
		file := filepath.Join(v.Dir, "file")
		kind := fs.Kind()
		if err := asUser(t, func() error { return write(file, 16) }); !errors.Is(err, beyond[kind]) {
			t.Errorf("writing beyond its limit: %v, want %v", err, beyond[kind])
		}
		v.Size = 32 << 20
		if v, err = p.Update(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		if err := asUser(t, func() error { return write(file, 16) }); err != nil {
			t.Errorf("after it has grown: %v", err)
		}
		p = p.reopen(t)
		remove(t, p, v.Name)
		wantLimit(t, fs, 1, quota.Amount{})
		wantLimit(t, fs, 2, quota.Amount{Bytes: 8 << 20}) // which is not known to be a volume's
	})
}
