package ganesha

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/berth-storage/berth/internal/export"
)

// Fixed ports of the protocols beside NFSv3, so that a firewall or a Service can
// name them. They are those of nfs-provisioner's Service.
const (
	mountPort  = 20048
	lockPort   = 32803
	quotaPort  = 875
	statusPort = 662
)

// anonymousID is nobody and nogroup: what squashed users become. Ganesha's own
// default, 4294967294, is no id that a file system or container knows.
const anonymousID = 65534

// baseConfig is the configuration without exports; see ganesha-core-config(8)
// and ganesha-export-config(8). unused says that no client has anything to reclaim: they
// need not wait for each other then.
func baseConfig(o Options, unused bool) []byte {
	var b bytes.Buffer
	protocols, minor := "4", "0, 1, 2"
	if o.NFSv3 {
		protocols = "3, 4"
	}
	fmt.Fprintf(&b, "NFS_CORE_PARAM {\n\tNFS_Protocols = %s;\n\tNFS_Port = %d;\n", protocols, o.Port)
	if o.Listen != "" {
		fmt.Fprintf(&b, "\tBind_addr = %s;\n", o.Listen)
	}
	// With mount_path_pseudo NFSv3 clients mount the same path as NFSv4 ones.
	fmt.Fprintf(&b, "\tmount_path_pseudo = true;\n\tMNT_Port = %d;\n\tNLM_Port = %d;\n\tRquota_Port = %d;\n", mountPort, lockPort, quotaPort)
	fmt.Fprintf(&b, "\tEnable_NLM = %t;\n\tEnable_RQUOTA = false;\n", o.NFSv3)
	if o.DeviceFSIDs {
		b.WriteString("\tfsid_device = true;\n")
	}
	b.WriteString("}\n")

	fmt.Fprintf(&b, "NFSv4 {\n\tMinor_Versions = %s;\n\tDelegations = false;\n\tOnly_Numeric_Owners = true;\n", minor)
	fmt.Fprintf(&b, "\tRecoveryBackend = fs;\n\tRecoveryRoot = %s;\n", quote(o.recoveryDir()))
	if o.GracePeriod == 0 || unused {
		b.WriteString("\tGraceless = true;\n")
	}
	if o.GracePeriod != 0 {
		fmt.Fprintf(&b, "\tGrace_Period = %d;\n\tLease_Lifetime = %d;\n",
			int(o.GracePeriod/time.Second), int(lease(o.GracePeriod)/time.Second))
	}
	b.WriteString("}\nNFS_KRB5 {\n\tActive_krb5 = false;\n}\n")
	b.WriteString("LOG {\n\tDefault_Log_Level = EVENT;\n}\n")
	fmt.Fprintf(&b, "EXPORT_DEFAULTS {\n\tAccess_Type = RW;\n\tSquash = No_Root_Squash;\n\tSecType = sys;\n\tProtocols = %s;\n"+
		"\tTransports = TCP;\n\tAnonymous_Uid = %d;\n\tAnonymous_Gid = %d;\n}\n", protocols, anonymousID, anonymousID)
	return b.Bytes()
}

// lease is how long a client's state lives without a word from it. A client
// notices a restart when it renews, so the grace period has to be longer (RFC
// 7530 section 9.6.2); two thirds of it is the ratio of Ganesha's own defaults,
// 60 and 90 seconds. But Linux renews after five seconds at the earliest, and a
// client that comes too late gets EIO: Ganesha answers its SEQUENCE with
// NFS4ERR_EXPIRED, from which Linux does not recover.
func lease(grace time.Duration) time.Duration { return max(minLease, grace*2/3) }

// minLease leaves a busy client some seconds.
const minLease = 20 * time.Second

// exportBlock is the configuration of one export. Ganesha's parser looks each
// word up in a list of all words so far, so that the time to read n exports grows
// with n²: a block has as few words as possible, and what is the same for all
// stands in EXPORT_DEFAULTS. (With every option in every block 5,000 exports took
// 15 s to read; like this, 8 s.) The FSAL cannot stand there: without its name an
// export is passed over in silence. A Ganesha whose configuration is not ours has
// other defaults: a block that is alone says all of it.
func exportBlock(e export.Export, alone bool) ([]byte, error) {
	for _, path := range []string{e.Dir, e.Path} {
		if err := checkPath(path); err != nil {
			return nil, fmt.Errorf("%w: export %d: %w", export.ErrRefused, e.ID, err)
		}
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "EXPORT { Export_Id = %d; Path = %s; Pseudo = %s; Filesystem_Id = %s;", e.ID, quote(e.Dir), quote(e.Path), filesystemID(e.FSID))
	if alone {
		fmt.Fprintf(&b, " SecType = sys; Anonymous_Uid = %d; Anonymous_Gid = %d;", anonymousID, anonymousID)
	}
	switch {
	case e.Squash == export.SquashRoot:
		b.WriteString(" Squash = Root_Squash;")
	case alone:
		b.WriteString(" Squash = No_Root_Squash;")
	}
	access := "RW"
	if e.ReadOnly {
		access = "RO"
	}
	switch {
	case !e.Clients.All():
		fmt.Fprintf(&b, " Access_Type = None; CLIENT { Clients = %s; Access_Type = %s; }", strings.Join(e.Clients.List(), ", "), access)
	case alone, e.ReadOnly:
		fmt.Fprintf(&b, " Access_Type = %s;", access)
	}
	b.WriteString(" FSAL { Name = VFS; } }\n")
	return b.Bytes(), nil
}

// filesystemID gives an FSID as the two numbers that NFSv4 has for it (fsid4, RFC
// 7530 section 2.2.5). The top bits are cut so that they are positive for every reader.
func filesystemID(f export.FSID) string {
	const positive = 1<<63 - 1
	return fmt.Sprintf("%d.%d", binary.BigEndian.Uint64(f[:8])&positive, binary.BigEndian.Uint64(f[8:])&positive)
}

// checkPath refuses a path that cannot stand in the configuration. Whatever a
// record says, it never becomes configuration text.
func checkPath(path string) error {
	if !strings.HasPrefix(path, "/") || path == "/" {
		return fmt.Errorf("path %q is not below /", path)
	}
	if i := strings.IndexFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f || r == '"' || r == '\\' }); i >= 0 {
		return fmt.Errorf("path %q has the character %q, which Ganesha's configuration cannot express", path, path[i])
	}
	return nil
}

func quote(path string) string { return `"` + path + `"` }

// busConfig is the configuration of the private bus; see dbus-daemon(1). The
// socket lies in a folder that only Berth's user may enter, so the policy need
// not tell users apart.
func busConfig(socket string) []byte {
	return []byte(`<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=` + socket + `</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="org.ganesha.nfsd"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
`)
}
