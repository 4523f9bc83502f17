//go:build system

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/test/harness"
)

// nfs-subdir-external-provisioner, killed with -9, leaked the directories of claims that
// no longer exist or archived them, and gave one directory to two claims. Here some claims
// want paths that lie in one another, of which only one can be had.
func TestDropInForSharesIsKilledInTheMiddle(t *testing.T) {
	const n, wanting = 60, 3
	o := newOldShare(t, "killed-share")
	remove := o.classOf("delete")
	o.must(harness.CreateClaims(t.Context(), o.client, o.name, "archived", o.name, n))
	for i := range n {
		claim := harness.NewClaim(o.name, fmt.Sprint("removed-", i), remove)
		at := fmt.Sprint("w", i/wanting)
		if i%wanting > 0 {
			at += "/sub"
		}
		claim.Annotations = map[string]string{"nfs.io/storage-path": at}
		_, err := o.client.CoreV1().PersistentVolumeClaims(o.name).Create(t.Context(), claim, metav1.CreateOptions{})
		o.must(err)
	}

	b := o.startDropIn()
	killWhile := func(what string, done func() bool) {
		t.Helper()
		for kills := 0; !done(); kills++ {
			if kills < 12 {
				time.Sleep(300 * time.Millisecond) // whatever it is at
				o.must(killAll(b))
				b = o.startDropIn()
				t.Logf("killed; %d claims are Bound", o.watch.Bound())
				continue
			}
			o.until(what, done)
		}
	}
	const can = n + n/wanting
	killWhile("all claims that can be are Bound", func() bool { return o.watch.Bound() == can })
	dirs := map[string]string{}
	for _, claim := range o.watch.Claims() {
		if claim.Status.Phase != v1.ClaimBound {
			continue
		}
		pv := o.bound(claim.Name)
		at := strings.TrimPrefix(pv.Spec.NFS.Path, o.share.Path+"/")
		for other, owner := range dirs {
			if strings.HasPrefix(at+"/", other+"/") || strings.HasPrefix(other+"/", at+"/") {
				t.Errorf("claims %s and %s have %s and %s", claim.Name, owner, at, other)
			}
		}
		dirs[at] = claim.Name
		o.must(os.WriteFile(filepath.Join(o.options.Root, at, "file"), []byte(claim.Name), 0o600))
	}

	want := map[string]string{}
	for at, claim := range dirs {
		if strings.HasPrefix(claim, "archived-") {
			at = "archived-" + at
			o.deleteClaim(claim)
		}
		want[at] = claim
	}
	killWhile("the volumes of the claims that were deleted are gone", func() bool { return o.countVolumes() == 0 })
	o.untilFiles(want)

	// Now others get what they want, with nothing in it, and are deleted too.
	o.deleteAllClaims()
	o.until("no PersistentVolume is left", func() bool {
		return len(o.watch.Claims()) == 0 && len(o.volumesOf(remove)) == 0
	})
	for at, claim := range want {
		if !strings.HasPrefix(claim, "archived-") {
			delete(want, at)
		}
	}
	o.untilFiles(want)
	o.wantArchives(len(want))
	o.must(b.Stop())
}

// volumesOf are the PersistentVolumes of a class.
func (s *site) volumesOf(class string) (names []string) {
	for _, pv := range s.watch.Volumes() {
		if pv.Spec.StorageClassName == class {
			names = append(names, pv.Name)
		}
	}
	return names
}

// wantArchives says whether there are so many archives on the share, and nothing else.
func (o *oldShare) wantArchives(n int) {
	o.t.Helper()
	archives := 0
	for _, name := range o.list(o.options.Root) {
		switch {
		case strings.HasPrefix(name, "archived-"):
			archives++
		case name != ".berth":
			o.t.Errorf("%s is left on the share", name)
		}
	}
	if archives != n {
		o.t.Errorf("there are %d archives, want %d", archives, n)
	}
	records := 0
	o.must(filepath.WalkDir(filepath.Join(o.options.Root, ".berth"), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if filepath.Base(filepath.Dir(path)) == "volumes" && strings.HasSuffix(path, ".json") {
			records++
		}
		return err
	}))
	if records != n {
		o.t.Errorf("there are %d records, want %d", records, n)
	}
}
