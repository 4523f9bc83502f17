package zfsserver

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/berth-storage/berth/internal/run"
)

// What may be run at all, said once more in other words than the script's.
var (
	dataset  = `tank/volumes(/\.berth)?/[A-Za-z0-9][A-Za-z0-9._:-]*`
	folder   = `tank/volumes/\.berth`
	snap     = dataset + `@[A-Za-z0-9._:-]+`
	setting  = `(-o ?)?(mountpoint=none|[a-z0-9][a-z0-9:._-]*=[^\x00]*)`
	readable = `tank/volumes([/@][A-Za-z0-9._:/@-]*)?`
	reading  = `(-[Hpr]*([ods] ?[A-Za-z0-9:,._-]+)? )*`
	allowed  = regexp.MustCompile(`^(sudo -n -- )?(` + strings.Join([]string{
		`zfs create (` + setting + ` )*(` + dataset + `|` + folder + `)`,
		`zfs clone (` + setting + ` )*` + snap + ` ` + dataset,
		`zfs snapshot (` + setting + ` )*` + snap,
		`zfs set (` + setting + ` )+(` + dataset + `|` + snap + `|` + folder + `)`,
		`zfs destroy (-d+ )*(` + dataset + `|` + snap + `)`,
		`zfs rename ` + dataset + ` ` + dataset,
		`zfs (mount|unmount|share|promote) ` + dataset,
		`zfs get ` + reading + `[A-Za-z0-9:,._-]+( ` + readable + `)+`,
		`zfs list ` + reading + readable + `( ` + readable + `)*`,
		`chown -h [0-9]+:[0-9]+ \.`,
		`chmod [0-7]+ \.`,
		`flock -n -E 75 -o [^ ]+ /bin/sh [^ ]+ --hold`,
	}, "|") + `)$`)
	// never are properties that lead out of the pool.
	never = []string{"mountpoint", "keylocation", "keyformat", "encryption", "sharesmb", "zoned", "jailed", "context", "overlay", "volsize"}
)

// Whatever a client sends, nothing is run but what Berth needs.
func FuzzScript(f *testing.F) {
	for _, argv := range []string{
		"zfs create -o refquota=1 -o berth:record={} tank/volumes/pvc-1", "zfs get -Hp -o name,value -d1 all tank/volumes", "zfs destroy -d tank/volumes/pvc-1@x",
		"zfs destroy tank/other", "zfs set mountpoint=/etc tank/volumes/pvc-1", "env LC_ALL=C PATH=/bin sudo -n -- zfs mount tank/volumes/pvc-1", "chown 0:0 /etc",
		"zfs rename tank/volumes/a tank/volumes/.berth/a", "berth-zfs lock tank/volumes", "zfs clone tank/volumes/a@b tank/volumes/c", "zfs list -o name tank/volumes",
		"zfs get -Hp -r -slocal -o name a:b tank/volumes", "zfs set a:b=c tank/volumes/a@b",
	} {
		f.Add(run.Quote(words(argv)))
	}
	f.Add(`'zfs' 'set' 'a:b=it'\''s' 'tank/volumes/x'`)
	s := newServer(f, shells["dash"])
	f.Fuzz(func(t *testing.T, line string) {
		if strings.Contains(line, "\x00") {
			return // no environment has that
		}
		s := *s
		s.t = t
		ran, status, stderr := s.ask(line)
		if ran == nil {
			if status != refused && status != 1 || stderr == "" {
				t.Errorf("%q: status %d: %s", line, status, stderr)
			}
			return
		}
		if !allowed.MatchString(strings.Join(ran, " ")) {
			t.Errorf("%q ran %q", line, ran)
		}
		for i, word := range ran {
			name, value, _ := strings.Cut(strings.TrimPrefix(word, "-o"), "=")
			if slices.Contains(never, name) && word != "mountpoint=none" && word != "-omountpoint=none" && value != "" {
				t.Errorf("%q ran %q, with the property %s", line, ran, name)
			}
			if i > 0 && strings.HasPrefix(word, "-") && !slices.Contains([]string{"-n", "--", "-h", "-E", "-o", "--hold"}, word) && !regexp.MustCompile(`^-[Hprd]*([ods].*)?$`).MatchString(word) {
				t.Errorf("%q ran %q, with the option %s", line, ran, word)
			}
		}
	})
}
