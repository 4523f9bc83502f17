//go:build system

package overssh

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/backend/zfs"
	"github.com/berth-storage/berth/internal/run"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
	"github.com/berth-storage/berth/test/sshd"
	"github.com/berth-storage/berth/test/vm"
)

// account is one of the guest's that may run the server's script as root.
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
install -m 755 "$4" /usr/local/sbin/berth-zfs
cat >/etc/sudoers.d/storage <<end
Defaults!/usr/local/sbin/berth-zfs env_keep += "SSH_ORIGINAL_COMMAND"
$2 ALL = (root) NOPASSWD: /usr/local/sbin/berth-zfs
end
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
	bound, err := filepath.Abs("../../../deploy/zfs-server/berth-zfs")
	if err != nil {
		return "", err
	}
	_, err = vm.Here{}.Run(context.Background(), "sh", "-ec", script, "sh", keys, account, strconv.Itoa(sshPort), bound)
	return keys, err
})

// connect connects to the host of a pool, and has its lock.
func connect(t *testing.T, keys, parent string) *run.SSH {
	t.Helper()
	return sshd.Connect(t, run.SSHOptions{
		Host: "127.0.0.1", Port: sshPort, User: account, KeyFile: filepath.Join(keys, "key"),
		KnownHosts: filepath.Join(keys, "known_hosts"), Limit: 5 * time.Minute, Lock: []string{"berth-zfs", "lock", parent},
	})
}

// bind lets the key in for the script, as docs/zfs-ssh.md says, for one parent. Connections that
// are there stay what they are.
func bind(t *testing.T, keys, parent string) {
	t.Helper()
	vm.Sh(t, `echo "restrict,command=\"sudo -n /usr/local/sbin/berth-zfs $2\" $(cat "$1/key.pub")" >"$1/authorized_keys"`, keys, parent)
}

// The contract of backends, on OpenZFS of another host, with a key that is bound to the script.
func TestContractOverSSH(t *testing.T) {
	keys, err := startSSHD()
	if err != nil {
		t.Fatal(err)
	}
	parents, hosts := map[volume.Backend]string{}, map[volume.Backend]*run.SSH{}
	start := func(t *testing.T, parent string) volume.Backend {
		bind(t, keys, parent)
		h := connect(t, keys, parent)
		b, err := zfs.Open(t.Context(), zfs.Options{Dataset: parent, Runner: h, Sizing: volume.SizingQuota, Log: logger(t)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		parents[b], hosts[b] = parent, h
		return b
	}
	volumetest.Suite{
		Open: func(t *testing.T) volume.Backend { return start(t, vm.NewParent(t)) },
		Reopen: func(t *testing.T, b volume.Backend) volume.Backend {
			b.(*zfs.Backend).Close()
			hosts[b].Close()
			return start(t, parents[b])
		},
	}.Run(t)
}

// Each command takes several times as long as without ssh, so there are few steps; on zfs-fuse there are more.
func TestRandomClonesOverSSH(t *testing.T) {
	keys, err := startSSHD()
	if err != nil {
		t.Fatal(err)
	}
	parent := vm.NewParent(t)
	bind(t, keys, parent)
	b, err := zfs.Open(t.Context(), zfs.Options{Dataset: parent, Runner: connect(t, keys, parent), Sizing: volume.SizingQuota, Log: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	volumetest.Model(t, b, 3, 15)
	if left := vm.Sh(t, `zfs list -rHo name -t all "$1"`, parent); left != parent+"\n"+parent+"/.berth\n" {
		t.Errorf("what is left:\n%s", left)
	}
}

// Who has the key that is bound to the script gets at nothing else.
func TestKeyBoundToTheScript(t *testing.T) {
	keys, err := startSSHD()
	if err != nil {
		t.Fatal(err)
	}
	parent, other := vm.NewParent(t), vm.NewParent(t)
	bind(t, keys, parent)
	h := connect(t, keys, parent)
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
	if got := vm.Sh(t, `zfs list -rHo name "$1"`, other); got != other+"\n" {
		t.Errorf("the other pool is now\n%s", got)
	}
}
