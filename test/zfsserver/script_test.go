package zfsserver

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-storage/berth/internal/run"
)

const (
	script = "../../deploy/zfs-server/berth-zfs"
	parent = "tank/volumes"
	// refused is the script's exit status for what it does not let through.
	refused = 77
)

// server is the script with programs beside it that only say how they were called.
type server struct {
	t      testing.TB
	shell  []string
	script string
	bin    string
	root   string // the parent's mountpoint
}

// said is what the fake programs print: their name, their words and the folder that they were started in, each ended by a zero byte.
const said = `#!/bin/sh
printf '%s\0' "${0##*/}" "$@"
`

// dfSays stands for df(1): folders directly below the parent's mountpoint are volumes.
const dfSays = `#!/bin/sh
here=$(pwd -P)
root=$here
while [ "${root%/*}" != "$FAKE_ROOT" ] && [ -n "$root" ]; do root=${root%/*}; done
echo 'Filesystem 1024-blocks Used Available Capacity Mounted on'
if [ -n "$root" ]; then
	echo "tank/volumes/${root##*/} 100 1 99 1% $root"
else
	echo "/dev/root 100 1 99 1% /"
fi
`

// shells are those that servers have as /bin/sh, or something very much like them.
var shells = map[string][]string{"dash": {"dash"}, "bash": {"bash", "--posix"}}

