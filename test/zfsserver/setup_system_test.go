//go:build system

package zfsserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/backend/zfs"
	"github.com/berth-storage/berth/internal/run"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/sshd"
	"github.com/berth-storage/berth/test/zfsfuse"
)

func TestMain(m *testing.M) {
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "zfsserver:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// prepare gives this process a host's own files, which it may change: they are gone with it.
func prepare() error {
	if err := harness.OwnMounts(); err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "berth-zfsserver-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	if out, err := exec.Command("cp", "-a", "/etc/.", folder).CombinedOutput(); err != nil {
		return fmt.Errorf("cp: %w: %s", err, out)
	}
	if err := syscall.Mount(folder, "/etc", "", syscall.MS_MOVE, ""); err != nil {
		return err
	}
	for _, place := range []string{"/usr/local/sbin", "/home"} {
		if err := syscall.Mount("tmpfs", place, "tmpfs", 0, "mode=0755"); err != nil {
			return err
		}
	}
	return nil
}

// blocks are the commands of one section of the page.
func blocks(t *testing.T, section string) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/zfs-ssh.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(page), "\n## "+section+"\n")
	text, _, _ = strings.Cut(text, "\n## ")
	commands := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(text, -1)
	if !found || len(commands) == 0 {
		t.Fatalf("docs/zfs-ssh.md has no commands in a section %q", section)
	}
	var all strings.Builder
	for _, c := range commands {
		all.WriteString(c[1])
	}
	return all.String()
}

// shell runs commands in a folder, and gives what they print.
func shell(t *testing.T, folder, commands string) string {
	t.Helper()
	cmd := exec.Command("sh", "-eu", "-c", commands)
	cmd.Dir = folder
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	return string(out)
}

