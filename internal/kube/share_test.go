package kube

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"github.com/berth-storage/berth/internal/pathpattern"
	"github.com/berth-storage/berth/internal/volume"
)

func newSharePool(t *testing.T, pattern string) *Pool {
	t.Helper()
	pool, _ := newPool("nas")
	pool.OnDelete = volume.OnDeleteDelete
	pool.Share = &Share{Server: "nas.example.com", Existing: volume.ExistingRefuse}
	if pattern != "" {
		parsed, err := pathpattern.Parse(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pool.Share.Pattern = &parsed
	}
	return pool
}

// What the page says of the parameters that decide what becomes of a deleted claim's
// volume is so, row by row.
func TestPrecedenceOfOnDelete(t *testing.T) {
	const heading = "| class: `onDelete` | class: `archiveOnDelete` | with the default `archive` | with the default `delete` |"
	rows := docsTable(t, "nfs-subdir.md", heading)
	if len(rows) < 10 {
		t.Fatalf("the table has %d rows", len(rows))
	}
	for _, row := range rows {
		given := map[string]string{}
		for i, name := range []string{"onDelete", "archiveOnDelete"} {
			if value := row[i]; value != "" {
				given[name] = value
			}
		}
		for i, usual := range []volume.OnDelete{volume.OnDeleteArchive, volume.OnDeleteDelete} {
			pool := newSharePool(t, "")
			pool.OnDelete = usual
			p, err := parseParameters(given, pool)
			got := string(p.onDelete)
			if errors.Is(err, volume.ErrInvalid) {
				got = "refused"
			}
			if got != row[2+i] {
				t.Errorf("%v with the default %s: got %s (%v), the page says %s", given, usual, got, err, row[2+i])
			}
		}
	}
}

// Likewise for where a volume lies.
func TestPrecedenceOfPaths(t *testing.T) {
	rows := docsTable(t, "nfs-subdir.md", "| class: `pathPattern` | pool: `defaults.pathPattern` | directory |")
	if len(rows) < 4 {
		t.Fatalf("the table has %d rows", len(rows))
	}
	claim := newClaim()
	claim.Namespace, claim.Name = "team", "data"
	name := parseName(t, volumeName)
	for _, row := range rows {
		given := map[string]string{}
		if class := row[0]; class == `""` {
			given["pathPattern"] = ""
		} else if class != "" {
			given["pathPattern"] = class
		}
		p, err := parseParameters(given, newSharePool(t, row[1]))
		if err != nil {
			t.Errorf("%v: %v", row, err)
			continue
		}
		want := strings.ReplaceAll(row[2], "<volume>", volumeName)
		if path, err := p.path(claim, name); err != nil || path.String() != want {
			t.Errorf("%v: got %s, %v; the page says %s", row, path, err, want)
		}
	}
}

func TestParametersOfShares(t *testing.T) {
	pool := newSharePool(t, "${.PVC.name}")
	p, err := parseParameters(map[string]string{"EXISTING": "share", "pathpattern": "a/${.PV.name}", "ondelete": "retain"}, pool)
	if err != nil || p.existing != volume.ExistingShare || p.onDelete != volume.OnDeleteRetain || p.pattern.String() != "a/${.PV.name}" {
		t.Errorf("got %+v, %v", p, err)
	}
	if p, err = parseParameters(nil, pool); err != nil || p.existing != volume.ExistingRefuse || p.pattern.String() != "${.PVC.name}" {
		t.Errorf("got %+v, %v; want the pool's defaults", p, err)
	}
	for _, c := range []struct{ key, value, want string }{
		{"existing", "", `existing: "" is not refuse, reuse or share`},
		{"existing", "take", `existing: "take" is not refuse, reuse or share`},
		{"onDelete", "", `onDelete: "" is not delete, retain or archive`},
		{"onDelete", "Delete", `onDelete: "Delete" is not delete`},
		{"archiveOnDelete", "", `archiveOnDelete: "" is not true or false`},
		{"pathPattern", "${.PVC.nam}", `did you mean ".PVC.name"?`},
		{"pathPattern", strings.Repeat("x", 5000), "has 5000 bytes"},
		{"rootSquash", "false", "the server of pool nas's share decides that"},
	} {
		_, err := parseParameters(map[string]string{c.key: c.value}, pool)
		if !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 1000 {
			t.Errorf("%s: %.20q: got error %v, want an ErrInvalid with %q that fits into an event", c.key, c.value, err, c.want)
		}
	}
}

// Whatever a class and a claim say: what is refused is refused with an error that shows
// the pattern, the result and the reason, as it becomes an event.
func TestPathsThatAreRefusedForAClaim(t *testing.T) {
	const pattern = "${.PVC.namespace}/${.PVC.annotations.nfs.io/storage-path}"
	for annotation, reason := range map[string]string{
		"../..": `element ".." is hidden or leaves the folder`, "a/../../b": "leaves the folder", ".ssh": "is hidden", `a\b`: "is not allowed",
	} {
		claim := newClaim()
		claim.Annotations = map[string]string{"nfs.io/storage-path": annotation}
		p, err := parseParameters(map[string]string{"pathPattern": pattern}, newSharePool(t, ""))
		if err != nil {
			t.Fatal(err)
		}
		_, err = specOf(claim, newClass(), clusterUID, parseName(t, volumeName), p)
		if !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("%q: got error %v, want an ErrInvalid", annotation, err)
			continue
		}
		for _, part := range []string{pattern, reason, "team/"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q: the error %q does not show %q", annotation, err, part)
			}
		}
	}
	claim := newClaim()
	claim.Name = strings.Repeat("x", 250)
	_, err := specOf(claim, newClass(), clusterUID, parseName(t, volumeName), parameters{pool: newSharePool(t, "")})
	if !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "the default path") || !strings.Contains(err.Error(), "longer than 255") {
		t.Errorf("a long name: got error %v", err)
	}
}

