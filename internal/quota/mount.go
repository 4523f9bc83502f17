package quota

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/berth-storage/berth/internal/mountinfo"
)

// UnavailableError says why a file system does not limit what trees take up, and what
// to do about it.
type UnavailableError struct {
	Reason string
	Remedy string // "" if nothing can be done where it is
	Err    error  // what the system said, or nil
}

func (e *UnavailableError) Error() string {
	if e.Remedy == "" {
		return e.Reason
	}
	return e.Reason + ". " + e.Remedy
}

func (e *UnavailableError) Unwrap() error { return e.Err }

// mount is where a file system is mounted, and what of.
type mount struct{ point, source string }

// mountOf gives the mount that dir was opened through. It is for people to read, and
// for old kernels; what cannot be found out stays empty.
func mountOf(dir *os.File) mount {
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", dir.Fd()))
	if err != nil {
		return mount{}
	}
	mounts, err := mountinfo.Read()
	if err != nil {
		return mount{}
	}
	for line := range strings.Lines(string(info)) {
		id, found := strings.CutPrefix(line, "mnt_id:")
		if i := slices.IndexFunc(mounts, func(m mountinfo.Mount) bool { return m.ID == strings.TrimSpace(id) }); found && i >= 0 {
			return mount{point: mounts[i].Point, source: mounts[i].Source}
		}
	}
	return mount{}
}

// remedy says how to have project quotas on a file system that has none, in words
// that can be copied.
func (m mount) remedy(kind string) string {
	if m.point == "" {
		m = mount{point: "MOUNTPOINT", source: "DEVICE"}
	}
	missing := fmt.Sprintf("%s (%s, %s) is mounted without the option prjquota.", m.point, kind, m.source)
	takes, features := " xfs takes it at the mount only, not at a remount", ""
	if kind == "ext4" {
		takes, features = " ext4 needs the features project and quota too", "tune2fs -O project,quota "+m.source
	}
	if m.point == "/" {
		if features != "" {
			features = "from a rescue system, " + features + "; then "
		}
		return missing + takes + ", and this is the root file system: " + features +
			"add rootflags=prjquota to the kernel's command line (GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub), and reboot"
	}
	if features != "" {
		features += " && "
	}
	return missing + takes + fmt.Sprintf(": umount %s && %smount -o prjquota %s %s, and the same option in /etc/fstab (of a container: on its host)",
		m.point, features, m.source, m.point)
}