// The page's commands set a host up that Berth can use, and whoever has its key can use for nothing else.
func TestPageForLinux(t *testing.T) {
	disks := t.TempDir()
	if err := os.Chmod(filepath.Dir(disks), 0o755); err != nil { // of all tests' folders: the account reaches the parent's mountpoint
		t.Fatal(err)
	}
	daemon, err := zfsfuse.Start(disks)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := daemon.Stop(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := daemon.Create("tank", 1<<30); err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	shell(t, folder, "cp "+repository(t)+"/deploy/zfs-server/berth-zfs .")
	shell(t, folder, blocks(t, "The key"))
	shell(t, folder, blocks(t, "Linux"))
	if _, err := zfsfuse.Run("zfs", "create", "tank/other"); err != nil {
		t.Fatal(err)
	}

	server, err := sshd.Start(sshd.Options{Dir: t.TempDir(), User: "berth", Lines: "AuthorizedKeysFile .ssh/authorized_keys"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		server.Close()
		if t.Failed() {
			t.Log(server.Log())
		}
	}()
	o := server.SSH()
	o.KeyFile = filepath.Join(folder, "berth")
	t.Run("Berth works", func(t *testing.T) { works(t, o) })
	t.Run("one at a time", func(t *testing.T) { isLocked(t, o) })
	t.Run("nothing else does", func(t *testing.T) { isBound(t, o) })
	t.Run("a connection that hangs gives the lock back", func(t *testing.T) { hangs(t, o) })

	shell(t, folder, blocks(t, "Without the script"))
	o.BecomeRoot = true
	t.Run("Berth works without the script", func(t *testing.T) { works(t, o) })
	t.Run("one at a time without the script", func(t *testing.T) { isLocked(t, o) })
}

func repository(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func works(t *testing.T, o run.SSHOptions) {
	o.Lock = words("berth-zfs lock tank/kubernetes")
	b, err := zfs.Open(t.Context(), zfs.Options{Dataset: "tank/kubernetes", Runner: sshd.Connect(t, o)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	spec := volumetest.Spec(t, "pvc-1")
	spec.Owner = volume.Owner{UID: 1000, GID: 2000, Mode: 0o2770}
	v, err := b.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(v.Dir)
	if err != nil {
		t.Fatal(err)
	}
	stat := info.Sys().(*syscall.Stat_t)
	if stat.Uid != 1000 || stat.Gid != 2000 || stat.Mode&0o7777 != 0o2770 {
		t.Errorf("the volume is %d:%d %o", stat.Uid, stat.Gid, stat.Mode&0o7777)
	}
	if err := errors.Join(b.Discard(t.Context(), v.Name), b.Purge(t.Context(), v.Name)); err != nil {
		t.Error(err)
	}
}

func isLocked(t *testing.T, o run.SSHOptions) {
	o.Lock = words("berth-zfs lock tank/kubernetes")
	if _, err := sshd.Connect(t, o).Output(t.Context(), words("zfs list tank/kubernetes")); err != nil {
		t.Fatal(err)
	}
	if _, err := sshd.Connect(t, o).Output(t.Context(), words("zfs list tank/kubernetes")); err == nil || !strings.Contains(err.Error(), "another Berth") {
		t.Errorf("a second one got %v", err)
	}
}

func isBound(t *testing.T, o run.SSHOptions) {
	client := sshd.Connect(t, o)
	for _, argv := range [][]string{{"id"}, {"sh", "-c", "id"}, words("sudo -n -- id"), words("zfs destroy tank/other"), words("cat /etc/shadow"), words("zfs list")} {
		_, err := client.Output(t.Context(), argv)
		if exit, ok := errors.AsType[*run.ExitError](err); !ok || exit.Status != refused {
			t.Errorf("%q: %v", argv, err)
		}
	}
	// Nor does sudo let the account do more than the key.
	for _, command := range []string{"sudo -n id", "sudo -n /usr/local/sbin/berth-zfs tank", "sudo -n zfs list", "sudo -n /usr/local/sbin/berth-zfs"} {
		if out, err := exec.Command("setpriv", "--reuid=berth", "--regid=berth", "--clear-groups", "sh", "-c", command).CombinedOutput(); err == nil || !strings.Contains(string(out), "password is required") {
			t.Errorf("%q: %v: %s", command, err, out)
		}
	}
	if _, err := zfsfuse.Run("zfs", "list", "tank/other"); err != nil {
		t.Error(err)
	}
}

// hangs has the holder of the lock get no word from its client any more, as when the
// network breaks and nobody is told. It is a shorter time here that it waits.
func hangs(t *testing.T, o run.SSHOptions) {
	text, err := os.ReadFile("/usr/local/sbin/berth-zfs")
	if err != nil {
		t.Fatal(err)
	}
	hurried := strings.Replace(string(text), "\npatience=60 ", "\npatience=1 ", 1)
	if hurried == string(text) {
		t.Fatal("the script has no patience of 60 seconds")
	}
	script := filepath.Join(t.TempDir(), "berth-zfs")
	if err := os.WriteFile(script, []byte(hurried), 0o755); err != nil {
		t.Fatal(err)
	}
	silent := exec.Command(script, "tank/kubernetes")
	silent.Env = append(os.Environ(), "SSH_ORIGINAL_COMMAND="+run.Quote(words("berth-zfs lock tank/kubernetes")))
	mouth, err := silent.StdinPipe() // which stays open and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer mouth.Close()
	ears, err := silent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := silent.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, len("locked\n"))
	if _, err := ears.Read(said); err != nil || string(said) != "locked\n" {
		t.Fatalf("%q, %v", said, err)
	}
	o.Lock = words("berth-zfs lock tank/kubernetes")
	if _, err := sshd.Connect(t, o).Output(t.Context(), words("zfs list tank/kubernetes")); err == nil || !strings.Contains(err.Error(), "another Berth") {
		t.Errorf("got %v", err)
	}
	if err := silent.Wait(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	if _, err := sshd.Connect(t, o).Output(ctx, words("zfs list tank/kubernetes")); err != nil {
		t.Errorf("after that: %v", err)
	}
}
