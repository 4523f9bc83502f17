//go:build system

package zfs

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/run"
	"github.com/berth-storage/berth/test/vm"
)

// account is one of the guest's that may become root by sudo(8) for what pools of
// datasets need, and its keys.
const account = "storage"

// sshPort is the guest's sshd's.
const sshPort = 2222

// keys are the folder of a key, of the host's key and of its line in known_hosts.
var startSSHD = sync.OnceValues(func() (keys string, err error) {
	const script = `
cd "$1"
ssh-keygen -q -t ed25519 -N '' -f key
ssh-keygen -q -t ed25519 -N '' -f hostkey
echo "[127.0.0.1]:$3 $(cut -d ' ' -f 1,2 hostkey.pub)" >known_hosts
useradd --create-home "$2"
usermod --password '*' "$2"
echo "$2 ALL=(root) NOPASSWD: /usr/sbin/zfs, /sbin/zfs, /usr/bin/chown, /bin/chown, /usr/bin/chmod, /bin/chmod" >/etc/sudoers.d/storage
cat >sshd_config <<end
Port $3
ListenAddress 127.0.0.1
HostKey $1/hostkey
AuthorizedKeysFile $1/authorized_keys
StrictModes no
UsePAM no
end
mkdir -p /run/sshd
/usr/sbin/sshd -f sshd_config`
	if keys, err = os.MkdirTemp("", ""); err != nil {
		return "", err
	}
	if err := os.Chmod(keys, 0o755); err != nil {
		return "", err
	}
	_, err = vm.Here{}.Run(context.Background(), "sh", "-ec", script, "sh", keys, account, "2222")
	return keys, err
})

// authorize lets the key in, with options of authorized_keys.
func authorize(t *testing.T, keys, options string) {
	t.Helper()
	sh(t, `echo "$2 $(cat "$1/key.pub")" >"$1/authorized_keys"`, keys, options)
}

func connect(t *testing.T, keys string, lock ...string) *run.SSH {
	t.Helper()
	h, err := run.NewSSH(run.SSHOptions{
		Host: "127.0.0.1", Port: sshPort, User: account, KeyFile: filepath.Join(keys, "key"),
		KnownHosts: filepath.Join(keys, "known_hosts"), BecomeRoot: true, Limit: 5 * time.Minute, Lock: lock,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// Who has the key that is bound to the script gets at nothing else.
func TestKeyBoundToTheScript(t *testing.T) {
	keys, err := startSSHD()
	if err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs("../../deploy/zfs-server/berth-zfs")
	if err != nil {
		t.Fatal(err)
	}
	parent, other := newParent(t), newParent(t)
	authorize(t, keys, `restrict,command="/bin/sh `+script+` `+parent+`"`)
	h := connect(t, keys)
	if out, err := h.Output(t.Context(), []string{"zfs", "list", "-Ho", "name", parent}); err != nil || strings.TrimSpace(string(out)) != parent {
		t.Fatalf("listing the parent: %q, %v", out, err)
	}
	for _, argv := range [][]string{
		{"zfs", "create", other + "/v"}, {"zfs", "destroy", other}, {"zfs", "destroy", parent}, {"zfs", "list", other}, {"id"},
	} {
		if out, err := h.Output(t.Context(), argv); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%q gives %q, %v", argv, out, err)
		}
	}
	if got := sh(t, `zfs list -rHo name "$1"`, other); got != other+"\n" {
		t.Errorf("the other pool is now\n%s", got)
	}
}