func TestRestoringAnArchive(t *testing.T) {
	p := parameters{pool: newSharePool(t, "")}
	claim := newClaim()
	claim.Annotations = map[string]string{AnnotationRestoreFrom: "pvc-old"}
	spec, err := specOf(claim, newClass(), clusterUID, parseName(t, volumeName), p)
	if err != nil || spec.From == nil || spec.From.Archive != parseName(t, "pvc-old") {
		t.Errorf("got %+v, %v", spec.From, err)
	}
	for _, name := range []string{"", "../x", "nas/pvc-old"} {
		claim.Annotations[AnnotationRestoreFrom] = name
		if _, err := specOf(claim, newClass(), clusterUID, parseName(t, volumeName), p); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), AnnotationRestoreFrom) {
			t.Errorf("%q: got error %v", name, err)
		}
	}
}

// Clients mount a share's volume from the share's server, whatever Berth's own address is.
func TestPersistentVolumeOnAShare(t *testing.T) {
	pool := newSharePool(t, "${.PVC.namespace}/${.PVC.name}")
	volumes := pool.Volumes.(*fakeVolumes)
	p := newProvisioner(newClient(newClaim()), pool)
	pv, _, err := p.Provision(t.Context(), options(newClaim(), newClass()))
	if err != nil {
		t.Fatal(err)
	}
	if nfs := pv.Spec.NFS; nfs.Server != "nas.example.com" {
		t.Errorf("the volume is at %+v", nfs)
	}
	if got := volumes.created[0].Path.String(); got != "team/data" {
		t.Errorf("asked for a volume at %s", got)
	}
	if modes := pv.Spec.AccessModes; len(modes) != 2 || modes[0] != v1.ReadWriteMany {
		t.Errorf("its access modes are %v", modes)
	}
}

var tableCell = regexp.MustCompile("(?m)^\\| `([a-zA-Z]+)` \\|")

// The page of shares tells of each parameter that has to do with them.
func TestParametersAreOnThePageOfShares(t *testing.T) {
	page, err := os.ReadFile("../../docs/nfs-subdir.md")
	if err != nil {
		t.Fatal(err)
	}
	var cells []string
	for _, m := range tableCell.FindAllStringSubmatch(string(page), -1) {
		cells = append(cells, m[1])
	}
	for _, name := range []string{"pathPattern", "onDelete", "archiveOnDelete", "existing", "mode", "uid", "gid", "pool"} {
		if !strings.Contains(strings.Join(cells, " ")+" ", name+" ") {
			t.Errorf("docs/nfs-subdir.md has no row for the parameter %s", name)
		}
	}
}
