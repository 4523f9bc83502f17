package kernel

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berth-storage/berth/internal/export"
)

func parseClients(t *testing.T, words ...string) export.Clients {
	t.Helper()
	c, err := export.ParseClients(words)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func texts(lines []line) []string {
	var all []string
	for _, l := range lines {
		all = append(all, l.text)
	}
	return all
}

func TestLinesOf(t *testing.T) {
	e := export.Export{ID: 7, Dir: "/srv/a b", Path: "/srv/a b", FSID: export.NewFSID("x"), Squash: export.SquashNone}
	const options = "rw,sync,insecure,no_root_squash,no_all_squash,no_subtree_check,anonuid=65534,anongid=65534,fsid=2d711642-b726-b044-0162-7ca9fbac32f5,sec=sys"
	squashed := e
	squashed.Squash = export.SquashRoot
	some := e
	some.Clients = parseClients(t, "10.0.0.0/8", "192.0.2.1", "fd00::/64", "fd00::7", "0.0.0.0/0", "::/0")
	adopted := e
	adopted.FSID = export.FSID{6: 1, 7: 2, 14: 1, 15: 2}
	for _, c := range []struct {
		name string
		e    export.Export
		want []string
	}{
		{"everybody", e, []string{`/srv/a\040b	*(` + options + `)`}},
		{"root squash", squashed, []string{`/srv/a\040b	*(` + strings.Replace(options, "no_root_squash", "root_squash", 1) + `)`}},
		{"some clients", some, []string{
			`/srv/a\040b	10.0.0.0/8(` + options + `)`,
			`/srv/a\040b	192.0.2.1/32(` + options + `)`,
			`/srv/a\040b	fd00::/64(` + options + `)`,
			`/srv/a\040b	fd00::7/128(` + options + `)`,
			`/srv/a\040b	0.0.0.0/0.0.0.0(` + options + `)`,
			`/srv/a\040b	::/::(` + options + `)`,
		}},
		{"nfs-provisioner's", adopted, []string{`/srv/a\040b	*(` + strings.Replace(options, e.FSID.String(), "258", 1) + `)`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			lines := linesOf(c.e)
			if diff := cmp.Diff(c.want, texts(lines)); diff != "" {
				t.Error(diff)
			}
			for _, l := range lines {
				if got := readBack(l); got != l {
					t.Errorf("%+v was written and read back as %+v", l, got)
				}
			}
		})
	}
}

// readBack reads a line that was written.
func readBack(l line) line {
	e := parse([]byte(l.text))
	return line{text: string(e.text), path: string(e.path), client: string(e.client), options: string(e.options)}
}

func TestCheckPath(t *testing.T) {
	for path, ok := range map[string]bool{
		"/srv/a":                         true,
		`/srv/a "b" (rw) #c, d:e=f*é`:    true,
		"/srv/" + strings.Repeat("a", 9): true,
		"":                               false,
		"/":                              false,
		"srv":                            false,
		"/srv/":                          false,
		"/srv/../etc":                    false,
		"/srv/a\nb":                      false,
		"/srv/a\tb":                      false,
		"/srv/a\x7f":                     false,
		`/srv/a\040b`:                    false,
		"/" + strings.Repeat("a", 1000):  false,
	} {
		if err := checkPath(path); (err == nil) != ok {
			t.Errorf("%q: got error %v, want it to be right: %t", path, err, ok)
		}
	}
}

func TestCheckDir(t *testing.T) {
	folder, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(folder+"/real/volume", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(folder+"/real", folder+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := CheckDir(folder + "/real/volume"); err != nil {
		t.Error(err)
	}
	if err := CheckDir(folder + "/link/volume"); err == nil || !strings.Contains(err.Error(), folder+"/real/volume") {
		t.Errorf("below a link: got error %v", err)
	}
	if err := CheckDir(folder + "/absent"); err == nil {
		t.Error("a missing directory is right")
	}
}

// What exportfs of nfs-utils 2.6.2 makes of a line.
const canonical = "/srv/v\t*(rw,sync,wdelay,hide,nocrossmnt,insecure,no_root_squash,no_all_squash,no_subtree_check,secure_locks,acl,no_pnfs," +
	"fsid=2d711642-b726-b044-0162-7ca9fbac32f5,anonuid=65534,anongid=65534,sec=sys,rw,insecure,no_root_squash,no_all_squash)"

func TestSays(t *testing.T) {
	e := export.Export{Dir: "/srv/v", FSID: export.NewFSID("x"), Squash: export.SquashNone}
	want := linesOf(e)[0]
	for _, same := range []string{want.text, canonical} {
		if !parse([]byte(same)).says(want) {
			t.Errorf("does not say what is wanted: %s", same)
		}
	}
	for _, change := range [][2]string{
		{"(rw", "(ro"},
		{"sec=sys,rw", "sec=sys,ro"},
		{",sync", ",async"},
		{"insecure", "secure"},
		{"no_root_squash", "root_squash"},
		{"no_all_squash", "all_squash"},
		{"no_subtree_check", "subtree_check"},
		{"sec=sys", "sec=krb5"},
		{"fsid=2d", "fsid=2e"},
		{"anonuid=65534", "anonuid=0"},
		{"*(", "10.0.0.0/8("},
		{"/srv/v", "/srv/w"},
	} {
		other := strings.Replace(canonical, change[0], change[1], 1)
		if other == canonical {
			t.Fatalf("%q changes nothing", change)
		}
		if parse([]byte(other)).says(want) {
			t.Errorf("says what is wanted, though it has %s: %s", change[1], other)
		}
	}
}

func TestParseLineOfOthers(t *testing.T) {
	for _, text := range []string{"", "# a comment", "/srv/a *(rw)", "/srv", "/srv\t", "/srv\t*", "/srv\t*(rw", "relative\t*(rw)", "\t*(rw)"} {
		if e := parse([]byte(text)); e.path != nil || string(e.text) != text {
			t.Errorf("%q was read as %+v", text, e)
		}
	}
}

// readExports reads a file as nfs-utils does (exports(5), and xgettok of its
// support/nfs/xio.c): words between white space, quotes in which white space is
// no end, three octal digits after a backslash, comments, continued lines.
func readExports(text string) [][]string {
	text = strings.ReplaceAll(text, "\\\n", " ")
	var lines [][]string
	var words []string
	for i := 0; i < len(text); {
		switch text[i] {
		case '\n':
			lines, words = append(lines, words), nil
			i++
		case ' ', '\t', '\r', '\v', '\f':
			i++
		case '#':
			for i < len(text) && text[i] != '\n' {
				i++
			}
		default:
			var word []byte
			for quoted := false; i < len(text) && (quoted || !strings.ContainsRune(" \t\n\r\v\f", rune(text[i]))); i++ {
				if text[i] == '"' {
					quoted = !quoted
					continue
				}
				word = append(word, text[i])
				if n := len(word); n >= 4 && word[n-4] == '\\' && word[n-3] < '4' &&
					!slices.ContainsFunc(word[n-3:], func(b byte) bool { return b < '0' || b > '7' }) {
					word = append(word[:n-4], (word[n-3]-'0')<<6|(word[n-2]-'0')<<3|(word[n-1]-'0'))
				}
			}
			words = append(words, string(word))
		}
	}
	if words != nil {
		lines = append(lines, words)
	}
	return lines
}

// Whatever a record says never becomes another option, client or line.
func FuzzLine(f *testing.F) {
	f.Add("/srv/a")
	f.Add("/srv/a *(rw)")
	f.Add("/srv/a\n/etc *(rw)")
	f.Add(`/srv/"a" (rw,no_root_squash)`)
	f.Add(`/srv/a\`)
	f.Add(`/srv/a\134040`)
	f.Add("/srv/#a,fsid=0")
	f.Add("/srv/é\x00\xff")
	f.Fuzz(func(t *testing.T, dir string) {
		if checkPath(dir) != nil {
			return
		}
		e := export.Export{ID: 1, Dir: dir, FSID: export.NewFSID("x"), Clients: parseClients(t, "10.0.0.0/8", "::1")}
		lines := linesOf(e)
		text := strings.Join(texts(lines), "\n") + "\n"
		want := [][]string{{dir, "10.0.0.0/8(" + lines[0].options + ")"}, {dir, "::1/128(" + lines[0].options + ")"}}
		if diff := cmp.Diff(want, readExports(text), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%q is read as something else (-want +got):\n%s", dir, diff)
		}
		for _, l := range lines {
			if got := readBack(l); got != l {
				t.Errorf("%q was written and read back as %+v", dir, got)
			}
		}
	})
}