func newServer(t testing.TB, shell []string) *server {
	t.Helper()
	text, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, shell: shell, script: filepath.Join(dir, "berth-zfs"), bin: filepath.Join(dir, "bin"), root: filepath.Join(dir, "volumes")}
	const path = "\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
	if !bytes.Contains(text, []byte(path)) {
		t.Fatal("the script has another PATH than the one to put the fake programs in place of")
	}
	s.write("berth-zfs", strings.Replace(string(text), path, "\nPATH="+s.bin+"\n", 1))
	for _, program := range []string{"zfs", "chown", "chmod", "sudo", "flock", "lockf"} {
		s.write("bin/"+program, said)
	}
	s.write("bin/zfs", "#!/bin/sh\ncase \"$*\" in\n*'mounted tank/volumes') echo yes; exit ;;\n*'mountpoint tank/volumes') echo \"$FAKE_ROOT\"; exit ;;\nesac\n"+strings.TrimPrefix(said, "#!/bin/sh\n"))
	s.write("bin/df", dfSays)
	for _, folder := range []string{"pvc-1", "pvc-1/inside"} {
		if err := os.MkdirAll(filepath.Join(s.root, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *server) write(name, text string) {
	s.t.Helper()
	path := filepath.Join(filepath.Dir(s.script), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		s.t.Fatal(err)
	}
}

// ask sends line, as sshd hands it over, and gives what was run: nil if nothing was.
func (s *server) ask(line string) (ran []string, status int, stderr string) {
	s.t.Helper()
	argv := slices.Concat(s.shell, []string{s.script, parent})
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "SSH_ORIGINAL_COMMAND="+line, "FAKE_ROOT="+s.root)
	var stdout, errors bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &errors
	err := cmd.Run()
	if cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	if out := strings.TrimSuffix(stdout.String(), "\x00"); out != "" {
		ran = strings.Split(out, "\x00")
	}
	return ran, cmd.ProcessState.ExitCode(), errors.String()
}

func words(line string) []string { return strings.Fields(line) }

// What Berth needs is let through word for word.
func TestScriptLetsBerthsCommandsThrough(t *testing.T) {
	record := `berth:record={"claim":"it's \"x\" $(reboot) ; ` + "`reboot`" + ` \\ * ü"}`
	for name, shell := range shells {
		s := newServer(t, shell)
		for _, argv := range [][]string{
			{"zfs", "create", "-o", "refquota=1048576", "-o", record, "-o", "sharenfs=rw=@10.0.0.0/8,no_root_squash", "tank/volumes/pvc-1"},
			words("zfs create -o mountpoint=none -o canmount=off -o sharenfs=off -o berth:identity=a-b tank/volumes/.berth"),
			words("zfs get -Hp -o name,property,value,source berth:record,refquota,available tank/volumes tank/volumes/pvc-1"),
			words("zfs get -Hp -d1 -o name,value all tank/volumes"),
			words("zfs get -Hp -o name,value -r -slocal berth:snapshot tank/volumes"),
			words("zfs set berth:snapshot={} tank/volumes/pvc-1@snapshot-1"),
			words("zfs snapshot -o berth:clone=pvc-2 tank/volumes/pvc-1@berth-pvc-2"),
			words("zfs destroy -d tank/volumes/.berth/pvc-1@-of_an-Administrator:2"),
			words("zfs get -Hpr -d 1 all tank/volumes"),
			words("zfs list -Hp -r -o name,origin,org:x tank/volumes/.berth"),
			words("zfs list -Hroname tank/volumes/pvc-1@pvc-2"),
			words("zfs set berth:adoption=done tank/volumes/.berth"),
			{"zfs", "set", record, "tank/volumes/pvc-1"},
			words("zfs set refquota=5 refreservation=none tank/volumes/pvc-1"),
			words("zfs rename tank/volumes/pvc-1 tank/volumes/.berth/pvc-1"),
			words("zfs snapshot tank/volumes/pvc-1@pvc-2"),
			words("zfs clone -o recordsize=4096 tank/volumes/pvc-1@pvc-2 tank/volumes/pvc-2"),
			words("zfs destroy -d tank/volumes/pvc-1@pvc-2"),
			words("zfs destroy tank/volumes/.berth/pvc-1"),
			words("zfs promote tank/volumes/pvc-2"),
			words("zfs mount tank/volumes/pvc-2"),
			words("zfs unmount tank/volumes/pvc-2"),
			words("zfs share tank/volumes/pvc-2"),
		} {
			for _, prefix := range []string{"", "env LC_ALL=C PATH=/sbin:/bin", "env LC_ALL=C PATH=/sbin:/bin sudo -n --", "sudo -n --"} {
				want := argv
				if strings.Contains(prefix, "sudo") {
					want = append(words("sudo -n --"), argv...)
				}
				ran, status, stderr := s.ask(run.Quote(append(words(prefix), argv...)))
				if status != 0 || strings.Join(ran, "\x00") != strings.Join(want, "\x00") {
					t.Errorf("%s: %q ran %q, status %d: %s", name, argv, ran, status, stderr)
				}
			}
		}
	}
}

// Owner and mode are set from inside of the volume, so that nothing that changes on the way there matters.
func TestScriptChangesVolumesOnly(t *testing.T) {
	for name, shell := range shells {
		s := newServer(t, shell)
		volume := filepath.Join(s.root, "pvc-1")
		for _, c := range []struct{ argv, want []string }{
			{[]string{"chown", "1000:2000", volume}, words("chown -h 1000:2000 .")},
			{[]string{"chown", "-h", "0:0", volume}, words("chown -h 0:0 .")},
			{[]string{"chmod", "2770", volume}, words("chmod 2770 .")},
			{[]string{"sudo", "-n", "--", "chmod", "0700", volume}, words("sudo -n -- chmod 0700 .")},
		} {
			if ran, status, stderr := s.ask(run.Quote(c.argv)); status != 0 || strings.Join(ran, " ") != strings.Join(c.want, " ") {
				t.Errorf("%s: %q ran %q, status %d: %s", name, c.argv, ran, status, stderr)
			}
		}
		if err := os.Symlink("/etc", filepath.Join(s.root, "etc")); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(volume, filepath.Join(s.root, "link")); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{
			s.root, s.root + "/", s.root + "/etc", s.root + "/link", volume + "/", volume + "/inside", volume + "/..", volume + "/../pvc-1",
			s.root + "/./pvc-1", s.root + "//pvc-1", "/", "/etc", "/..", "", ".", "pvc-1", "-R", s.root + "/pvc-2", "--reference=/etc/passwd",
		} {
			for _, argv := range [][]string{{"chown", "0:0", path}, {"chmod", "0777", path}} {
				if ran, status, _ := s.ask(run.Quote(argv)); ran != nil || status == 0 {
					t.Errorf("%s: %q ran %q", name, argv, ran)
				}
			}
		}
		for _, argv := range [][]string{
			{"chown", "root:root", volume}, {"chown", "0", volume}, {"chown", ":0", volume}, {"chown", "0:", volume}, {"chown", "0:0:0", volume},
			{"chown", "-R", "0:0", volume}, {"chown", "0:0", volume, "/etc"}, {"chown", "--from=0", volume}, {"chown"}, {"chown", "-h", "0:0"},
			{"chmod", "u+s", volume}, {"chmod", "-R", volume}, {"chmod", "8", volume}, {"chmod", "", volume}, {"chmod", "0777", volume, "/etc"}, {"chmod"},
		} {
			if ran, status, _ := s.ask(run.Quote(argv)); ran != nil || status != refused {
				t.Errorf("%s: %q ran %q, status %d", name, argv, ran, status)
			}
		}
	}
}

func TestScriptRefuses(t *testing.T) {
	lines := []string{
		"", " ", "zfs list tank/volumes", "reboot", "'reboot'", "'sh' '-c' 'reboot'", "'env' 'sh'", "'env' 'LD_PRELOAD=/tmp/x.so' 'zfs' 'list' 'tank/volumes'",
		"'zfs'", "'zfs' 'list'", "'zfs' 'get' 'all'", "'sudo' 'sh'", "'sudo' '-n' '--' 'sh'", "'sudo' '-n' '--'", "'zfs' 'list' 'tank/volumes'; reboot",
		"'zfs' 'list' 'tank/volumes' $(reboot)", "'zfs' 'list' 'tank/volumes", "'zfs' 'list' 'tank/volumes'\n'reboot'", "'zfs'\t'list' 'tank/volumes'",
		`'zfs' 'list' "tank/volumes"`, `'zfs' 'list' \'tank/volumes`, "'zfs'  'list' 'tank/volumes'", " 'zfs' 'list' 'tank/volumes'", "'zfs' 'list' 'tank/volumes' ",
	}
	for _, argv := range []string{
		// Other datasets, and all.
		"zfs destroy tank", "zfs destroy tank/volumes", "zfs destroy -r tank/volumes", "zfs destroy -r tank/volumes/.berth", "zfs destroy tank/volumes2/pvc-1",
		"zfs destroy tank/other", "zfs destroy tank/volumes/../other", "zfs destroy tank/volumes/pvc-1/child", "zfs destroy tank/volumes/.berth/a/b",
		"zfs destroy tank/volumes/", "zfs destroy tank/volumes//pvc-1", "zfs destroy /tank/volumes/pvc-1", "zfs destroy tank/volumes/.other", "zfs destroy tank/volumes/.berth/",
		"zfs destroy tank/volumes@x", "zfs destroy tank/volumes/.berth/../../other", "zfs list tank", "zfs list tank/volumes tank/other", "zfs list tank/volumes2",
		"zfs list tank/volumes/../other", "zfs list tank/volumes/..", "zfs list /", "zfs get all tank", "zfs get -r all tank", "zfs get all", "zfs list -r",
		"zfs rename tank/volumes/pvc-1 tank/other/pvc-1", "zfs rename tank/other tank/volumes/pvc-1", "zfs clone tank/other@x tank/volumes/pvc-1",
		"zfs clone tank/volumes/pvc-1@x tank/other", "zfs promote tank/other", "zfs snapshot tank/volumes@x", "zfs snapshot tank/other@x",
		"zfs set refquota=1 tank/volumes", "zfs set a:b=c tank/volumes@x", "zfs set a:b=c tank/other@x", "zfs get -s local,/x all tank/volumes", "zfs set refquota=1 tank", "zfs mount tank/other", "zfs unmount /etc", "zfs create tank/other", "zfs create tank/volumes/a/b",
		// Options that do more, at the front or at the end, where getopt(3) of glibc finds them too.
		"zfs destroy -R tank/volumes/pvc-1", "zfs destroy tank/volumes/pvc-1 -R", "zfs destroy -rR tank/volumes/pvc-1", "zfs destroy -- tank/volumes/pvc-1",
		"zfs destroy - tank/volumes/pvc-1", "zfs create -V 1G tank/volumes/pvc-1", "zfs create -p tank/volumes/pvc-1", "zfs create tank/volumes/pvc-1 -omountpoint=/etc",
		"zfs mount -a", "zfs unmount -a", "zfs share -a", "zfs unshare -a", "zfs mount -o suid tank/volumes/pvc-1", "zfs mount tank/volumes/pvc-1 -O", "zfs snapshot -r tank/volumes/pvc-1@x",
		"zfs rename -p tank/volumes/pvc-1 tank/volumes/pvc-2", "zfs list -j tank/volumes", "zfs get -H --json all tank/volumes", "zfs get -o", "zfs list -o",
		"zfs destroy -r tank/volumes/pvc-1", "zfs destroy -f tank/volumes/pvc-1", "zfs create -u tank/volumes/pvc-1", "zfs unmount -f tank/volumes/pvc-1",
		"zfs get -t all all tank/volumes", "zfs rename -f tank/volumes/pvc-1 tank/volumes/pvc-2", "zfs destroy tank/volumes/pvc-1@a%b", "zfs destroy tank/volumes/pvc-1@a,b", "zfs destroy tank/volumes/pvc-1@",
		"zfs snapshot -o mountpoint=/etc tank/volumes/pvc-1@x", "zfs destroy @x", "zfs destroy tank/other@x", "zfs destroy tank/volumes/pvc-1@../x",
		"zfs destroy tank/volumes/pvc-1#x", "zfs destroy tank/volumes/pvc-1@x@y", "zfs destroy", "zfs destroy tank/volumes/pvc-1 tank/volumes/pvc-2",
		// Properties that lead out of the pool, or are none.
		"zfs create -o mountpoint=/etc tank/volumes/pvc-1", "zfs create -omountpoint=/etc tank/volumes/pvc-1", "zfs create -uomountpoint=/etc tank/volumes/pvc-1",
		"zfs set mountpoint=/etc tank/volumes/pvc-1", "zfs set refquota=1 mountpoint=/etc tank/volumes/pvc-1", "zfs create -o keylocation=file:///etc/shadow tank/volumes/pvc-1",
		"zfs create -o encryption=on tank/volumes/pvc-1", "zfs set sharesmb=on tank/volumes/pvc-1", "zfs set zoned=on tank/volumes/pvc-1", "zfs set context=x tank/volumes/pvc-1",
		"zfs set =x tank/volumes/pvc-1", "zfs set a tank/volumes/pvc-1", "zfs set tank/volumes/pvc-1", "zfs set -x=y:z=1 tank/volumes/pvc-1", "zfs set ../a:b=c tank/volumes/pvc-1",
		"zfs clone -o mountpoint=/etc tank/volumes/pvc-1@x tank/volumes/pvc-2", "zfs set mountpoint=legacy tank/volumes/pvc-1",
		// Other commands.
		"zfs destroy tank/volumes/.berth", "zfs rename tank/volumes/.berth tank/volumes/pvc-1", "zfs rename tank/volumes/pvc-1 tank/volumes/.berth",
		"zfs mount tank/volumes/.berth", "zfs share tank/volumes/.berth", "zfs snapshot tank/volumes/.berth@x", "zfs inherit sharenfs tank/volumes/pvc-1",
		"zfs allow everyone destroy tank/volumes", "zfs send tank/volumes/pvc-1@x", "zfs receive tank/volumes/pvc-1", "zfs rollback tank/volumes/pvc-1@x", "zfs program tank x",
		"zfs diff tank/volumes/pvc-1@x", "zfs load-key tank/volumes/pvc-1", "zfs", "zfs --version", "zpool destroy tank", "zfs unallow tank/volumes", "zfs project /etc", "zfs userspace tank/volumes",
		"/sbin/zfs list tank/volumes", "zfs/../sh", "chgrp 0 /etc", "rm -rf /", "env", "env zfs",
		// The lock of another pool.
		"berth-zfs", "berth-zfs lock", "berth-zfs lock tank", "berth-zfs lock tank/volumes tank/volumes", "berth-zfs --hold",
	} {
		lines = append(lines, run.Quote(words(argv)))
	}
	for _, argv := range [][]string{
		{"zfs", "destroy", ""}, {"zfs", "destroy", "tank/volumes/pvc-1\nreboot"}, {"zfs", "destroy", "tank/volumes/pvc-1 reboot"}, {"zfs", "destroy", "tank/volumes/$(reboot)"},
		{"zfs", "destroy", "tank/volumes/pvc-1;reboot"}, {"zfs", "destroy", "tank/volumes/*"}, {"zfs", "destroy", "tank/volumes/'reboot'"},
		{"zfs", "set", "sharenfs=rw\n/etc *(rw)", "tank/volumes/pvc-1"}, {"zfs", "set", "berth:record=a\x00b", "tank/volumes/pvc-1"}, {"zfs", "set", "berth:record=\x1b[2J", "tank/volumes/pvc-1"},
		{"zfs", "get", "all", "tank/volumes", ""}, {"", "zfs", "list", "tank/volumes"}, {"zfs ", "list", "tank/volumes"}, {"zfs", "create", "-o", "", "tank/volumes/pvc-1"},
		{"zfs", "create", "", "tank/volumes/pvc-1"}, {"zfs", "destroy", "-ö", "tank/volumes/pvc-1"}, {"zfs", "destroy", "tank/volumes/pvc-ö"},
	} {
		lines = append(lines, strings.ReplaceAll(run.Quote(argv), "\x00", "\x01")) // an environment has no zero bytes
	}
	for name, shell := range shells {
		s := newServer(t, shell)
		for _, line := range lines {
			if ran, status, stderr := s.ask(line); ran != nil || status != refused || !strings.HasPrefix(stderr, "berth-zfs: refused: ") {
				t.Errorf("%s: %q ran %q, status %d: %s", name, line, ran, status, stderr)
			}
		}
	}
}

// The script serves no parent that is not the name of one, and nothing without one.
func TestScriptNeedsAParent(t *testing.T) {
	for name, shell := range shells {
		s := newServer(t, shell)
		for _, args := range [][]string{{}, {""}, {"/"}, {"/tank"}, {"tank/"}, {"tank//volumes"}, {"tank/../rpool"}, {"tank/.."}, {"tank/."}, {"-r"}, {"tank volumes"}, {"tank", "x"}, {"tank/*"}, {"lock", "tank/.."}, {"lock", "tank", "x"}, {"lock", ""}} {
			argv := slices.Concat(s.shell, []string{s.script}, args)
			cmd := exec.Command(argv[0], argv[1:]...)
			cmd.Env = append(os.Environ(), "SSH_ORIGINAL_COMMAND=zfs list tank", "FAKE_ROOT="+s.root)
			out, err := cmd.Output()
			exit, ok := errors.AsType[*exec.ExitError](err)
			if !ok || exit.ExitCode() != refused || len(out) > 0 {
				t.Errorf("%s: %q: %v, %q", name, args, err, out)
			}
		}
	}
}

// The lock is that of flock(1) on the parent's mountpoint, or where there is none lockf(1) of FreeBSD,
// which says by the same exit status that somebody else has it.
func TestScriptLocks(t *testing.T) {
	for name, shell := range shells {
		s := newServer(t, shell)
		for _, program := range []string{"flock -n -E 75 -o ", "lockf -k -n -s -t 0 "} {
			ran, _, stderr := s.ask(run.Quote(words("env LC_ALL=C berth-zfs lock tank/volumes")))
			if want := program + s.root + " /bin/sh " + s.script + " --hold"; strings.Join(ran, " ") != want {
				t.Errorf("%s: ran %q, want %q: %s", name, ran, want, stderr)
			}
			if err := os.RemoveAll(filepath.Join(s.bin, "flock")); err != nil {
				t.Fatal(err)
			}
		}
		s.write("bin/zfs", "#!/bin/sh\necho no\n")
		if ran, status, stderr := s.ask(run.Quote(words("berth-zfs lock tank/volumes"))); status != refused || !strings.Contains(stderr, "zfs mount tank/volumes") {
			t.Errorf("%s: not mounted: ran %q, status %d: %s", name, ran, status, stderr)
		}
	}
}
