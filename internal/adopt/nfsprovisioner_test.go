package adopt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/export"
)

// base is the vfs.conf of nfs-provisioner's heir before it has volumes.
const base = `
###################################################
# EXPORT
###################################################

EXPORT
{
	# Export Id (mandatory, each EXPORT must have a unique Export_Id)
	Export_Id = 0;
	Path = /nonexistent;
	Pseudo = /nonexistent;
	Access_Type = RW;
	FSAL {
		Name = VFS;
	}
}

NFS_Core_Param
{
	MNT_Port = 20048;
	fsid_device = true;
}

NFSV4
{
	Grace_Period = 90;
}
`

// ganeshaBlock is a block as nfs-provisioner appends it for a volume.
func ganeshaBlock(id, dir, squash string) string {
	return "\nEXPORT\n{\n\tExport_Id = " + id + ";\n\tPath = " + dir + ";\n\tPseudo = " + dir + ";\n\tAccess_Type = RW;\n" +
		"\tSquash = " + squash + ";\n\tSecType = sys;\n\tFilesystem_id = " + id + "." + id + ";\n\tFSAL {\n\t\tName = VFS;\n\t}\n}\n"
}

func write(t testing.TB, folder, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, folder, exportsFile string) *State {
	t.Helper()
	s, err := ReadNFSProvisioner(folder, exportsFile)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestReadingWhatGaneshaExported(t *testing.T) {
	folder := t.TempDir()
	write(t, folder, identityFile, "0bd4bbcd-0a5d-4b5c-8b21-7a1c1a2c8f5e\n")
	write(t, folder, ganeshaFile, base+ganeshaBlock("1", "/export/pvc-1", "no_root_squash")+ganeshaBlock("7", "/export/pvc-7", "root_id_squash"))
	write(t, folder, projectsFile, "\n3:/export/pvc-1:1048576\n\n4:/export/pvc-7:2097152\n")
	s := read(t, folder, "")
	if !s.Found() || s.Identity != "0bd4bbcd-0a5d-4b5c-8b21-7a1c1a2c8f5e" || !s.DeviceFSIDs || len(s.Problems) > 0 {
		t.Errorf("found %t, identity %q, by device %t, problems %v", s.Found(), s.Identity, s.DeviceFSIDs, s.Problems)
	}
	if diff := cmp.Diff(map[string]Export{
		"/export/pvc-1": {1, "/export/pvc-1", export.SquashNone}, "/export/pvc-7": {7, "/export/pvc-7", export.SquashRoot},
	}, s.exports); diff != "" {
		t.Errorf("exports (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]project{"/export/pvc-1": {3, 1 << 20}, "/export/pvc-7": {4, 2 << 20}}, s.projects); diff != "" {
		t.Errorf("projects (-want +got):\n%s", diff)
	}
	if len(s.odd) > 0 {
		t.Errorf("odd exports: %v", s.odd)
	}
}

func TestReadingWhatTheKernelExported(t *testing.T) {
	folder := t.TempDir()
	write(t, folder, identityFile, "id")
	write(t, folder, ganeshaFile, base+ganeshaBlock("9", "/export/old", "no_root_squash")) // of another time
	write(t, folder, "exports", `# The administrator's.
/home 10.0.0.0/8(rw,sync)
/srv *(rw,insecure,no_root_squash,fsid=0)

/export/pvc-1 *(rw,insecure,no_root_squash,fsid=1)

/export/pvc-2 10.1.0.0/16(rw,insecure,root_squash,fsid=2)
`)
	s := read(t, folder, filepath.Join(folder, "exports"))
	if diff := cmp.Diff(map[string]Export{
		"/export/pvc-1": {1, "/export/pvc-1", export.SquashNone}, "/export/pvc-2": {2, "/export/pvc-2", export.SquashRoot},
	}, s.exports); diff != "" || s.DeviceFSIDs || len(s.Problems)+len(s.odd) > 0 {
		t.Errorf("exports (-want +got):\n%s\nproblems %v, odd %v", diff, s.Problems, s.odd)
	}
	if s := read(t, folder, filepath.Join(folder, "missing")); len(s.exports) > 0 {
		t.Errorf("of a missing file: %v", s.exports)
	}
}

func TestReadingAFolderOfNobody(t *testing.T) {
	folder := t.TempDir()
	write(t, folder, projectsFile, "an administrator's notes")
	if s := read(t, folder, ""); s.Found() {
		t.Errorf("found %+v", s)
	}
}

// Blocks that somebody changed by hand mean something that Berth would not do.
func TestOddExports(t *testing.T) {
	block := ganeshaBlock("5", "/export/pvc-5", "no_root_squash")
	for what, text := range map[string]string{
		"all squashed":       strings.Replace(block, "no_root_squash", "all_squash", 1),
		"read-only":          strings.Replace(block, "= RW", "= RO", 1),
		"with clients":       strings.Replace(block, "\tFSAL", "\tCLIENT { Clients = 10.0.0.1; }\n\tFSAL", 1),
		"with a key more":    strings.Replace(block, "\tSecType", "\tProtocols = 3;\n\tSecType", 1),
		"Kerberos":           strings.Replace(block, "= sys", "= krb5", 1),
		"another pseudo":     strings.Replace(block, "Pseudo = /export/pvc-5", "Pseudo = /data", 1),
		"no pseudo":          strings.Replace(block, "\tPseudo = /export/pvc-5;\n", "", 1),
		"no squash":          strings.Replace(block, "\tSquash = no_root_squash;\n", "", 1),
		"another fsid":       strings.Replace(block, "5.5", "5.6", 1),
		"another FSAL":       strings.Replace(block, "VFS", "XFS", 1),
		"FSAL with more":     strings.Replace(block, "Name = VFS;", "Name = VFS; fsid_type = None;", 1),
		"id 70000":           strings.Replace(block, "Export_Id = 5", "Export_Id = 70000", 1),
		"id 152":             ganeshaBlock("152", "/export/pvc-5", "no_root_squash"),
		"exported twice":     block + ganeshaBlock("6", "/export/pvc-5", "no_root_squash"),
		"an id for two":      block + ganeshaBlock("5", "/export/pvc-6", "no_root_squash"),
		"an id for two, too": ganeshaBlock("5", "/export/pvc-6", "no_root_squash") + block,
	} {
		folder := t.TempDir()
		write(t, folder, ganeshaFile, base+text)
		s := read(t, folder, "")
		if s.odd["/export/pvc-5"] == nil || len(s.Problems) > 0 {
			t.Errorf("%s: odd are %v, problems %v", what, s.odd, s.Problems)
		}
	}
}

// nfs-provisioner truncates the file and writes it again.
func TestReadingATornFile(t *testing.T) {
	folder := t.TempDir()
	text := base + ganeshaBlock("1", "/export/pvc-1", "no_root_squash") + ganeshaBlock("2", "/export/pvc-2", "no_root_squash")
	write(t, folder, ganeshaFile, text[:len(text)-20])
	s := read(t, folder, "")
	if len(s.exports) != 1 || len(s.Problems) != 1 || !strings.Contains(s.Problems[0].Error(), "vfs.conf: line ") {
		t.Errorf("exports %v, problems %v", s.exports, s.Problems)
	}
}

func TestFilesThatCannotBeRead(t *testing.T) {
	for what, spoil := range map[string]func(path string) error{
		"a folder":        func(path string) error { return os.Mkdir(path, 0o700) },
		"a symbolic link": func(path string) error { return os.Symlink("/etc/passwd", path) },
		"a dangling link": func(path string) error { return os.Symlink("nowhere", path) },
	} {
		folder := t.TempDir()
		if err := spoil(filepath.Join(folder, identityFile)); err != nil {
			t.Fatal(err)
		}
		if s, err := ReadNFSProvisioner(folder, ""); err == nil {
			t.Errorf("%s: read %+v", what, s)
		}
	}
	if _, err := ReadNFSProvisioner("/nonexistent", ""); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing folder: %v", err)
	}
}

func TestBadIdentities(t *testing.T) {
	for _, text := range []string{"", "\n", "two words", "../../etc", strings.Repeat("a", 65)} {
		folder := t.TempDir()
		write(t, folder, identityFile, text)
		if s := read(t, folder, ""); s.Identity != "" || len(s.Problems) != 1 {
			t.Errorf("%q: identity %q, problems %v", text, s.Identity, s.Problems)
		}
	}
}

func TestBadProjects(t *testing.T) {
	folder := t.TempDir()
	write(t, folder, projectsFile, "0:/a:1\n70000:/a:1\nx:/a:1\n1:/a\n1\n2:/a:-1\n3:/with:colon:4\n")
	s := read(t, folder, "")
	if diff := cmp.Diff(map[string]project{"/with:colon": {3, 4}}, s.projects); diff != "" || len(s.Problems) != 1 {
		t.Errorf("projects (-want +got):\n%s\nproblems %v", diff, s.Problems)
	}
}

func TestParsingConfigurations(t *testing.T) {
	blocks, err := parseConfig(`A{x=1;Y = "two words" , 'three';; Inner { z = a b; } } # the end`)
	want := []block{{name: "a", line: 1, params: map[string]string{"x": "1", "y": "two words , three"},
		blocks: []block{{name: "inner", line: 1, params: map[string]string{"z": "a b"}}}}}
	if diff := cmp.Diff(want, blocks, cmp.AllowUnexported(block{})); diff != "" || err != nil {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
	for _, text := range []string{
		"A", "A {", "A { x", "A { x =", "A { x = 1", "A { x = 1 }", "A { x 1; }", "A { = 1; }", "{ }", "A = 1;", "A { x = \"1; }", "A { x = '1\n'; }",
		"}", `"A" { }`, strings.Repeat("A {", 20),
	} {
		if blocks, err := parseConfig(text); err == nil {
			t.Errorf("%q: parsed as %+v", text, blocks)
		} else if !strings.HasPrefix(err.Error(), "line ") {
			t.Errorf("%q: error %v", text, err)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add(base + ganeshaBlock("1", "/export/pvc-1", "no_root_squash"))
	f.Add(`A { B { c = "d" 'e'; } } # f`)
	f.Fuzz(func(t *testing.T, text string) {
		blocks, err := parseConfig(text)
		for _, b := range blocks {
			if b.name == "" || b.params == nil {
				t.Errorf("block %+v of %q", b, text)
			}
		}
		if err == nil && strings.Count(text, "{") == 0 && len(blocks) > 0 {
			t.Errorf("%d blocks in %q", len(blocks), text)
		}
	})
}

// What passes as an export is one that nfs-provisioner can have written: written
// again, it is the same.
func FuzzExportText(f *testing.F) {
	f.Add(ganeshaBlock("7", "/export/pvc-1", "root_id_squash"))
	f.Add("\n/export/pvc-1 *(rw,insecure,no_root_squash,fsid=7)\n")
	f.Add("EXPORT { Export_Id = 7; Path = /; } EXPORT { }")
	f.Fuzz(func(t *testing.T, text string) {
		e, err := exportText(text)
		if err != nil {
			return
		}
		if e.ID == 0 || e.ID == reservedID || !strings.HasPrefix(e.Path, "/") || e.Squash != export.SquashNone && e.Squash != export.SquashRoot {
			t.Fatalf("%q gives %+v", text, e)
		}
		if strings.ContainsAny(e.Path, " \t\n\r\"'{}=;#") {
			return // not a path that can be written without quotes
		}
		squash := map[export.Squash]string{export.SquashNone: "no_root_squash", export.SquashRoot: "root_id_squash"}[e.Squash]
		if again, err := exportText(ganeshaBlock(fmt.Sprint(e.ID), e.Path, squash)); err != nil || again != e {
			t.Errorf("%q gives %+v, which gives %+v, %v", text, e, again, err)
		}
	})
}

func FuzzParseProject(f *testing.F) {
	f.Add("7:/export/pvc-1:1048576")
	f.Fuzz(func(t *testing.T, line string) {
		dir, p, err := parseProject(line)
		if err != nil {
			return
		}
		if p.ID == 0 || p.ID > 65535 {
			t.Errorf("%q gives project %d", line, p.ID)
		}
		if again, q, err := parseProject(fmt.Sprintf("%d:%s:%d", p.ID, dir, p.Bytes)); err != nil || again != dir || p != q {
			t.Errorf("%q gives %q, %+v, which gives %q, %+v, %v", line, dir, p, again, q, err)
		}
	})
}
